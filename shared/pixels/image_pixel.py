"""The Image Pixel module (PS3.3 section C.7.6.3): how the stored values of an object are laid out."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom import Dataset

from shared.errors import UndecodablePixelsError
from shared.pixels.frame_count import number_of_frames

RGB_NAMES = ("RGB", "YBR_RCT", "YBR_ICT")
"""Colour that a decoder gives as RGB (PS3.3 section C.7.6.3.1.2): the last two are JPEG 2000's own transforms."""
YBR_FULL_NAMES = ("YBR_FULL", "YBR_FULL_422")
YBR_PARTIAL_NAMES = ("YBR_PARTIAL_422", "YBR_PARTIAL_420")
_COLOUR = (*RGB_NAMES, *YBR_FULL_NAMES, *YBR_PARTIAL_NAMES)
_GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
# Only these may be named in an error: any other text in the element may be anything. PS3.3 section C.7.6.3.1.2.
_RETIRED = ("HSV", "ARGB", "CMYK", "XYB")


@dataclass(frozen=True, slots=True)
class ImagePixel:
    """The attributes that give stored values their shape and type.

    Attributes:
        keyword: The element that holds the pixels: PixelData, FloatPixelData or DoubleFloatPixelData.
        frames: Number of frames, at least 1.
        high_bit: The highest used bit of a cell; `stored` - 1 in every object that follows PS3.5 section 8.1.1.
        is_planar: The samples of a native frame come plane by plane.
    """

    keyword: str
    rows: int
    columns: int
    frames: int
    samples: int
    allocated: int
    stored: int
    high_bit: int
    is_signed: bool
    is_planar: bool
    photometric: str

    @classmethod
    def of(cls, dataset: Dataset, keyword: str) -> ImagePixel:
        """Those of a data set whose pixels are in the element `keyword`.

        Raises:
            UndecodablePixelsError: values that PS3.3 section C.7.6.3 does not allow.
        """
        rows, columns = dataset.get("Rows"), dataset.get("Columns")
        if rows is None or columns is None:
            raise UndecodablePixelsError("pixels without Rows and Columns")
        samples = int(dataset.get("SamplesPerPixel") or 1)
        if keyword == "PixelData":
            if (bits := dataset.get("BitsAllocated")) is None:
                raise UndecodablePixelsError("pixels without Bits Allocated")
            allocated = int(bits)
            stored = int(dataset.get("BitsStored") or allocated)
        else:
            allocated = stored = 32 if keyword == "FloatPixelData" else 64
        high_bit = dataset.get("HighBit")
        photometric = str(dataset.get("PhotometricInterpretation") or ("MONOCHROME2" if samples == 1 else "RGB"))
        image = cls(
            keyword=keyword,
            rows=int(rows),
            columns=int(columns),
            frames=number_of_frames(dataset),
            samples=samples,
            allocated=allocated,
            stored=stored,
            high_bit=stored - 1 if high_bit is None else int(high_bit),
            is_signed=bool(dataset.get("PixelRepresentation")) and keyword == "PixelData",
            is_planar=dataset.get("PlanarConfiguration") == 1 and samples > 1,
            photometric=photometric.strip(),
        )
        image._check()
        return image

    @property
    def bytes_per_pixel(self) -> int:
        """Of the largest array that is made of a pixel on the way to a frame: float32 in the end."""
        # A palette makes three samples of one.
        samples = 3 if self.photometric == "PALETTE COLOR" else self.samples
        return samples * max(4, self.allocated // 8)

    def _check(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise UndecodablePixelsError(f"an image of {self.rows} x {self.columns} pixels")
        if self.allocated not in (1, 8, 16, 32, 64):
            raise UndecodablePixelsError(f"{self.allocated} bits allocated are not supported")
        if not 1 <= self.stored <= self.allocated:
            raise UndecodablePixelsError(f"{self.stored} bits stored in {self.allocated} allocated")
        names = _COLOUR if self.samples == 3 else _GREY if self.samples == 1 else ()
        if self.photometric not in names:
            is_known = self.photometric in (*_COLOUR, *_GREY, *_RETIRED)
            named = self.photometric if is_known else "this photometric interpretation"
            raise UndecodablePixelsError(f"{named} with {self.samples} samples per pixel is not supported")
