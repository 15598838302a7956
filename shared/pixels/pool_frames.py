"""From an archived object to squares ready for the model: what is asked of a decoder, and what it gives.

`DecodeInProcess` does the work in the caller's thread; `shared.pixels.pool` does the same in worker processes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.archive.integrity import check_sha256
from shared.errors import ArchiveObjectMissingError, ArchiveUnavailableError, TransientError
from shared.pixels.decode import read_each
from shared.pixels.frame import FrameError
from shared.pixels.limits import PixelLimits
from shared.vision.transform import letterboxed

# Reasons of a FrameError that only a worker process knows; the others are the names of errors.
DIED: Final = "DecoderDied"
TIMED_OUT: Final = "DecodeTimedOut"


class DecodersUnavailableError(TransientError):
    """The decode workers do not start, or the pool is closed."""


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """An object and its frames to decode.

    Attributes:
        key: Its archive key, for messages.
        source: Where its DICOM Part-10 bytes lie, or the bytes.
        sha256: What they must hash to (hex).
        frame_numbers: From 1, ascending.
    """

    key: str
    source: Path | bytes
    sha256: str
    frame_numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PreparedFrame:
    """A decoded, windowed and letterboxed frame.

    Attributes:
        number: Its frame number within the SOP instance, from 1.
        square: float32 in [0, 1], (S, S) for grey or (S, S, 3) for RGB.
        notes: As of `Frame`.
        seconds: What decoding and resampling took.
    """

    number: int
    square: NDArray[np.float32]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


DecodedObject = Iterator[PreparedFrame | FrameError]
"""An object's frames in the order asked for; each is there or says why not.

To iterate raises what concerns the whole object:

    ArchiveObjectMissingError, ArchiveUnavailableError   its bytes cannot be read
    ArchiveObjectCorruptError                            they are not those of the manifest
    NotAnImageError, UndecodablePixelsError, OversizedPixelsError   as `read_each`
    DecodersUnavailableError                             the pool is closed, or its workers do not start
"""


class FrameDecoder(Protocol):
    """What turns archived objects into squares."""

    def objects(self, requests: Iterable[DecodeRequest]) -> Generator[DecodedObject, None, None]:
        """The decoded objects, one for each request and in their order. Use up each before the next.

        `requests` is read a few ahead. Closing the iterator ends the work under way.
        """

    def close(self) -> None:
        """Let go of what the decoder holds; readers that still wait get a DecodersUnavailableError."""


@dataclass(frozen=True, slots=True)
class DecodeInProcess:
    """Decodes in the caller's thread: no time-out, and a decoder that crashes takes the process along."""

    size_px: int
    limits: PixelLimits

    def objects(self, requests: Iterable[DecodeRequest]) -> Generator[DecodedObject, None, None]:
        """As `FrameDecoder.objects`."""
        return (self._object(request) for request in requests)

    def close(self) -> None:
        """Nothing."""

    def _object(self, request: DecodeRequest) -> DecodedObject:
        yield from decoded(read_source(request), request.frame_numbers, self.size_px, self.limits)


def read_source(request: DecodeRequest) -> bytes:
    """The object's bytes, checked.

    Raises:
        ArchiveObjectMissingError, ArchiveUnavailableError: they cannot be read.
        ArchiveObjectCorruptError: they are not those of the manifest.
    """
    data = request.source
    if isinstance(data, Path):
        try:
            data = data.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ArchiveObjectMissingError(f"nothing is archived at {request.key}") from None
        except OSError as error:
            raise ArchiveUnavailableError(f"cannot read {request.key}: {error.strerror}") from None
    check_sha256(request.key, hashlib.sha256(data).hexdigest(), request.sha256)
    return data


def decoded(data: bytes, frame_numbers: tuple[int, ...], size_px: int, limits: PixelLimits) -> DecodedObject:
    """The frames of the object in `data`, one at a time; raises as `read_each`."""
    started = time.perf_counter()
    for frame in read_each(data, frame_numbers, limits=limits):
        if isinstance(frame, FrameError):
            yield frame
        else:
            square = letterboxed(frame, size_px)
            yield PreparedFrame(frame.number, square, frame.notes, time.perf_counter() - started)
        started = time.perf_counter()
