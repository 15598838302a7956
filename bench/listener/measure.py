"""What a receiver costs, read from /proc: CPU time and memory of its whole tree of processes, and the disk's speed."""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_RESET_PEAK: Final = "5"  # proc(5), clear_refs: VmHWM starts again at the present resident size


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of one process, shared pages included."""

    rss_bytes: int
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True)
class ProcessTree:
    """A process, its descendants, and whatever else is in its session. The root must lead the session."""

    root: int

    def pids(self) -> list[int]:
        """The living processes, and those that ended and were not waited for."""
        return [pid for pid, _ in self._stats()]

    def cpu_s(self) -> float:
        """User and system time since the start; children that ended are counted by who waited for them."""
        return sum(sum(int(ticks) for ticks in fields[11:15]) for _, fields in self._stats()) / _TICKS_PER_S

    def memory(self) -> dict[int, Memory]:
        """Memory by process."""
        return {pid: memory for pid in self.pids() if (memory := _memory(pid)) is not None}

    def pss_bytes(self) -> int:
        """Memory of all processes, each page that n processes share counted as 1/n in each."""
        return sum(_pss_bytes(pid) for pid in self.pids())

    def reset_peaks(self) -> None:
        """Let every process's peak start again at what it holds now."""
        for pid in self.pids():
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)

    def _stats(self) -> list[tuple[int, list[str]]]:
        """Fields of /proc/PID/stat from the third on, since the second may hold blanks."""
        stats: dict[int, list[str]] = {}
        with os.scandir("/proc") as entries:
            for name in (entry.name for entry in entries):
                if name.isdecimal() and (text := _read(f"/proc/{name}/stat")):
                    stats[int(name)] = text.rpartition(")")[2].split()
        members = {pid for pid, fields in stats.items() if pid == self.root or int(fields[3]) == self.root}
        while more := {pid for pid, fields in stats.items() if pid not in members and int(fields[1]) in members}:
            members |= more
        return [(pid, stats[pid]) for pid in sorted(members)]


@dataclass(slots=True)
class MemoryPeaks:
    """The largest values seen while a tree was watched."""

    rss_bytes: int = 0
    """Largest sum over the processes living at one time; shared pages count in each."""
    by_process: dict[int, int] = field(default_factory=dict)
    """Each process's own peak, also of those that have ended since."""

    def see(self, tree: ProcessTree) -> None:
        """Take a sample."""
        memory = tree.memory()
        self.rss_bytes = max(self.rss_bytes, sum(one.rss_bytes for one in memory.values()))
        for pid, one in memory.items():
            self.by_process[pid] = max(self.by_process.get(pid, 0), one.peak_rss_bytes)

    def growth_bytes(self, before: dict[int, Memory]) -> int:
        """How far peaks rose above what was resident before; a process that is new counts in full."""
        return sum(peak - (before[pid].rss_bytes if pid in before else 0) for pid, peak in self.by_process.items())


@contextlib.contextmanager
def watching(tree: ProcessTree, *, every_s: float) -> Iterator[MemoryPeaks]:
    """Sample the tree's memory until the body ends.

    Peaks of processes that live on are exact (VmHWM); of one that ends, what it held up to `every_s` before.
    """
    tree.reset_peaks()
    peaks, stop = MemoryPeaks(), threading.Event()

    def watch() -> None:
        while not stop.wait(every_s):
            peaks.see(tree)

    thread = threading.Thread(target=watch, name="memory-sampler")
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()
        peaks.see(tree)


def probe_disk_ms(folder: Path, *, size_bytes: int = 524_288, times: int = 20) -> list[float]:
    """Milliseconds of each of `times`: write, fsync, rename, folder fsync. What one durable object costs the disk."""
    block = os.urandom(size_bytes)
    spent_ms = []
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        for number in range(times):
            temporary, final = folder / f".probe-{number}", folder / f"probe-{number}"
            started_s = time.perf_counter()
            with temporary.open("wb") as file:
                file.write(block)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(final)
            os.fsync(descriptor)
            spent_ms.append((time.perf_counter() - started_s) * 1e3)
            final.unlink()
    finally:
        os.close(descriptor)
    return spent_ms


def median(values: list[float]) -> float:
    """The median, as a float."""
    return float(statistics.median(values))


def _memory(pid: int) -> Memory | None:
    status = _read(f"/proc/{pid}/status")
    kib = {
        name: int(value.split()[0])
        for name, _, value in (line.partition(":") for line in status.splitlines())
        if name in {"VmRSS", "VmHWM"}
    }
    # A process that has ended but was not waited for holds no memory.
    return Memory(kib["VmRSS"] << 10, kib["VmHWM"] << 10) if len(kib) == 2 else None


def _pss_bytes(pid: int) -> int:
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    return 0


def _read(path: str) -> str:
    """A file of /proc; empty if its process is gone."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
