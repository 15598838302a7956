"""A pool of decode worker processes: a decoder may hang, crash or run out of memory without harm to the service.

Most decoders hold the GIL for a whole frame, which would freeze the service's Kafka heartbeat; and they are C and
C++ code that reads untrusted bytes. So each object is decoded in a worker process (spawned, never forked), which
gives its frames back through shared memory:

    objects() ─▶ queue ─▶ a thread for each worker ═socket, shared memory═▶ worker process

A worker that ends or takes too long is killed and replaced. The frame it was at is reported as a FrameError; the
object's other frames are decoded by the next worker, until the object has cost `LOSSES_PER_OBJECT` workers.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import replace
from types import TracebackType
from typing import Final, Protocol, Self

from shared.errors import ConfigurationError, PipelineError, UndecodablePixelsError
from shared.pixels.frame import FrameError
from shared.pixels.pool_frames import (
    DIED,
    TIMED_OUT,
    DecodedObject,
    DecodeRequest,
    DecodersUnavailableError,
    PreparedFrame,
)
from shared.pixels.pool_process import (
    START_TIMEOUT_S,
    DecodeProcess,
    ObjectNotBegunError,
    WorkerLostError,
    WorkerOptions,
)

LOSSES_PER_OBJECT: Final = 2
START_TRIES: Final = 3

# Frames of one object that wait for their reader; with the objects read ahead this bounds the memory.
_FRAMES_WAITING: Final = 8
_POLL_S: Final = 0.2

_WHAT_HAPPENED: Final = {DIED: "the decoder died", TIMED_OUT: "the decoder timed out"}


class PoolObserver(Protocol):
    """Told of what happens in a pool, from its threads."""

    def queued(self, objects: int) -> None:
        """So many objects wait for a worker or are with one."""

    def worker_replaced(self, reason: str) -> None:
        """A worker is replaced: `DIED` or `TIMED_OUT`."""


class SilentObserver:
    """Tells nobody."""

    def queued(self, objects: int) -> None:
        """Nothing."""

    def worker_replaced(self, reason: str) -> None:
        """Nothing."""


class DecodePool:
    """A `FrameDecoder` in worker processes; for any number of threads at once."""

    def __init__(self, options: WorkerOptions, workers: int, observer: PoolObserver | None = None) -> None:
        """Start the workers and wait for them: seconds.

        Raises:
            ConfigurationError: they do not start, for instance for want of memory under the options' limit.
        """
        self._observer = observer or SilentObserver()
        self._queue: queue.Queue[_Pending | None] = queue.Queue()
        self._ahead = workers + 1
        self._count_guard = threading.Lock()
        self._count = 0
        self._closing = threading.Event()
        self._lanes = [_Lane(options, self._queue, self._observer, self._closing) for _ in range(workers)]
        deadline = time.monotonic() + START_TRIES * START_TIMEOUT_S
        if not all(lane.started.wait(max(0.0, deadline - time.monotonic())) and lane.is_ready for lane in self._lanes):
            self.close()
            raise ConfigurationError("the decode workers do not start; is their memory limit too small?")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pids(self) -> tuple[int, ...]:
        """The workers' process ids at this moment."""
        return tuple(process.pid for lane in self._lanes if (process := lane.process) is not None)

    def objects(self, requests: Iterable[DecodeRequest]) -> Generator[DecodedObject, None, None]:
        """As `FrameDecoder.objects`."""
        coming = iter(requests)
        pending: deque[_Pending] = deque()
        try:
            while True:
                while len(pending) < self._ahead and (request := next(coming, None)) is not None:
                    pending.append(self._submit(request))
                if not pending:
                    return
                yield pending[0].items()
                self._release(pending.popleft())
        finally:
            for left in pending:
                self._release(left)

    def close(self) -> None:
        """End the workers and whatever waits for them. Safe to repeat."""
        self._closing.set()
        for lane in self._lanes:
            self._queue.put(None)
            lane.interrupt()
        for lane in self._lanes:
            lane.join()

    def _submit(self, request: DecodeRequest) -> _Pending:
        pending = _Pending(request, self._closing)
        self._note(1)
        self._queue.put(pending)
        return pending

    def _release(self, pending: _Pending) -> None:
        pending.cancelled.set()
        self._note(-1)

    def _note(self, change: int) -> None:
        with self._count_guard:
            self._count += change
            self._observer.queued(self._count)


