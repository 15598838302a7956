"""DICOM objects and image files to display-ready frames."""

from shared.pixels.decode import iter_frames, read_frames
from shared.pixels.frame import Frame
from shared.pixels.header import ImageHeader, read_header
from shared.pixels.image_file import read_image
from shared.pixels.limits import PixelLimits

__all__ = ["Frame", "ImageHeader", "PixelLimits", "iter_frames", "read_frames", "read_header", "read_image"]
