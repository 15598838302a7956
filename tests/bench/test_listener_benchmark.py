"""The listener benchmark counts truly and cleans up. How fast anything is, is not tested."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bench.listener import report
from bench.listener.benchmark import measure
from bench.listener.errors import BenchmarkError, NotInstalledError
from bench.listener.launch import Launch
from bench.listener.measure import ProcessTree
from bench.listener.receivers import Receiver, Storescp
from bench.listener.report import Column
from bench.listener.results import Plan, Results, Run, Work
from bench.listener.senders import SYSTEM_PATH

CHECKOUT = Path(__file__).parents[2]
TINY = Plan(
    work=(Work.THROUGHPUT,),
    receivers=("storescp",),
    associations=(2,),
    objects=8,
    repeats=1,
)


@dataclass(frozen=True)
class Missing:
    """A receiver that is not on this machine."""

    name: str = "missing"
    title: str = "Missing"

    def version(self) -> str:
        raise NotInstalledError("missing is not installed")

    def launch(self, folder: Path) -> Launch:
        raise AssertionError(folder)


@dataclass(frozen=True)
class Forgetful(Storescp):
    """Keeps no more than 14 objects."""

    def launch(self, folder: Path) -> Launch:
        launch = super().launch(folder)
        return replace(launch, stored=lambda: min(14, launch.stored()))


def needs_dcmtk() -> None:
    if shutil.which("storescu", path=SYSTEM_PATH) and shutil.which("storescp", path=SYSTEM_PATH):
        return
    if os.environ.get("SIMILIS_REQUIRE_PEERS") == "1":
        pytest.fail("DCMTK is not installed, and SIMILIS_REQUIRE_PEERS=1")
    pytest.skip("DCMTK is not installed")


def command(work: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "bench.listener", "--quick", "--work", str(work), *options]


def measured(plan: Plan, *receivers: Receiver, folder: Path) -> Results:
    known = {receiver.name: receiver for receiver in receivers}
    return measure(plan, known, checkout=CHECKOUT, folder=folder, progress=ignore)


def ignore(run: Run, work: Work) -> None:
    """Show nothing."""


def wait_for(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.02)


@pytest.mark.peers
@pytest.mark.slow
def test_every_object_that_was_sent_is_counted_as_stored(tmp_path: Path) -> None:
    needs_dcmtk()
    work, kept, plot = tmp_path / "work", tmp_path / "results.json", tmp_path / "plot.png"
    options = ["--receivers", "similis,storescp", "--objects", "9", "--associations", "1,2"]
    options += ["--setup-associations", "4", "--idle-associations", "3", "--large-object-mb", "3", "--markdown"]
    done = subprocess.run(
        command(work, *options, "--json", str(kept), "--plot", str(plot)),
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = Results.model_validate_json(kept.read_text())
    assert not results.failures
    sent = {(run.receiver, run.no_delay, run.associations): (run.objects, run.stored) for run in results.stores}
    assert sent == {
        (receiver, no_delay, associations): (objects, objects)
        for receiver in ("similis", "storescp")
        for no_delay, objects in ((True, 9), (False, 20))
        for associations in (1, 2)
    }
    assert [(run.associations, run.stored) for run in results.setups] == [(4, 4)] * 2
    assert [run.stored for run in results.large_objects] == [1] * 2
    assert all(2_500_000 < run.size_bytes < 3_000_000 for run in results.large_objects)
    assert [run.established for run in results.idles] == [3] * 2
    assert all(run.peak_rss_bytes > 0 and run.receiver_cpu_ms_per_object >= 0 for run in results.stores)
    assert "| **Similis / storescp --fork** |" in done.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert [entry.name for entry in work.iterdir()] == ["lock"]
    assert str(tmp_path) not in kept.read_text()


@pytest.mark.peers
def test_a_receiver_that_answers_success_and_keeps_nothing_is_a_failure(tmp_path: Path) -> None:
    needs_dcmtk()
    results = measured(TINY, Storescp(options=("--ignore",)), folder=tmp_path)
    assert not results.stores
    (failure,) = results.failures
    assert failure.reason == "8 objects were sent with Success, 0 are kept"
    assert any(note.startswith("FAILED: storescp") for note in report.footnotes(results))


@pytest.mark.peers
def test_a_receiver_that_loses_the_last_objects_is_a_failure(tmp_path: Path) -> None:
    needs_dcmtk()
    results = measured(TINY, Forgetful(), folder=tmp_path)
    assert not results.stores
    assert results.failures[0].reason == "16 objects were sent with Success, 14 are kept"


@pytest.mark.peers
def test_a_receiver_that_refuses_is_a_failure(tmp_path: Path) -> None:
    needs_dcmtk()
    results = measured(TINY, Storescp(options=("--abort-after",)), folder=tmp_path)
    assert not results.stores
    assert "senders failed" in results.failures[0].reason


@pytest.mark.peers
def test_a_receiver_that_is_not_installed_is_skipped_and_named(tmp_path: Path) -> None:
    needs_dcmtk()
    plan = TINY.model_copy(update={"receivers": ("missing", "storescp")})
    results = measured(plan, Missing(), Storescp(), folder=tmp_path)
    assert results.skipped == {"missing": "missing is not installed"}
    assert [(run.receiver, run.stored) for run in results.stores] == [("storescp", 8)]


def test_without_any_receiver_there_is_nothing_to_measure(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="none of the receivers is installed"):
        measured(TINY.model_copy(update={"receivers": ("missing",)}), Missing(), folder=tmp_path)


@pytest.mark.peers
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_benchmark_leaves_neither_process_nor_file(tmp_path: Path, number: signal.Signals) -> None:
    needs_dcmtk()
    work = tmp_path / "work"
    options = ["--receivers", "storescp", "--only", "default-senders", "--associations", "1"]
    with subprocess.Popen(
        command(work, *options), cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            # The benchmark, storescp, its process for the association, and storescu.
            wait_for(lambda: len(ProcessTree(process.pid).pids()) >= 4, 60)
            members = ProcessTree(process.pid).pids()
            process.send_signal(number)
            assert process.wait(30) != 0
        finally:
            process.kill()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in members), 10)
    assert [entry.name for entry in work.iterdir()] == ["lock"]


def test_cpu_of_children_that_ended_is_counted() -> None:
    spin = "import time\nwhile time.process_time() < 0.3: pass"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin!r}]); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        tree = ProcessTree(process.pid)
        assert tree.pids() == [process.pid]
        assert tree.cpu_s() >= 0.29
        process.communicate(b"\n")


def test_ratios_are_taken_within_a_block() -> None:
    column = Column("objects/s", {"similis": {0: 10.0, 1: 300.0, 2: 40.0}, "orthanc": {0: 5.0, 1: 100.0}}, 0)
    ratio = column.ratio("similis", "orthanc")
    assert ratio is not None
    assert (ratio.low, ratio.median, ratio.high) == (2.0, 2.5, 3.0)
