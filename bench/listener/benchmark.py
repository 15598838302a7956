"""The whole benchmark: blocks of runs in which every receiver has its turn."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from bench.listener import machine
from bench.listener.errors import BenchmarkError, NotInstalledError
from bench.listener.measure import probe_disk_ms
from bench.listener.objects import SMALL_SIDE_PX, write_large_object, write_studies
from bench.listener.receivers import Receiver
from bench.listener.results import (
    DiskProbe,
    Failure,
    IdleRun,
    LargeObjectRun,
    Plan,
    ReceiverFound,
    Results,
    Run,
    SetupRun,
    StoreRun,
    Work,
)
from bench.listener.runs import Bench

_WARM_UP_STUDIES: Final = 4
_WARM_UP_OBJECTS: Final = 8

Progress = Callable[[Run, Work], None]


def measure(plan: Plan, known: dict[str, Receiver], *, checkout: Path, folder: Path, progress: Progress) -> Results:
    """Do all of `plan` below `folder`, which must be empty and on the disk to be measured.

    Raises:
        BenchmarkError: no receiver is installed.
        NotInstalledError: there is no storescu.
    """
    started_s = time.monotonic()
    made_at = datetime.now(UTC).isoformat(timespec="seconds")
    receivers, found, skipped = _installed([known[name] for name in plan.receivers])
    commit, is_modified = machine.commit(checkout)
    turns = _Turns(plan, folder, receivers, progress)
    turns.take()
    runs = turns.runs
    return Results(
        made_at=made_at,
        duration_s=time.monotonic() - started_s,
        commit=commit,
        commit_is_modified=is_modified,
        machine=machine.describe(folder),
        plan=plan,
        receivers=tuple(found),
        skipped=skipped,
        disk_probes=tuple(turns.probes),
        stores=tuple(run for run in runs if isinstance(run, StoreRun)),
        setups=tuple(run for run in runs if isinstance(run, SetupRun)),
        large_objects=tuple(run for run in runs if isinstance(run, LargeObjectRun)),
        idles=tuple(run for run in runs if isinstance(run, IdleRun)),
        failures=tuple(run for run in runs if isinstance(run, Failure)),
    )


def _installed(wished: Sequence[Receiver]) -> tuple[list[Receiver], list[ReceiverFound], dict[str, str]]:
    receivers, found, skipped = [], [], {}
    for receiver in wished:
        try:
            found.append(ReceiverFound(name=receiver.name, title=receiver.title, version=receiver.version()))
            receivers.append(receiver)
        except NotInstalledError as error:
            skipped[receiver.name] = str(error)
    if not receivers:
        raise BenchmarkError("none of the receivers is installed")
    return receivers, found, skipped


@dataclass(slots=True)
class _Turns:
    plan: Plan
    folder: Path
    receivers: Sequence[Receiver]
    progress: Progress
    runs: list[Run] = field(default_factory=list)
    probes: list[DiskProbe] = field(default_factory=list)
    _blocks: int = 0

    def take(self) -> None:
        plan = self.plan
        warm_up = write_studies(self.folder / "warm-up", studies=_WARM_UP_STUDIES, objects=_WARM_UP_OBJECTS)
        bench = Bench(plan, self.folder, warm_up)
        for work in plan.work:
            match work:
                case Work.THROUGHPUT:
                    self._stores(bench, work, plan.objects, plan.repeats, no_delay=True)
                case Work.DEFAULT_SENDERS:
                    self._stores(bench, work, plan.default_sender_objects, plan.other_repeats, no_delay=False)
                case Work.SETUP:
                    count = plan.setup_associations
                    small = write_studies(self.folder / work, studies=count, objects=count, side_px=SMALL_SIDE_PX)
                    for turn in range(plan.other_repeats):
                        self._block(work, turn, partial(bench.set_up, studies=small))
                case Work.LARGE_OBJECT:
                    large = write_large_object(self.folder / work, plan.large_object_bytes)
                    for turn in range(plan.other_repeats):
                        self._block(work, turn, partial(bench.large_object, study=large))
                case Work.IDLE:
                    for turn in range(plan.other_repeats):
                        self._block(work, turn, bench.idle)
            shutil.rmtree(self.folder / work, ignore_errors=True)

    def _stores(self, bench: Bench, work: Work, objects: int, repeats: int, *, no_delay: bool) -> None:
        # A study for each association of the largest number, so that any number shares them evenly enough.
        studies = write_studies(self.folder / work, studies=max(self.plan.associations), objects=objects)
        for repeat in range(repeats):
            for number, associations in enumerate(self.plan.associations):
                run = partial(bench.store, studies=studies, associations=associations, no_delay=no_delay)
                self._block(work, repeat + number, run)

    def _block(self, work: Work, turn: int, run: Callable[[Receiver, int], Run]) -> None:
        """One run of each receiver. `turn` says which begins: another one in each repeat."""
        block, self._blocks = self._blocks, self._blocks + 1
        self.probes.append(DiskProbe(block=block, milliseconds=tuple(probe_disk_ms(self.folder))))
        for receiver in self._in_turn(turn):
            try:
                done = run(receiver, block)
            except (BenchmarkError, OSError) as error:
                done = Failure(block=block, receiver=receiver.name, work=work, reason=str(error))
            self.runs.append(done)
            self.progress(done, work)

    def _in_turn(self, turn: int) -> Iterator[Receiver]:
        first = turn % len(self.receivers)
        yield from self.receivers[first:]
        yield from self.receivers[:first]
