"""The viewing order of a series: by position along the slice normal (PS3.3 C.7.6.2.1.1)."""

from __future__ import annotations

from collections.abc import Sequence

from shared.archive import Archive
from shared.errors import PermanentError
from shared.manifest import InstanceEntry
from shared.pixels import PixelLimits, read_header

Place = tuple[float | None, int | None]


def viewing_order(
    archive: Archive, instances: Sequence[InstanceEntry], *, most: int, limits: PixelLimits
) -> tuple[InstanceEntry, ...]:
    """The images among `instances`: by position if all have one, else by Instance Number, else as they are.

    A series of more than `most` objects keeps the manifest's order: its headers would take too long to read.
    """
    images = [instance for instance in instances if instance.number_of_frames]
    if len(images) < 2 or len(images) > most:
        return tuple(images)
    places = [_place(archive, instance, limits) for instance in images]
    by_position = all(position is not None for position, _ in places)
    if not by_position and any(number is None for _, number in places):
        return tuple(images)
    order = sorted(range(len(images)), key=lambda at: (places[at][0 if by_position else 1] or 0, places[at][1] or 0))
    return tuple(images[at] for at in order)


def _place(archive: Archive, instance: InstanceEntry, limits: PixelLimits) -> Place:
    try:
        header = read_header(archive.get(instance.archive_key), limits=limits)
    except PermanentError:
        return None, None  # a damaged or missing object costs only the order
    return header.position_mm, header.instance_number
