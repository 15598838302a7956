"""DICOM objects and image files to display-ready frames."""

from shared.pixels.decode import iter_frames, read_each, read_frames
from shared.pixels.frame import Frame, FrameError
from shared.pixels.header import ImageHeader, read_header
from shared.pixels.image_file import read_image
from shared.pixels.limits import PixelLimits

__all__ = [
    "Frame",
    "FrameError",
    "ImageHeader",
    "PixelLimits",
    "iter_frames",
    "read_each",
    "read_frames",
    "read_header",
    "read_image",
]
