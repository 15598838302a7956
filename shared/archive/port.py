"""The port: what every archive does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class Archive(Protocol):
    """Durable objects by key. Keys are relative paths of `[A-Za-z0-9._-]`; no component starts with a dot.

    Calls block until they are done or have failed; any may be made from several threads at once. What is not a key
    raises ValueError.
    """

    def put(self, key: str, data: bytes) -> None:
        """Store or replace `data` at `key`, durably and atomically.

        Raises:
            ArchiveUnavailableError: it could not be stored; what stood there before still stands.
        """

    def put_file(self, key: str, path: Path, *, sha256: str | None = None, size_bytes: int | None = None) -> None:
        """Store the file at `path` under `key`, durably and atomically, never all of it in memory.

        `path` stays as it is. Its content must be on disk already (fsynced) and must not change afterwards: an archive
        on the same file system shares it. `sha256` (hex) and `size_bytes`, if given, are what the file must have:
        it is checked while it is read.

        Raises:
            ArchiveUnavailableError: it could not be stored; what stood there before still stands.
            ArchiveObjectCorruptError: the file is not the one that was meant; nothing was stored.
        """

    def put_files(self, items: Iterable[tuple[str, Path]]) -> None:
        """Store many files, each as by `put_file`, for less than that many calls cost.

        All of them are durable on return. After an error some may be stored and some not; repeat the whole call.

        Raises:
            ArchiveUnavailableError: one could not be stored.
        """

    def get(self, key: str) -> bytes:
        """The bytes at `key`.

        Raises:
            ArchiveObjectMissingError: nothing is stored there.
            ArchiveUnavailableError: it could not be read just now.
        """

    def verify(self, key: str, sha256: str, size_bytes: int) -> None:
        """Read what is stored at `key` back, part by part, and compare its SHA-256 (hex) and size.

        Ask before another copy is deleted.

        Raises:
            ArchiveObjectMissingError: nothing is stored there.
            ArchiveObjectCorruptError: it has another size or hash.
            ArchiveUnavailableError: it could not be read just now.
        """

    def exists(self, key: str) -> bool:
        """Whether something is stored at `key`.

        Raises:
            ArchiveUnavailableError: that could not be found out just now.
        """

    def list(self, prefix: str) -> Iterator[str]:
        """The keys below the folder `prefix`, in the order of their bytes, read as they are asked for.

        Raises:
            ArchiveUnavailableError: the rest could not be read just now.
        """
