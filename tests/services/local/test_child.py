from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.local import child as children
from services.local.child import Child, birth

ROOT = Path(__file__).parents[3]


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_its_output_goes_to_its_log_file_and_to_the_parent(tmp_path: Path) -> None:
    lines: list[tuple[str, str]] = []
    child = Child(
        "one",
        python("print('100 % of', 'it'); import sys; print('oops', file=sys.stderr)"),
        log_file=tmp_path / "log" / "one.log",
        log_bytes=10_000,
        on_line=lambda name, line: lines.append((name, line)),
    )
    assert child.wait(30)
    assert child.exit_code == 0
    assert sorted((tmp_path / "log" / "one.log").read_text().splitlines()) == ["100 % of it", "oops"]
    assert sorted(lines) == [("one", "100 % of it"), ("one", "oops")]
    assert "oops" in child.tail


def test_its_log_does_not_grow_beyond_the_cap(tmp_path: Path) -> None:
    child = Child(
        "two", python("for n in range(5000): print('line', n)"), log_file=tmp_path / "two.log", log_bytes=5000
    )
    assert child.wait(30)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"two.log", "two.log.1"}
    assert max(sizes.values()) <= 5000
    assert (tmp_path / "two.log").read_text().endswith("line 4999\n")


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    child = Child("deaf", python(code), log_file=tmp_path / "deaf.log", log_bytes=5000)
    wait_until(lambda: child.tail == "up")
    child.stop(0.3)
    assert child.exit_code == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ties children to their parent on Linux only")
def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from services.local.child import Child\n"
        f"child = Child('tied', ['sleep', '60'], log_file=Path({str(tmp_path / 'tied.log')!r}), log_bytes=5000)\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(python(code), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    wait_until(lambda: Path(f"/proc/{pid}/comm").read_text().strip() == "sleep")
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: birth(pid) is None)


def test_what_a_killed_run_left_is_ended_but_no_later_process_of_the_same_id(tmp_path: Path) -> None:
    notes = tmp_path / "children.json"
    left = subprocess.Popen(["sleep", "60"])
    children.record(notes, [left.pid])
    assert children.end_recorded(notes) == [left.pid]
    assert left.wait(10) == -signal.SIGKILL
    assert not notes.exists()

    innocent = subprocess.Popen(["sleep", "60"])
    try:
        notes.write_text(f'{{"{innocent.pid}": "1"}}')  # born at another time
        assert children.end_recorded(notes) == []
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


def test_a_damaged_note_of_children_is_ignored(tmp_path: Path) -> None:
    notes = tmp_path / "children.json"
    notes.write_text("{")
    assert children.end_recorded(notes) == []
    assert children.end_recorded(tmp_path / "missing.json") == []


def test_a_process_is_told_from_a_later_one() -> None:
    assert birth(os.getpid()) == birth(os.getpid()) is not None
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert birth(ended.pid) is None
