"""The archive: where pixels, manifests, diagnoses and maps live. Events refer to it by key.

instances/<study>/<series>/<sop>.dcm            objects as received
manifests/<study>/<revision>.json               StudyManifest
diagnoses/<study>/<revision>/<task>.json        StudyDiagnosed
explanations/<study>/<revision>/<task>/<sop>-<frame>.{npy,png,json}
explanations/<study>/<revision>/<task>/<sop>-<frame>.<kind>.dcm   DICOM results of a map
explanations/<study>/<revision>/<task>/explained.json   StudyExplained
explanations/<study>/<revision>/<task>/request-<id>.<state>.json   what was asked for, and what came of it
labels/<study>/<task>/<target>/<sequence>-<time>-<id>.json   LabelRecord, see `shared.labels`

`open_archive` gives the one that the settings name: a folder (`LocalArchive`), or a bucket of an object store
(`shared.archive.object_store`, imported only when it is used). `MemoryArchive` is the working fake for tests.
"""

from shared.archive.keys import (
    check_key,
    diagnosis_key,
    explanation_key,
    explanation_request_key,
    instance_key,
    manifest_key,
)
from shared.archive.local import LocalArchive, fsync_folder
from shared.archive.memory import MemoryArchive
from shared.archive.opening import open_archive
from shared.archive.port import Archive

__all__ = [
    "Archive",
    "LocalArchive",
    "MemoryArchive",
    "check_key",
    "diagnosis_key",
    "explanation_key",
    "explanation_request_key",
    "fsync_folder",
    "instance_key",
    "manifest_key",
    "open_archive",
]
