"""What a study holds: objects verified against the manifest, in spatial order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from services.embedder.study_objects import StudyObjects
from shared.errors import NotAnImageError, OversizedPixelsError, UndecodablePixelsError
from shared.events import MAX_DETAIL, SkippedInstance
from shared.manifest import InstanceEntry, SeriesEntry, StudyManifest
from shared.own_results import is_own_result, may_be_own_result
from shared.pixels import ImageHeader, PixelLimits, read_header
from shared.pixels.frame_tags import tag_matches

TagValue = tuple[str, str]
"""A DICOM keyword, and the value that a frame must have."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image object of the study.

    Attributes:
        matches: For each tag value that some task selects by: whether each frame has it.
    """

    series: SeriesEntry
    instance: InstanceEntry
    header: ImageHeader
    matches: Mapping[TagValue, tuple[bool, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Survey:
    """The study's images, one tuple a series, each in spatial order; and what is none, or cannot be read."""

    series: tuple[tuple[Image, ...], ...]
    skipped: tuple[SkippedInstance, ...]


def survey_study(
    manifest: StudyManifest,
    objects: StudyObjects,
    limits: PixelLimits,
    on_progress: Callable[[], None],
    tags: Collection[TagValue] = (),
) -> Survey:
    """Read every object once: check its hash, parse its header.

    Raises:
        ArchiveObjectMissingError: an object of the manifest is not in the archive.
        ArchiveObjectCorruptError: an object's bytes are not those that were received.
        ArchiveUnavailableError: the archive could not be read just now.
    """
    series: list[tuple[Image, ...]] = []
    skipped: list[SkippedInstance] = []
    for entry in manifest.series:
        images = []
        for instance in entry.instances:
            on_progress()
            data = objects.verified(instance)
            if may_be_own_result(instance.sop_class_uid) and is_own_result(data):
                skipped.append(skip_of(instance, NotAnImageError("a result of Similis itself")))
                continue
            if instance.number_of_frames == 0:
                skipped.append(skip_of(instance, NotAnImageError("no image object")))
                continue
            try:
                header = read_header(data, limits=limits)
                matches = {tag: tag_matches(data, *tag, limits=limits) for tag in tags}
                images.append(Image(entry, instance, header, matches))
            except (NotAnImageError, UndecodablePixelsError) as error:
                skipped.append(skip_of(instance, error))
        if images:
            series.append(_in_spatial_order(images))
    return Survey(tuple(series), tuple(skipped))


def skip_of(instance: InstanceEntry, error: NotAnImageError | UndecodablePixelsError) -> SkippedInstance:
    """How an event tells that an object was left out."""
    reason: Literal["not-an-image", "undecodable", "too-large"] = "undecodable"
    if isinstance(error, NotAnImageError):
        reason = "not-an-image"
    elif isinstance(error, OversizedPixelsError):
        reason = "too-large"
    return SkippedInstance(sop_instance_uid=instance.sop_instance_uid, reason=reason, detail=str(error)[:MAX_DETAIL])


def _in_spatial_order(images: list[Image]) -> tuple[Image, ...]:
    """By position where every image has one, else by Instance Number; the UID makes it definite."""
    by_position = all(image.header.position_mm is not None for image in images)

    def key(image: Image) -> tuple[float, int, str]:
        position = image.header.position_mm if by_position else None
        return (position or 0.0, image.header.instance_number or 0, image.instance.sop_instance_uid)

    return tuple(sorted(images, key=key))
