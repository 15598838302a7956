"""Several threads' requests in one queue, so that studies that are explained at the same time share batches."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from shared.saliency.maps import Outcome, Request, Unforeseen
from shared.saliency.methods import MapMaker


class SharedQueue:
    """Runs a map maker in one thread for callers in any. A map does not depend on what else is in the queue.

    The thread starts with the first request and ends when there is none left.
    """

    def __init__(self, maker: MapMaker, progress: Callable[[], None] = lambda: None) -> None:
        """Nothing runs yet.

        Args:
            maker: What makes the maps.
            progress: Called after each forward pass, in the queue's thread. What it raises reaches all who wait.
        """
        self._maker, self._progress = maker, progress
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Request, Future[Outcome]]] = deque()
        self._is_running = False

    def explain(self, requests: Sequence[Request]) -> list[Outcome]:
        """The outcomes of `requests`, in their order. Blocks until they are there.

        Raises:
            Exception: what nobody foresaw, of one of these requests; or what `progress` or a forward pass raised, which
                reaches all who have images in the queue: memory ran out, say.
        """
        futures = [Future[Outcome]() for _ in requests]
        with self._lock:
            self._waiting.extend(zip(requests, futures, strict=True))
            if futures and not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="saliency", daemon=True).start()
        return [future.result() for future in futures]

    def _run(self) -> None:
        taken: deque[Future[Outcome]] = deque()

        def upcoming() -> Request | None:
            with self._lock:
                if not self._waiting:
                    return None
                request, future = self._waiting.popleft()
            taken.append(future)
            return request

        while True:
            try:
                for ended in self._maker.run(upcoming, self._progress):
                    if isinstance(ended, Unforeseen):
                        taken.popleft().set_exception(ended.error)
                    else:
                        taken.popleft().set_result(ended)
            except BaseException as error:  # noqa: BLE001  (each waiting thread raises it)
                for future in taken:
                    future.set_exception(error)
                taken.clear()
            with self._lock:
                if not self._waiting:
                    self._is_running = False
                    return
