"""Synthetic studies in an archive, as the listener leaves them, and a task with a made-up head."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from pydicom import FileMetaDataset
from pydicom.dataset import FileDataset
from pydicom.uid import EnhancedSRStorage, ExplicitVRLittleEndian, MRImageStorage

from shared.archive import Archive, instance_key, manifest_key
from shared.events import StudyReceived
from shared.manifest import InstanceEntry, SeriesEntry, StudyManifest
from shared.vision.heads import LinearHead
from shared.vision.tasks import Task, TaskDefinition

STUDY = "1.2.826.1"
WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def dicom(
    sop: str, *, seed: int = 0, position: float = 0.0, frames: int = 1, size: int = 40, image_type: str = "PRIMARY"
) -> bytes:
    """A small MR object of textured noise."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = sop
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, sop
    dataset.Modality, dataset.PatientID = "MR", "PHANTOM-1"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", image_type]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [0, 0, position]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = size
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    if frames > 1:
        dataset.NumberOfFrames = frames
    pixels = np.random.default_rng(seed).integers(0, 4096, (frames, size, size)).astype("<u2")
    dataset.PixelData = pixels.tobytes()
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def report(sop: str) -> bytes:
    """A structured report: no image."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = EnhancedSRStorage
    meta.MediaStorageSOPInstanceUID = sop
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = EnhancedSRStorage, sop, "SR"
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@dataclass
class SeriesSpec:
    """A series to archive: data by SOP Instance UID, and how many frames each has (0: no image)."""

    objects: dict[str, bytes]
    frames: dict[str, int] = field(default_factory=dict)
    uid: str = "1.2.826.1.1"
    modality: str = "MR"
    body_part: str | None = "BRAIN"


def slices(count: int, *, prefix: str = "1.2.826.1.1", seed: int = 0) -> SeriesSpec:
    """A series of single-frame slices; their UIDs are in the reverse of their spatial order."""
    return SeriesSpec(
        {
            f"{prefix}.{count - n}": dicom(f"{prefix}.{count - n}", seed=seed + n, position=float(n))
            for n in range(count)
        },
        uid=prefix,
    )


def archive_study(
    archive: Archive,
    *series: SeriesSpec,
    study: str = STUDY,
    revision: int = 1,
    pseudonyms: Sequence[str] = ("p-1",),
) -> StudyReceived:
    """Put a study and its manifest into the archive; the event that announces it."""
    entries = []
    for spec in series:
        instances = []
        for sop, data in spec.objects.items():
            key = instance_key(study, spec.uid, sop)
            archive.put(key, data)
            frames = spec.frames.get(sop, 1)
            instances.append(
                InstanceEntry(
                    sop_instance_uid=sop,
                    sop_class_uid=MRImageStorage if frames else EnhancedSRStorage,
                    transfer_syntax_uid=ExplicitVRLittleEndian,
                    archive_key=key,
                    size_bytes=len(data),
                    sha256=hashlib.sha256(data).hexdigest(),
                    number_of_frames=frames,
                    patient_pseudonym=pseudonyms[0],
                    sex="F",
                    age_band="60-69",
                    is_new=True,
                )
            )
        entries.append(
            SeriesEntry(
                series_instance_uid=spec.uid,
                modality=spec.modality,
                body_part=spec.body_part,
                instances=tuple(instances),
            )
        )
    manifest = StudyManifest(
        study_instance_uid=study,
        revision=revision,
        created_at=WHEN,
        study_date="20240229",
        calling_ae_titles=("TEST",),
        patient_pseudonyms=tuple(pseudonyms),
        mixed_patients=len(pseudonyms) > 1,
        series=tuple(entries),
    )
    key = manifest_key(study, revision)
    archive.put(key, manifest.model_dump_json().encode())
    count = sum(len(spec.objects) for spec in series)
    return StudyReceived(
        event_id=StudyReceived.identify(study, revision),
        occurred_at=WHEN,
        study_instance_uid=study,
        revision=revision,
        manifest_key=key,
        patient_pseudonyms=manifest.patient_pseudonyms,
        mixed_patients=manifest.mixed_patients,
        modalities=tuple(sorted({spec.modality for spec in series})),
        instance_count=count,
        new_instance_count=count,
        frame_count=sum(instance.number_of_frames for _, instance in manifest.instances()),
    )


def made_up_task(
    backbone_id: str, dim: int, *, name: str = "brain-mr", bias: tuple[float, float] = (0.0, 3.0), **definition: object
) -> Task:
    """A two-class task whose head says `lesion` or `normal` by its bias alone, but for a little noise."""
    weight = np.random.default_rng(5).normal(0, 1e-4, (2, 4 * dim)).astype(np.float32)
    head = LinearHead(
        task=name,
        labels=("normal", "lesion"),
        weight=weight,
        bias=np.array(bias, np.float32),
        feature_mean=np.zeros(4 * dim, np.float32),
        feature_scale=np.ones(4 * dim, np.float32),
        temperature=1.0,
        backbone_id=backbone_id,
    )
    return Task(
        TaskDefinition.model_validate(
            {
                "name": name,
                "title": "made up",
                "modalities": ["MR"],
                "body_parts": ["BRAIN", "HEAD"],
                "classes": [{"label": "normal", "is_finding": False}, {"label": "lesion", "is_finding": True}],
                **definition,
            }
        ),
        head,
        {},
    )
