"""What may be labelled, and with what."""

from __future__ import annotations

from shared.labels.errors import (
    MixedPatientsError,
    NotTakenError,
    UnknownClassError,
    UnknownFrameError,
    UnknownInstanceError,
    UnknownSeriesError,
)
from shared.labels.record import LabelTarget
from shared.manifest import InstanceEntry, SeriesEntry, StudyManifest
from shared.vision.tasks import TaskDefinition


def checked_target(definition: TaskDefinition, manifest: StudyManifest, target: LabelTarget, label: str) -> LabelTarget:
    """`target`, with its series filled in, if `label` may be given to it.

    Raises:
        LabelRefusedError: one of its kinds says why not.
    """
    if label not in {entry.label for entry in definition.classes}:
        classes = ", ".join(entry.label for entry in definition.classes)
        raise UnknownClassError(f"The classes of {definition.name} are {classes}.")
    if manifest.mixed_patients:
        raise MixedPatientsError("The study's objects name different patients.")
    meant = _instances(manifest, target)
    if not any(definition.takes(series, instance) for series, instance in meant):
        raise NotTakenError(f"{definition.name} takes no image of this, by its modality, body part or SOP class.")
    if target.sop_instance_uid is None:
        return target
    return target.model_copy(update={"series_instance_uid": meant[0][0].series_instance_uid})


def _instances(manifest: StudyManifest, target: LabelTarget) -> list[tuple[SeriesEntry, InstanceEntry]]:
    """The SOP instances that `target` covers."""
    found = list(manifest.instances())
    if target.series_instance_uid is not None:
        found = [entry for entry in found if entry[0].series_instance_uid == target.series_instance_uid]
        if not found:
            raise UnknownSeriesError("The study has no series with this UID.")
    if target.sop_instance_uid is not None:
        found = [entry for entry in found if entry[1].sop_instance_uid == target.sop_instance_uid]
        if not found:
            raise UnknownInstanceError("The study, or its series, has no object with this UID.")
        if (target.frame_number or 1) > max(found[0][1].number_of_frames, 1):
            raise UnknownFrameError(f"This object has {found[0][1].number_of_frames} frames.")
    return found
