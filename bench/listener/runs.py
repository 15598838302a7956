"""One run of each kind of work, on a receiver that was just started and warmed up."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.listener.errors import BenchmarkError
from bench.listener.launch import Running, running
from bench.listener.measure import watching
from bench.listener.objects import Study, shares
from bench.listener.receivers import Receiver
from bench.listener.requestor import association, is_open
from bench.listener.results import IdleRun, LargeObjectRun, Plan, SetupRun, StoreRun
from bench.listener.senders import Sent, send

_SETTLE_S: Final = 0.2
"""What a receiver still does after its last answer is its cost as well."""
_SAMPLE_S: Final = 0.1
_SAMPLE_LARGE_S: Final = 0.01
"""More often: a process for one association is gone soon after its one object."""
_SETUPS_AT_ONCE: Final = 2
_IDLE_TIMEOUT_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Bench:
    """Where runs find their room and their first objects."""

    plan: Plan
    folder: Path
    """On the disk to be measured."""
    warm_up: Sequence[Study]

    def store(
        self, receiver: Receiver, block: int, studies: Sequence[Study], associations: int, *, no_delay: bool
    ) -> StoreRun:
        """Send `studies` over `associations` at once.

        Raises:
            BenchmarkError: the receiver did not start, refused an object, or does not have all of them.
        """
        objects = sum(study.objects for study in studies)
        with self._warm(receiver, no_delay=no_delay) as target, watching(target.tree, every_s=_SAMPLE_S) as peaks:
            cpu_s = target.tree.cpu_s()
            sent = self._send(target, shares(studies, associations), no_delay=no_delay)
            cpu_s = _settled_cpu_s(target) - cpu_s
            stored = self._stored(target, objects)
        return StoreRun(
            block=block,
            receiver=receiver.name,
            no_delay=no_delay,
            associations=associations,
            objects=objects,
            stored=stored,
            wall_s=sent.wall_s,
            objects_per_s=objects / sent.wall_s,
            receiver_cpu_ms_per_object=cpu_s * 1e3 / objects,
            sender_cpu_ms_per_object=sent.cpu_s * 1e3 / objects,
            peak_rss_bytes=peaks.rss_bytes,
        )

    def set_up(self, receiver: Receiver, block: int, studies: Sequence[Study]) -> SetupRun:
        """Send each of `studies`, of one small object, over an association of its own."""
        with self._warm(receiver) as target:
            cpu_s = target.tree.cpu_s()
            wall_s = sum(
                self._send(target, [[study] for study in studies[first : first + _SETUPS_AT_ONCE]]).wall_s
                for first in range(0, len(studies), _SETUPS_AT_ONCE)
            )
            cpu_s = _settled_cpu_s(target) - cpu_s
            stored = self._stored(target, len(studies))
        return SetupRun(
            block=block,
            receiver=receiver.name,
            associations=len(studies),
            stored=stored,
            wall_s=wall_s,
            receiver_cpu_ms_per_association=cpu_s * 1e3 / len(studies),
        )

    def large_object(self, receiver: Receiver, block: int, study: Study) -> LargeObjectRun:
        """Send one large object, and see what the receiver holds of it in memory."""
        size_bytes = sum(file.stat().st_size for file in study.folder.iterdir())
        with self._warm(receiver) as target:
            cpu_s = target.tree.cpu_s()
            with watching(target.tree, every_s=_SAMPLE_LARGE_S) as peaks:
                before = target.tree.memory()
                sent = self._send(target, [[study]])
                cpu_s = _settled_cpu_s(target) - cpu_s
            stored = self._stored(target, 1)
        return LargeObjectRun(
            block=block,
            receiver=receiver.name,
            size_bytes=size_bytes,
            stored=stored,
            wall_s=sent.wall_s,
            receiver_cpu_s=cpu_s,
            peak_rss_growth_bytes=peaks.growth_bytes(before),
        )

    def idle(self, receiver: Receiver, block: int) -> IdleRun:
        """Open associations one after the other, then watch them say nothing."""
        wished = self.plan.idle_associations
        with self._warm(receiver) as target, contextlib.ExitStack() as stack:
            cpu_percent_before = self._cpu_percent(target)
            pss_bytes, rss_bytes = target.tree.pss_bytes(), _rss_bytes(target)
            cpu_s = target.tree.cpu_s()
            connections = []
            for _ in range(wished):
                with contextlib.suppress(BenchmarkError, OSError):
                    connections.append(stack.enter_context(association(target.address, timeout_s=_IDLE_TIMEOUT_S)))
            cpu_s = _settled_cpu_s(target) - cpu_s
            cpu_percent = self._cpu_percent(target)
            pss_bytes, rss_bytes = target.tree.pss_bytes() - pss_bytes, _rss_bytes(target) - rss_bytes
            established = sum(is_open(connection) for connection in connections)
            for connection in connections:
                # Releasing 200 associations is not measured, so none waits for an answer.
                connection.settimeout(0)
        return IdleRun(
            block=block,
            receiver=receiver.name,
            associations=wished,
            established=established,
            setup_cpu_ms_per_association=cpu_s * 1e3 / wished,
            pss_growth_bytes=pss_bytes,
            rss_growth_bytes=rss_bytes,
            cpu_percent_before=cpu_percent_before,
            cpu_percent=cpu_percent,
        )

    @contextlib.contextmanager
    def _warm(self, receiver: Receiver, *, no_delay: bool = True) -> Iterator[Running]:
        """A new receiver on an empty folder of the disk, that has had a few objects over each of some associations."""
        with (
            tempfile.TemporaryDirectory(dir=self.folder, prefix=f"{receiver.name}-") as name,
            running(receiver.title, receiver.launch(Path(name)), Path(name), no_delay=no_delay) as target,
        ):
            self._send(target, [[study] for study in self.warm_up], no_delay=no_delay)
            self._stored(target, 0)
            # What others have not written yet, such as the objects of a receiver without fsync, is not charged here.
            os.sync()
            yield target

    def _send(self, target: Running, by_association: Sequence[Sequence[Study]], *, no_delay: bool = True) -> Sent:
        return send(by_association, target.address, no_delay=no_delay, timeout_s=self.plan.timeout_s)

    def _stored(self, target: Running, since_warm_up: int) -> int:
        """Objects kept since the warm-up: every one that was answered with Success."""
        warm_up = sum(study.objects for study in self.warm_up)
        kept = target.stored()
        if kept != warm_up + since_warm_up:
            raise BenchmarkError(f"{warm_up + since_warm_up} objects were sent with Success, {kept} are kept")
        return kept - warm_up

    def _cpu_percent(self, target: Running) -> float:
        started_s, cpu_s = time.monotonic(), target.tree.cpu_s()
        time.sleep(self.plan.idle_s)
        return 100 * (target.tree.cpu_s() - cpu_s) / (time.monotonic() - started_s)


def _settled_cpu_s(target: Running) -> float:
    time.sleep(_SETTLE_S)
    return target.tree.cpu_s()


def _rss_bytes(target: Running) -> int:
    return sum(memory.rss_bytes for memory in target.tree.memory().values())
