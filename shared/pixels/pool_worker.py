"""A decode worker: `python -m shared.pixels.pool_worker SPEC`, started by `shared.pixels.pool_process`.

It reads jobs from a socket and answers with one line of JSON for each frame, the pixels in shared memory:

    <- {"path": P or null, "size_bytes": N, "sha256": H, "key": K, "frame_numbers": [...], ...}
    -> {"frame": 7, "slot": 0, "shape": [224, 224], "content": [16, 0, 192, 224], "aspect": 1.0, ...}
                                                                                 <- "+" (seen), or "." (seen; stop)
    -> {"failed": 8, "reason": "UndecodablePixelsError", "message": "..."}       <- the same
    -> {"done": true}  or  {"error": "NotAnImageError", "message": "..."}

Nothing but JSON crosses, so that a worker that a hostile image took over cannot hand code to the service.
The worker ends with its parent, at the latest when a decode has taken far longer than its time-out.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from dataclasses import astuple, dataclass
from pathlib import Path
from socket import socket
from typing import Any, Final

from shared.errors import PipelineError
from shared.pixels.limits import PixelLimits
from shared.pixels.pool_channel import Channel
from shared.pixels.pool_frames import DecodeRequest, PreparedFrame, prepared, read_source
from shared.pixels.pool_memory import SLOTS, FrameMemory, frame_memory, read_object

LONGEST_MESSAGE: Final = 500  # characters of an error's message
LONGEST_JOB_BYTES: Final = 1 << 30  # of JSON; the parent is trusted
GO_ON: Final = b"+"
STOP: Final = b"."

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker is told when it starts, as JSON in its first argument."""

    parent_pid: int
    socket: int
    slots: int
    object: int
    size_px: int | None
    timeout_s: float
    memory_bytes: int
    limits: dict[str, int]


def main() -> None:
    """Decode until the socket is closed."""
    spec = WorkerSpec(**json.loads(sys.argv[1]))
    _bind_to(spec.parent_pid)
    _limit(spec.memory_bytes)
    # The service decides when its workers end: a Ctrl-C or a stop of the whole group reaches it as well.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = Channel(socket(fileno=spec.socket), LONGEST_JOB_BYTES)
    limits = PixelLimits(**spec.limits)
    slots = frame_memory(spec.slots, spec.size_px, limits.max_frame_pixels)
    _send(connection, {"ready": True})
    while True:
        try:
            job = json.loads(connection.receive())
        except (EOFError, OSError):
            return
        with contextlib.suppress(BrokenPipeError):
            _work(job, spec, connection, slots, limits)


def _work(job: dict[str, Any], spec: WorkerSpec, connection: Channel, slots: FrameMemory, limits: PixelLimits) -> None:
    unseen = 0  # messages about frames that the parent has not answered yet
    slot = 0
    try:
        _alarm(spec)
        request = _request(job, spec)
        for item in prepared(request, read_source(request), spec.size_px, limits):
            if unseen == SLOTS:
                if connection.receive() == STOP:
                    _send(connection, {"done": True})
                    return
                unseen -= 1
            if isinstance(item, PreparedFrame):
                slots.put(slot, item.square)
                _send(connection, _described(item, slot))
                slot = (slot + 1) % SLOTS
            else:
                message = item.message[:LONGEST_MESSAGE]
                _send(connection, {"failed": item.number, "reason": item.reason, "message": message})
            unseen += 1
            _alarm(spec)
        answer: dict[str, Any] = {"done": True}
    except PipelineError as error:
        answer = {"error": type(error).__name__, "message": str(error)[:LONGEST_MESSAGE]}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    _send(connection, answer)
    while unseen and connection.receive() != STOP:
        unseen -= 1


def _described(frame: PreparedFrame, slot: int) -> dict[str, Any]:
    return {
        "frame": frame.number,
        "slot": slot,
        "shape": frame.square.shape,
        "content": astuple(frame.content),
        "aspect": frame.pixel_aspect,
        "notes": frame.notes,
        "seconds": frame.seconds,
    }


def _request(job: dict[str, Any], spec: WorkerSpec) -> DecodeRequest:
    source = Path(job["path"]) if job["path"] is not None else read_object(spec.object, job["size_bytes"])
    return DecodeRequest(
        job["key"],
        source,
        job["sha256"],
        tuple(job["frame_numbers"]),
        job["is_picture"],
        job["max_decoded_bytes"],
        job["evenly"],
    )


def _send(connection: Channel, message: dict[str, Any]) -> None:
    connection.send(json.dumps(message).encode())


def _alarm(spec: WorkerSpec) -> None:
    """End the process, even inside a decoder, long after the parent should have: it is stopped or gone then."""
    signal.setitimer(signal.ITIMER_REAL, 3 * spec.timeout_s + 60)


def _bind_to(parent_pid: int) -> None:
    """End when the parent ends, even inside a decoder that hangs (Linux); elsewhere the closed socket and the alarm."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        raise SystemExit(1)


def _limit(memory_bytes: int) -> None:
    # A core dump would put a patient's pixels on disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        # Short of memory, the kernel shall end a worker, not the service.
        Path("/proc/self/oom_score_adj").write_text("1000")
    if memory_bytes:
        with contextlib.suppress(OSError, ValueError):
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + memory_bytes
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
