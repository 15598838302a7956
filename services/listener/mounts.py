"""What the file system of a folder promises."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

# On these an fsync of a file that was just moved also makes its new name durable: the move touches
# the inode, and the fsync commits the whole transaction that the inode is part of. Tested by
# tests/faults/test_power_cut.py on images of both.
_SYNC_NAMES_WITH_FILES: Final = frozenset({"ext4", "xfs"})


def syncs_names_with_files(folder: Path) -> bool:
    """Whether fsync of a moved file makes its name durable too; False where that is not known."""
    return file_system(folder) in _SYNC_NAMES_WITH_FILES


def file_system(folder: Path) -> str:
    """The type of the file system that holds `folder`, such as ext4; empty if it cannot be found out."""
    try:
        device = folder.stat().st_dev
        mounts = Path("/proc/self/mountinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts:
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == wanted:
            return rest.split()[0]
    return ""
