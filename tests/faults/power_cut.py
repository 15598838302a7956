"""A disk whose state can be copied in an instant, as a power cut would leave it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

# mkfs.xfs refuses less than 300 MB; the images are sparse.
_IMAGE_MB: Final = 320
_OUTER_MB: Final = 1600
_UNMOUNT_TRIES: Final = 100


class CutError(Exception):
    """A file system tool failed."""


def call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise CutError(f"{' '.join(command)}: {done.stderr.strip()}")


@contextlib.contextmanager
def mounted(image: Path, folder: Path, options: str = "") -> Iterator[Path]:
    """`image` by a loop device at `folder`.

    Raises:
        CutError: it cannot be mounted.
    """
    folder.mkdir(exist_ok=True)
    call("mount", "-o", ",".join(filter(None, ("loop", options))), str(image), str(folder))
    try:
        yield folder
    finally:
        _unmount(folder)


def _unmount(folder: Path) -> None:
    # A loop device lets go of its file a little later than its file system does.
    for _ in range(_UNMOUNT_TRIES):
        with contextlib.suppress(CutError):
            call("umount", str(folder))
            return
        time.sleep(0.1)
    call("umount", str(folder))


def make_image(image: Path, kind: str, size_mb: int = _IMAGE_MB) -> None:
    """An empty file system of `kind` in a sparse file.

    Raises:
        CutError: it cannot be made.
    """
    with image.open("wb") as file:
        file.truncate(size_mb << 20)
    call(f"mkfs.{kind}", "-q", str(image))


class CuttableDisk:
    """A file system of `kind` at `folder`, whose device is a file on an XFS that can share its blocks.

    A copy by FICLONE takes no time: it holds what the file system has written to its device up to
    that moment, in no other order, and nothing of what only its memory held. (What the cache of a real
    device would lose without a flush it holds too.)
    """

    def __init__(self, folder: Path, outer: Path, image: Path, kind: str) -> None:
        self.folder = folder
        self._outer = outer
        self._image = image
        self._kind = kind
        self._copies = 0

    def cut(self) -> Path:
        """The device as it is now: the copy's image."""
        self._copies += 1
        copy = self._outer / f"copy-{self._copies}"
        call("cp", "--reflink=always", str(self._image), str(copy))
        return copy

    @contextlib.contextmanager
    def after(self, copy: Path) -> Iterator[Path]:
        """The file system of a copy after its journal was replayed; the copy is gone afterwards."""
        # A copy has the UUID of the file system that it was made from, which is mounted too.
        options = "nouuid" if self._kind == "xfs" else ""
        try:
            with mounted(copy, self._outer.parent / "after", options) as folder:
                yield folder
        finally:
            copy.unlink()


@contextlib.contextmanager
def cuttable_disk(work: Path, kind: str) -> Iterator[CuttableDisk]:
    """A disk of a file system `kind` below `work`; skips the test where there can be none."""
    for tool in ("mount", "mkfs.xfs", f"mkfs.{kind}"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    with contextlib.ExitStack() as undo:
        try:
            make_image(work / "outer.img", "xfs", _OUTER_MB)
            outer = undo.enter_context(mounted(work / "outer.img", work / "outer"))
            make_image(outer / "disk.img", kind)
            folder = undo.enter_context(mounted(outer / "disk.img", work / "disk"))
        except CutError as error:
            pytest.skip(f"no file systems can be mounted here: {error}")
        yield CuttableDisk(folder, outer, outer / "disk.img", kind)