class _Pending:
    """An object on its way through the pool."""

    def __init__(self, request: DecodeRequest, closing: threading.Event) -> None:
        self.request = request
        self.cancelled = threading.Event()
        self._closing = closing
        self._items: queue.Queue[PreparedFrame | FrameError | Exception | None] = queue.Queue(_FRAMES_WAITING)

    def put(self, item: PreparedFrame | FrameError | Exception | None) -> bool:
        """Hand an item, an error or the end to the reader; False if there is none any more."""
        while not (self.cancelled.is_set() or self._closing.is_set()):
            with contextlib.suppress(queue.Full):
                self._items.put(item, timeout=_POLL_S)
                return True
        return False

    def items(self) -> DecodedObject:
        """What was put, until the end."""
        while True:
            try:
                item = self._items.get(timeout=_POLL_S)
            except queue.Empty:
                if self._closing.is_set():
                    raise DecodersUnavailableError("the decode pool is closed") from None
                if self.cancelled.is_set():
                    raise RuntimeError("this object was left for the next one") from None
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item


class _Lane:
    """A thread, and the worker that it speaks to."""

    def __init__(
        self,
        options: WorkerOptions,
        jobs: queue.Queue[_Pending | None],
        observer: PoolObserver,
        closing: threading.Event,
    ) -> None:
        self._options = options
        self._jobs = jobs
        self._observer = observer
        self._closing = closing
        self.process: DecodeProcess | None = None
        self.started = threading.Event()
        self.is_ready = False
        # The thread starts the worker and outlives it: the kernel ends a worker with the thread that started it.
        self._thread = threading.Thread(target=self._run, name="decode-lane", daemon=True)
        self._thread.start()

    def interrupt(self) -> None:
        """Let a decode under way fail now."""
        if (process := self.process) is not None:
            process.interrupt()

    def join(self) -> None:
        """Wait until the thread and the worker have ended."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self._ensure()
            self.is_ready = True
        except DecodersUnavailableError:
            return
        finally:
            self.started.set()
        try:
            while not self._closing.is_set() and (pending := self._jobs.get()) is not None:
                if pending.cancelled.is_set():
                    continue
                try:
                    self._serve(pending)
                except PipelineError as error:
                    pending.put(error)
                except Exception as error:  # noqa: BLE001 - it must reach the reader, who waits
                    self._drop()
                    pending.put(error)
        finally:
            self._drop()

    def _serve(self, pending: _Pending) -> None:
        left = list(pending.request.frame_numbers)
        losses = not_begun = 0
        while not self._closing.is_set():
            process = self._ensure()
            if pending.cancelled.is_set():  # its reader left at the first lost frame
                return
            try:
                frames = process.frames(replace(pending.request, frame_numbers=tuple(left)))
                for item in frames:
                    if item.number in left:
                        left.remove(item.number)
                    if not pending.put(item):
                        frames.close()
                        return
                break
            except WorkerLostError as lost:
                self._drop()
                if self._closing.is_set():
                    return
                self._observer.worker_replaced(lost.reason)
                if isinstance(lost, ObjectNotBegunError):
                    not_begun += 1
                    if not_begun == START_TRIES:
                        raise DecodersUnavailableError("the decode workers take no object") from None
                    continue
                if pending.request.evenly is not None:  # which frames are left only the worker knew
                    raise UndecodablePixelsError(_WHAT_HAPPENED[lost.reason]) from None
                losses += 1
                if not left:
                    break
                # Frames come in order, so that the first one left is the one it was at.
                given_up = left if losses == LOSSES_PER_OBJECT else left[:1]
                left = left[len(given_up) :]
                for number in given_up:
                    message = f"frame {number}: {_WHAT_HAPPENED[lost.reason]}"
                    if not pending.put(FrameError(number, lost.reason, message)):
                        return
                if not left:
                    break
        pending.put(None)

    def _ensure(self) -> DecodeProcess:
        """The worker, started if there is none or it has ended since its last object."""
        if self.process is not None and not self.process.is_alive:
            self._drop()
            self._observer.worker_replaced(DIED)
        for _ in range(START_TRIES):
            if self.process is not None:
                return self.process
            if self._closing.is_set():
                break
            try:
                self.process = DecodeProcess(self._options)
                self.process.wait_until_ready()
            except WorkerLostError:
                self._drop()
        if self.process is None:
            raise DecodersUnavailableError("a decode worker does not start")
        return self.process

    def _drop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
