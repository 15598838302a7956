"""Senders from the system: where they are, and one call of one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from tests.conformance.kept import archived
from tests.services.listener.listener_harness import Running

# pynetdicom installs applications of DCMTK's names into the environment's bin folder.
SYSTEM_PATH: Final = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/opt/homebrew/bin"
_PATIENCE_S: Final = 60


def tool(name: str) -> str:
    """The path of a sender."""
    found = shutil.which(name, path=SYSTEM_PATH)
    if found is None:
        if os.environ.get("SIMILIS_REQUIRE_PEERS") == "1":
            pytest.fail(f"{name} is not installed, and SIMILIS_REQUIRE_PEERS=1")
        pytest.skip(f"{name} is not installed")
    return found


def run(command: Sequence[str | Path], *, ok: bool | None = True) -> str:
    """What the command prints; it must end well, or must not; None: either will do."""
    done = subprocess.run(
        [str(one) for one in command],
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
        # DCMTK leaves Nagle's algorithm on.
        env={**os.environ, "TCP_NODELAY": "1"},
    )
    output = done.stdout + done.stderr
    assert ok is None or (done.returncode == 0) == ok, output
    return output


def dcmtk(name: str, listener: Running, *arguments: str | Path, called: str = "SIMILIS", ok: bool = True) -> str:
    """Call one of DCMTK's senders; files are those arguments that are paths behind all options."""
    options, files = list(arguments), []
    while options and isinstance(options[-1], Path):
        files.insert(0, options.pop())
    return run([tool(name), "-v", "-aec", called, *options, listener.host, str(listener.port), *files], ok=ok)


def sample_file(name: str) -> Path:
    """A file that comes with pydicom."""
    return Path(get_testdata_file(name, download=False))


def sample(name: str) -> Dataset:
    """Its data set."""
    return dcmread(sample_file(name))


def assert_kept(listener: Running, name: str) -> None:
    """The object of `sample_file(name)` is archived; its sender may have encoded it anew."""
    sent = sample(name)
    kept = archived(listener, sent)
    assert kept.SOPInstanceUID == sent.SOPInstanceUID
    assert kept.get("PixelData") == sent.get("PixelData")
