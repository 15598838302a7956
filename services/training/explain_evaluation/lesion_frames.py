"""Frames with a known lesion, as the model sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.training.dataset.cases import Case, DatasetError
from shared.errors import PermanentError
from shared.pixels import Frame, PixelLimits, read_frames, read_header
from shared.vision.transform import Letterbox, letterbox_box, letterboxed

_COVERED = 0.5  # of a pixel of the model's input: more of it is lesion


@dataclass(frozen=True, slots=True, eq=False)
class LesionFrame:
    """The frame of a study that shows most of its lesion.

    Attributes:
        study: The case's.
        patient: The virtual subject, which intervals go by.
        label: The study's true class.
        frame: Decoded.
        mask: bool (S, S), the lesion on the model's input.
        content: Where the frame lies there.
    """

    study: str
    patient: str
    label: str
    frame: Frame
    mask: NDArray[np.bool_]
    content: Letterbox

    @property
    def area(self) -> float:
        """Share of the frame that is lesion."""
        return float(self.mask.sum()) / (self.content.height * self.content.width)


def lesion_frames(cases: Iterable[Case], size_px: int, limits: PixelLimits) -> Iterator[LesionFrame]:
    """One frame of each case, read when it is asked for.

    Args:
        cases: Of findings, with exact masks.
        size_px: S.
        limits: Of what is decoded.

    Raises:
        DatasetError: a case has no mask, or cannot be read.
    """
    for case in cases:
        images = case.load()
        if not images.masks or not any(mask.any() for mask in images.masks):
            raise DatasetError(f"{case.study} has no lesion mask: maps cannot be compared with anything")
        index = int(np.argmax([mask.sum() for mask in images.masks]))
        try:
            frame = _frame_at(images.objects, index, limits)
        except PermanentError as error:
            raise DatasetError(f"{case.study}: {error}") from error
        height, width = frame.pixels.shape[:2]
        yield LesionFrame(
            study=case.study,
            patient=case.patient,
            label=case.label,
            frame=frame,
            mask=mask_on_input(images.masks[index], frame, size_px),
            content=letterbox_box(height, width, frame.pixel_aspect, size_px),
        )


def mask_on_input(mask: NDArray[np.bool_], frame: Frame, size_px: int) -> NDArray[np.bool_]:
    """A mask (H, W) of a frame on the model's (S, S) input. A lesion below half a pixel is the pixel with most of it.

    Raises:
        DatasetError: the mask is of another size than the frame.
    """
    if mask.shape != frame.pixels.shape[:2]:
        raise DatasetError(f"a mask of {mask.shape} does not fit a frame of {frame.pixels.shape[:2]}")
    share = letterboxed(Frame(mask.astype(np.float32), frame.number, frame.pixel_aspect), size_px)
    covered: NDArray[np.bool_] = share > min(_COVERED, float(share.max()) * (1 - 1e-6))
    return covered


def _frame_at(objects: tuple[bytes, ...], index: int, limits: PixelLimits) -> Frame:
    """The frame with this index among those of all objects."""
    first = 0
    for data in objects:
        count = read_header(data, limits=limits).number_of_frames
        if index < first + count:
            return read_frames(data, frame_numbers=[index - first + 1], limits=limits)[0]
        first += count
    raise DatasetError(f"there are {index + 1} masks or more, for {first} frames")
