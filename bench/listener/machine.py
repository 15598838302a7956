"""The machine and the commit that results belong to."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from bench.listener.results import Machine


def describe(folder: Path) -> Machine:
    """This machine, with the file system that holds `folder`."""
    return Machine(
        cpu=_field("/proc/cpuinfo", "model name") or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        kernel=f"{platform.system()} {platform.release()}",
        file_system=_file_system(folder.resolve()),
        python=platform.python_version(),
    )


def commit(checkout: Path) -> tuple[str | None, bool]:
    """The commit of a checkout, and whether files differ from it; None if it is not the top of one."""
    top = _git(checkout, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != checkout.resolve():
        return None, False
    return _git(checkout, "rev-parse", "HEAD"), bool(_git(checkout, "status", "--porcelain"))


def _git(checkout: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(checkout), *arguments], capture_output=True, text=True, timeout=30, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _field(path: str, name: str) -> str | None:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _file_system(folder: Path) -> str:
    """The type of the longest mount point that holds `folder`, such as ext4."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [(len(fields[1]), fields[2]) for fields in mounts if folder.is_relative_to(fields[1])]
    return max(holding)[1] if holding else "unknown"
