"""What a study holds: objects verified against the manifest, in spatial order, and the frames to use."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from shared.archive import Archive
from shared.errors import ArchiveObjectCorruptError, NotAnImageError, OversizedPixelsError, UndecodablePixelsError
from shared.events import SkippedInstance
from shared.manifest import InstanceEntry, SeriesEntry, StudyManifest
from shared.pixels import ImageHeader, PixelLimits, read_header

MAX_DETAIL: Final = 300  # characters of an error's text in an event


@dataclass(frozen=True, slots=True)
class Image:
    """One image object of the study."""

    series: SeriesEntry
    instance: InstanceEntry
    header: ImageHeader


@dataclass(frozen=True, slots=True)
class ChosenImage:
    """An image and its frames to use, from 1, ascending."""

    image: Image
    frame_numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """The study's images, one tuple a series, each in spatial order; and what is none, or cannot be read."""

    series: tuple[tuple[Image, ...], ...]
    skipped: tuple[SkippedInstance, ...]


def survey_study(
    manifest: StudyManifest, archive: Archive, limits: PixelLimits, on_progress: Callable[[], None]
) -> Survey:
    """Read every object once: check its hash, parse its header. One object is in memory at a time.

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
            data = read_verified(archive, instance)
            if instance.number_of_frames == 0:
                skipped.append(skip_of(instance, NotAnImageError("no image object")))
                continue
            try:
                images.append(Image(entry, instance, read_header(data, limits=limits)))
            except (NotAnImageError, UndecodablePixelsError) as error:
                skipped.append(skip_of(instance, error))
        if images:
            series.append(_in_spatial_order(images))
    return Survey(tuple(series), tuple(skipped))


def read_verified(archive: Archive, instance: InstanceEntry) -> bytes:
    """An object's bytes, checked against the manifest's hash.

    Raises:
        ArchiveObjectMissingError, ArchiveObjectCorruptError, ArchiveUnavailableError: as `survey_study`.
    """
    data = archive.get(instance.archive_key)
    if hashlib.sha256(data).hexdigest() != instance.sha256:
        raise ArchiveObjectCorruptError(f"{instance.archive_key} does not have the sha256 of its manifest")
    return data


def choose_frames(images: Sequence[Image], limit: int) -> tuple[ChosenImage, ...]:
    """At most `limit` frames of a series, evenly over its extent, the first and the last among them."""
    every = [(image, number) for image in images for number in range(1, image.header.number_of_frames + 1)]
    numbers: dict[int, list[int]] = {}
    chosen: dict[int, Image] = {}
    for index in evenly(len(every), limit):
        image, number = every[index]
        numbers.setdefault(id(image), []).append(number)
        chosen[id(image)] = image
    return tuple(ChosenImage(image, tuple(numbers[key])) for key, image in chosen.items())


def evenly(count: int, limit: int) -> list[int]:
    """At most `limit` of the indices below `count`, evenly spread; with two or more, both ends are among them."""
    if count <= limit:
        return list(range(count))
    if limit == 1:
        return [count // 2]
    return [int(index) for index in np.rint(np.linspace(0, count - 1, limit))]


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
