"""One decode worker, seen from the service: start it, give it an object, take its frames, end it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from socket import socketpair
from typing import Any, Final

import shared
from shared import errors
from shared.pixels.frame import FrameError
from shared.pixels.limits import PixelLimits
from shared.pixels.pool_channel import Channel
from shared.pixels.pool_frames import DIED, TIMED_OUT, DecodeRequest, PreparedFrame
from shared.pixels.pool_memory import anonymous_file, frame_memory, new_frame_memory, shrink_object, write_object
from shared.pixels.pool_worker import GO_ON, STOP, WorkerSpec
from shared.vision.transform import Letterbox

START_TIMEOUT_S: Final = 60.0
LONGEST_MESSAGE_BYTES: Final = 64 * 1024

_KEPT_VARIABLES: Final = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV")

_ERRORS: Final = {
    error.__name__: error
    for error in (
        errors.ArchiveObjectMissingError,
        errors.ArchiveUnavailableError,
        errors.ArchiveObjectCorruptError,
        errors.NotAnImageError,
        errors.UndecodablePixelsError,
        errors.OversizedPixelsError,
    )
}


class WorkerLostError(Exception):
    """The worker ended or did not answer in time; it is to be replaced.

    Attributes:
        reason: `DIED` or `TIMED_OUT`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ObjectNotBegunError(WorkerLostError):
    """The worker was lost before it was given the object, which therefore is not to blame."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What every worker of a pool is started with.

    Attributes:
        size_px: Side of the squares that frames are letterboxed into; None: they stay whole.
        command: The program; its last argument will be the specification.
        memory_bytes: Address space that a worker may take beyond what it has at its start; 0: no limit.
    """

    size_px: int | None
    limits: PixelLimits
    timeout_s: float
    memory_bytes: int
    command: tuple[str, ...] = (sys.executable, "-P", "-m", "shared.pixels.pool_worker")


