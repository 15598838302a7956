"""Whole frames of one object at a time, decoded where a hostile image does no harm: what query and explainer use.

bytes ─▶ FrameReader.read ─▶ decode pool (started by the first read) ─▶ frames, or the first error
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Self

from shared.errors import ConfigurationError, OversizedPixelsError, UndecodablePixelsError
from shared.pixels.frame import Frame, FrameError
from shared.pixels.limits import PixelLimits
from shared.pixels.pool import DecodePool, PoolObserver
from shared.pixels.pool_frames import DecodeInProcess, DecodeRequest, DecodersUnavailableError, FrameDecoder
from shared.pixels.pool_process import WorkerOptions


class FrameReader:
    """Reads frames by a decoder that is opened when the first is wanted. For any number of threads at once."""

    def __init__(self, open_decoder: Callable[[], FrameDecoder]) -> None:
        """Nothing is opened yet; the decoder must keep frames whole."""
        self._open_decoder = open_decoder
        self._guard = threading.Lock()
        self._decoder: FrameDecoder | None = None
        self._closed = False

    @classmethod
    def in_process(cls, limits: PixelLimits) -> Self:
        """Decodes in the caller's thread: no time-out, and a decoder that crashes takes the process along."""
        return cls(lambda: DecodeInProcess(None, limits))

    @classmethod
    def in_workers(cls, options: WorkerOptions, workers: int, observer: PoolObserver | None = None) -> Self:
        """Decodes in so many worker processes; 0: as `in_process`. The options' `size_px` must be None."""
        if not workers:
            return cls.in_process(options.limits)
        return cls(lambda: DecodePool(options, workers, observer))

    def start(self) -> None:
        """Open the decoder now, which may take seconds.

        Raises:
            ConfigurationError: the workers do not start.
            DecodersUnavailableError: the reader is closed.
        """
        with self._guard:
            if self._closed:
                raise DecodersUnavailableError("the reader of frames is closed")
            if self._decoder is None:
                self._decoder = self._open_decoder()

    def read(
        self,
        data: bytes,
        frame_numbers: Sequence[int] = (1,),
        *,
        key: str = "the file",
        sha256: str | None = None,
        is_picture: bool = False,
        max_decoded_bytes: int | None = None,
        evenly: int | None = None,
    ) -> list[Frame]:
        """These frames, in this order. Blocks; per frame at most the pool's time-out.

        Args:
            data: DICOM Part-10 bytes, or those of a PNG or JPEG file.
            frame_numbers: From 1, ascending.
            key: What messages call the object.
            sha256: As of `DecodeRequest`, as are `is_picture` and `max_decoded_bytes`.
            evenly: Instead of `frame_numbers`: at most so many of the DICOM object's frames, evenly, with both ends.

        Raises:
            NotAnImageError, OversizedPixelsError, UndecodablePixelsError: as `read_frames`. A frame that cost a worker
                is undecodable, too.
            ArchiveObjectCorruptError: the bytes do not have the hash.
            DecodersUnavailableError: the workers do not start, or the reader is closed.
        """
        numbers = () if evenly is not None else tuple(frame_numbers)
        request = DecodeRequest(key, data, sha256, numbers, is_picture, max_decoded_bytes, evenly)
        frames = []
        with contextlib.closing(self._opened().objects([request])) as objects:
            for item in next(objects):
                if isinstance(item, FrameError):
                    raise _error(item)
                frames.append(Frame(item.square, item.number, item.pixel_aspect, item.notes))
        return frames

    def close(self) -> None:
        """End the workers; whoever waits gets a DecodersUnavailableError. Safe to repeat."""
        with self._guard:
            self._closed = True
            decoder, self._decoder = self._decoder, None
        if decoder is not None:
            decoder.close()

    def _opened(self) -> FrameDecoder:
        decoder = self._decoder
        while decoder is None:
            try:
                self.start()
            except ConfigurationError as error:
                raise DecodersUnavailableError(str(error)) from error
            decoder = self._decoder
        return decoder


def _error(failed: FrameError) -> UndecodablePixelsError:
    kind = OversizedPixelsError if failed.reason == OversizedPixelsError.__name__ else UndecodablePixelsError
    return kind(failed.message)
