"""Limits that are checked before anything is decoded: a small file can claim, or inflate to, a huge image."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import OversizedPixelsError
from shared.settings import VisionSettings


@dataclass(frozen=True, slots=True)
class PixelLimits:
    """What one object may cost.

    Attributes:
        max_frame_pixels: Rows x columns of a frame.
        max_decoded_bytes: Of all frames read in one call; also of an inflated data set.
        max_frames: Frames read in one call.
    """

    max_frame_pixels: int = 64_000_000
    max_decoded_bytes: int = 2_000_000_000
    max_frames: int = 10_000

    @classmethod
    def of(cls, settings: VisionSettings) -> PixelLimits:
        """The limits that the settings name."""
        return cls(
            max_frame_pixels=settings.max_frame_pixels,
            max_decoded_bytes=settings.max_decoded_bytes,
            max_frames=settings.max_frames_per_object,
        )

    def check(self, *, rows: int, columns: int, bytes_per_pixel: int = 4, frames: int = 1) -> None:
        """Refuse what exceeds a limit.

        Raises:
            OversizedPixelsError: it does.
        """
        for what, value, limit in (
            ("pixels in a frame", rows * columns, self.max_frame_pixels),
            ("frames", frames, self.max_frames),
            ("decoded bytes", rows * columns * bytes_per_pixel * frames, self.max_decoded_bytes),
        ):
            if value > limit:
                raise OversizedPixelsError(f"{value} {what} exceed the limit of {limit}")
