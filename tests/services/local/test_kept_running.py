from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from services.local.child import Child
from services.local.kept_running import KeptRunning
from shared.errors import ConfigurationError


def keep(folder: Path, code: str, *, ready: bool = True) -> KeptRunning:
    def spawn() -> Child:
        return Child("it", [sys.executable, "-c", code], log_file=folder / "it.log", log_bytes=5000)

    return KeptRunning("it", spawn=spawn, is_ready=lambda _: ready, stop_timeout_s=5, restart_pause_s=0.05)


def watch_until(kept: KeptRunning, restarts: int) -> None:
    deadline = time.monotonic() + 30
    while kept.restarts < restarts:
        assert time.monotonic() < deadline
        kept.watch()
        time.sleep(0.02)


def test_one_that_dies_is_started_again_after_growing_pauses(tmp_path: Path) -> None:
    kept = keep(tmp_path, "import time; time.sleep(0.05); raise SystemExit(1)")
    began = time.monotonic()
    kept.start()
    watch_until(kept, 3)
    assert time.monotonic() - began >= 0.05 + 0.1 + 0.2
    kept.stop()


def test_one_that_refuses_its_settings_is_not_started_again(tmp_path: Path) -> None:
    kept = keep(tmp_path, "import sys; print('no such port'); sys.exit(2)", ready=False)
    kept.start()
    with pytest.raises(ConfigurationError, match="no such port"):
        watch_until(kept, 1)


def test_one_that_was_ready_is_started_again_whatever_it_ends_with(tmp_path: Path) -> None:
    kept = keep(tmp_path, "import time; time.sleep(0.5); raise SystemExit(2)")
    kept.start()
    watch_until(kept, 1)
    kept.stop()


def test_a_start_that_fails_later_is_tried_again(tmp_path: Path) -> None:
    spawns = 0

    def spawn() -> Child:
        nonlocal spawns
        spawns += 1
        if spawns == 2:
            raise ConfigurationError("port taken for a moment")
        return Child("it", [sys.executable, "-c", "raise SystemExit(1)"], log_file=tmp_path / "it.log", log_bytes=5000)

    kept = KeptRunning("it", spawn=spawn, is_ready=lambda _: False, stop_timeout_s=5, restart_pause_s=0.05)
    kept.start()
    watch_until(kept, 2)
    assert spawns == 3
    kept.stop()