class DecodeProcess:
    """A worker process. Used by one thread at a time; its starter must live as long as it (prctl(2))."""

    def __init__(self, options: WorkerOptions) -> None:
        """Start it, without waiting for it.

        Raises:
            WorkerLostError: the system is short of something; nothing is left behind.
        """
        self._options = options
        size_px = options.size_px
        try:
            with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
                our_end, their_end = socketpair()
                ours.callback(our_end.close)
                theirs.callback(their_end.close)
                slots = new_frame_memory(size_px)
                theirs.callback(os.close, slots)
                self._object = anonymous_file(0, fixed=False)
                ours.callback(os.close, self._object)
                # Whole frames are read through the descriptor, squares through a map of it.
                kept = os.dup(slots) if size_px is None else slots
                self._slots = frame_memory(kept, size_px, options.limits.max_frame_pixels)
                ours.callback(self._slots.close)
                spec = WorkerSpec(
                    parent_pid=os.getpid(),
                    socket=their_end.fileno(),
                    slots=slots,
                    object=self._object,
                    size_px=size_px,
                    timeout_s=options.timeout_s,
                    memory_bytes=options.memory_bytes,
                    limits=asdict(options.limits),
                )
                self._process = subprocess.Popen(
                    [*options.command, json.dumps(asdict(spec))],
                    pass_fds=(their_end.fileno(), slots, self._object),
                    stdin=subprocess.DEVNULL,
                    # A decoder's own messages may quote the image's header.
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=_environment(),
                )
                self._channel = Channel(our_end, LONGEST_MESSAGE_BYTES)
                self._release = ours.pop_all()
        except OSError:  # no process, memory or descriptor to be had
            raise WorkerLostError(DIED) from None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait_until_ready(self) -> None:
        """Return once it can take an object.

        Raises:
            WorkerLostError: it ended, or took longer than `START_TIMEOUT_S`.
        """
        self._receive(START_TIMEOUT_S)

    def frames(self, request: DecodeRequest) -> Generator[PreparedFrame | FrameError, None, None]:
        """The object's frames, as `DecodedObject`. Closed early, the worker stops after at most two more frames.

        Raises:
            ObjectNotBegunError: it cannot be given the object.
            WorkerLostError: it ended, a frame took longer than `timeout_s`, or it gave others than were asked for. All
                it had sent was given before.
        """
        try:
            self._begin(request)
        except WorkerLostError as lost:
            raise ObjectNotBegunError(lost.reason) from None
        due, chosen = list(request.frame_numbers), 0
        while True:
            answer = self._receive(self._options.timeout_s)
            if "error" in answer:
                raise _ERRORS.get(str(answer["error"]), errors.UndecodablePixelsError)(str(answer["message"]))
            if "done" in answer:
                if due or (request.evenly and not chosen):
                    raise WorkerLostError(DIED)
                break
            item = self._item(answer)
            # A worker that a hostile image took over could give frames without end.
            if item.number in due:
                due.remove(item.number)
            elif chosen < (request.evenly or 0):
                chosen += 1
            else:
                raise WorkerLostError(DIED)
            try:
                yield item
            except GeneratorExit:
                self._stop()
                raise
            # A worker that is gone may have sent more before it ended: read on, up to the end.
            with contextlib.suppress(WorkerLostError):
                self._send(GO_ON)
        shrink_object(self._object)
        self._slots.shrink()

    def interrupt(self) -> None:
        """End it at once, from any thread; the one that waits for it gets a WorkerLostError."""
        self._process.kill()

    def kill(self) -> None:
        """End it at once and let go of everything it had."""
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._release.close()

    def _begin(self, request: DecodeRequest) -> None:
        source = request.source
        path, size_bytes = (str(source), 0) if isinstance(source, Path) else (None, len(source))
        if isinstance(source, bytes):
            write_object(self._object, source)
        job = {
            "path": path,
            "size_bytes": size_bytes,
            "sha256": request.sha256,
            "key": request.key,
            "frame_numbers": request.frame_numbers,
            "is_picture": request.is_picture,
            "max_decoded_bytes": request.max_decoded_bytes,
            "evenly": request.evenly,
        }
        self._send(json.dumps(job).encode())

    def _item(self, answer: dict[str, Any]) -> PreparedFrame | FrameError:
        try:
            if "failed" in answer:
                return FrameError(int(answer["failed"]), str(answer["reason"]), str(answer["message"]))
            square = self._slots.take(int(answer["slot"]), tuple(int(length) for length in answer["shape"]))
            notes = tuple(str(note) for note in answer["notes"])
            content = Letterbox(*(int(edge) for edge in answer["content"])).checked(max(square.shape[:2]))
            seconds, aspect = float(answer["seconds"]), _ratio(answer["aspect"])
            return PreparedFrame(int(answer["frame"]), square, content, notes, seconds, aspect)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise WorkerLostError(DIED) from None

    def _stop(self) -> None:
        """Tell it to leave the object, and read what it still sends: it is then ready for the next one."""
        deadline = time.monotonic() + self._options.timeout_s
        try:
            self._send(STOP)
            while not {"done", "error"} & self._receive(max(0.0, deadline - time.monotonic())).keys():
                pass
        except WorkerLostError:
            self._process.kill()
            self._process.wait()  # so that it is found dead, and replaced, before its next object

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        try:
            answer = json.loads(self._channel.receive(timeout_s))
        except TimeoutError:
            raise WorkerLostError(TIMED_OUT) from None
        except (EOFError, OSError, ValueError):
            raise WorkerLostError(DIED) from None
        if not isinstance(answer, dict):
            raise WorkerLostError(DIED)
        return answer

    def _send(self, data: bytes) -> None:
        try:
            self._channel.send(data, self._options.timeout_s)
        except TimeoutError:
            raise WorkerLostError(TIMED_OUT) from None
        except OSError:
            raise WorkerLostError(DIED) from None


def _ratio(value: Any) -> float:
    """A worker's word for a positive number; ValueError if it is none."""
    if not 0 < (ratio := float(value)) < math.inf:
        raise ValueError("not a ratio")
    return ratio


def _environment() -> dict[str, str]:
    """What a worker needs of the environment, no secret among it; this package found first, one thread a library."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT_VARIABLES}
    root = str(Path(shared.__file__).resolve().parent.parent)
    found = os.pathsep.join(part for part in (root, kept.get("PYTHONPATH")) if part)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**kept, **threads, "PYTHONPATH": found}
