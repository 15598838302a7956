"""The archived diagnoses that a backbone's points carry."""

from __future__ import annotations

import contextlib

from pydantic import ValidationError

from shared.archive import Archive
from shared.errors import ArchiveObjectMissingError
from shared.events import StudyDiagnosed
from shared.ids import point_id


def newest_diagnosed(
    archive: Archive, study_instance_uid: str, backbone_id: str, *, by_any: bool = False
) -> tuple[StudyDiagnosed, ...]:
    """The diagnoses of the newest revision that this backbone embedded; another's points lie elsewhere.

    With `by_any`, of the newest revision that any backbone embedded: this one's, or else the latest other one's, told
    of this one's points. So a backbone that judges nothing carries what was judged before it or beside it.

    Raises:
        ArchiveUnavailableError: the archive could not be read just now.
    """
    by_revision: dict[int, list[str]] = {}
    for key in archive.list(f"diagnoses/{study_instance_uid}"):
        if (revision := key.split("/")[2]).isdigit():
            by_revision.setdefault(int(revision), []).append(key)
    for number in sorted(by_revision, reverse=True):
        found = []
        for key in by_revision[number]:
            with contextlib.suppress(ArchiveObjectMissingError, ValidationError):
                found.append(StudyDiagnosed.model_validate_json(archive.get(key)))
        if ours := tuple(event for event in found if event.backbone_id == backbone_id):
            return ours
        if by_any and found:
            latest = max(found, key=lambda event: event.occurred_at).backbone_id
            return tuple(_told_of(event, backbone_id) for event in found if event.backbone_id == latest)
    return ()


def _told_of(event: StudyDiagnosed, backbone_id: str) -> StudyDiagnosed:
    """The diagnosis with the evidence that it names among another backbone's points."""
    evidence = tuple(
        frame.model_copy(update={"point_id": point_id(backbone_id, frame.sop_instance_uid, frame.frame_number)})
        for frame in event.evidence
    )
    return event.model_copy(update={"backbone_id": backbone_id, "evidence": evidence})
