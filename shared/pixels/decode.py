"""DICOM objects to frames: limits, decoding, then colour or the grey-scale pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from pydicom.uid import UID

from shared.errors import UndecodablePixelsError
from shared.pixels.attributes import FrameAttributes
from shared.pixels.codecs import decode_frame
from shared.pixels.colour import to_rgb
from shared.pixels.encapsulation import EncapsulatedFrames, encapsulated_frames
from shared.pixels.frame import Frame, FrameError
from shared.pixels.grey import display_values
from shared.pixels.header import ImageObject, guarded, open_image, registered_name, transfer_syntax
from shared.pixels.image_pixel import ImagePixel
from shared.pixels.limits import PixelLimits
from shared.pixels.native import native_frame
from shared.pixels.palette import palette_colours


def read_frames(data: bytes, *, frame_numbers: Sequence[int] | None = None, limits: PixelLimits) -> list[Frame]:
    """Frames of the image in DICOM Part-10 bytes, ready for display.

    Args:
        data: The whole file.
        frame_numbers: Which frames, from 1, in this order; None: all. Only these are decoded.
        limits: Checked by the header, and by the header inside each compressed frame, before decoding.

    Raises:
        NotAnImageError: not DICOM, or an object without pixels.
        OversizedPixelsError: a limit is exceeded.
        UndecodablePixelsError: damaged, truncated, or in an encoding that cannot be decoded; names both the
            transfer syntax and the frame.
    """
    return list(iter_frames(data, frame_numbers=frame_numbers, limits=limits))


def iter_frames(data: bytes, *, frame_numbers: Sequence[int] | None = None, limits: PixelLimits) -> Iterator[Frame]:
    """As `read_frames`, with one decoded frame in memory at a time."""
    image = _OpenedImage.of(data, frame_numbers, limits)
    for number in image.wanted:
        if number > image.pixel.frames or number < 1:
            raise UndecodablePixelsError(f"the object has {image.pixel.frames} frames, not a frame {number}")
    for number in image.wanted:
        yield image.frame(number)


def read_each(
    data: bytes, frame_numbers: Sequence[int] | None = None, *, limits: PixelLimits
) -> Iterator[Frame | FrameError]:
    """As `iter_frames`, but a frame that cannot be read is reported in its place and the rest goes on.

    Raises:
        NotAnImageError, OversizedPixelsError, UndecodablePixelsError: as `read_frames`, of the object as a whole.
    """
    image = _OpenedImage.of(data, frame_numbers, limits)
    for number in image.wanted:
        result: Frame | FrameError
        try:
            result = image.frame(number)
        except UndecodablePixelsError as error:
            result = FrameError(number, type(error).__name__, str(error))
        yield result


@dataclass(frozen=True)
class _OpenedImage:
    """An object that was parsed once, whose frames are decoded one by one."""

    source: ImageObject
    syntax: UID
    pixel: ImagePixel
    encapsulated: EncapsulatedFrames | None
    wanted: Sequence[int]
    limits: PixelLimits

    @classmethod
    def of(cls, data: bytes, frame_numbers: Sequence[int] | None, limits: PixelLimits) -> _OpenedImage:
        source = open_image(data, limits)
        syntax = UID("")
        with guarded("header"):
            syntax = transfer_syntax(source.dataset)
        with guarded(_name(syntax)):
            pixel = ImagePixel.of(source.dataset, source.keyword)
            wanted = range(1, pixel.frames + 1) if frame_numbers is None else tuple(frame_numbers)
            limits.check(
                rows=pixel.rows, columns=pixel.columns, bytes_per_pixel=pixel.bytes_per_pixel, frames=len(wanted)
            )
            encapsulated = None
            if source.length is None:
                encapsulated = _encapsulated(source, pixel.frames, _name(syntax))
        return cls(source, syntax, pixel, encapsulated, wanted, limits)

    def frame(self, number: int) -> Frame:
        """Decode frame `number`, from 1; every failure names the transfer syntax and the frame."""
        where = f"{_name(self.syntax)}, frame {number}"
        try:
            with guarded(where):
                return self._frame(number)
        except UndecodablePixelsError as error:
            if str(error).startswith(where):
                raise
            raise type(error)(f"{where}: {error}") from None

    def _frame(self, number: int) -> Frame:
        if not 1 <= number <= self.pixel.frames:
            raise UndecodablePixelsError(f"the object has {self.pixel.frames} frames")
        dataset = self.source.dataset
        attributes = FrameAttributes.of(dataset, number)
        pixels, photometric = self._stored(number)
        notes: tuple[str, ...] = ()
        if photometric == "PALETTE COLOR":
            shown = palette_colours(pixels, dataset, is_little_endian=attributes.is_little_endian)
        elif self.pixel.samples == 3:
            shown = to_rgb(pixels, photometric, self.pixel)
        else:
            shown, notes = display_values(pixels, attributes)
        return Frame(shown, number, attributes.pixel_aspect, notes)

    def _stored(self, number: int) -> tuple[NDArray[Any], str]:
        if self.encapsulated is not None:
            return decode_frame(self.encapsulated.frame(number), self.syntax, self.pixel, self.limits)
        if self.syntax.is_encapsulated:
            raise UndecodablePixelsError("pixel data that should be encapsulated is not")
        is_little_endian = self.source.dataset.original_encoding[1] is not False
        # PS3.5 section A.3: bytes in words of 16 bits, so the first of each pair comes last.
        is_word_swapped = not is_little_endian and self.source.vr == "OW"
        pixels = native_frame(
            self.source.value,
            self.pixel,
            number,
            is_little_endian=is_little_endian,
            is_word_swapped=is_word_swapped,
        )
        return pixels, self.pixel.photometric


def _encapsulated(source: ImageObject, frames: int, syntax: str) -> EncapsulatedFrames:
    try:
        return encapsulated_frames(source.data, source.value_at, frames, source.dataset)
    except UndecodablePixelsError as error:
        raise UndecodablePixelsError(f"{syntax}: {error}") from None


def _name(syntax: UID) -> str:
    return registered_name(syntax, "an unknown transfer syntax")
