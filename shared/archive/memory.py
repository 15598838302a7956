"""The working fake for tests: an archive in a dict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256 as new_sha256
from pathlib import Path

from shared.archive.integrity import check_sha256, check_size
from shared.archive.keys import check_key
from shared.errors import ArchiveObjectMissingError, ArchiveUnavailableError


@dataclass(slots=True)
class MemoryArchive:
    """An archive in memory."""

    objects: dict[str, bytes] = field(default_factory=dict)

    def put(self, key: str, data: bytes) -> None:
        self.objects[check_key(key)] = bytes(data)

    def put_file(self, key: str, path: Path, *, sha256: str | None = None, size_bytes: int | None = None) -> None:
        check_key(key)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ArchiveUnavailableError(f"cannot store {key}: {error.strerror or error}") from error
        check_size(key, len(data), size_bytes)
        check_sha256(key, new_sha256(data).hexdigest(), sha256)
        self.put(key, data)

    def put_files(self, items: Iterable[tuple[str, Path]]) -> None:
        for key, path in items:
            self.put_file(key, path)

    def get(self, key: str) -> bytes:
        try:
            return self.objects[check_key(key)]
        except KeyError as error:
            raise ArchiveObjectMissingError(f"nothing is archived at {key}") from error

    def verify(self, key: str, sha256: str, size_bytes: int) -> None:
        data = self.get(key)
        check_size(key, len(data), size_bytes)
        check_sha256(key, new_sha256(data).hexdigest(), sha256)

    def exists(self, key: str) -> bool:
        return check_key(key) in self.objects

    def list(self, prefix: str) -> Iterator[str]:
        folder = check_key(prefix.rstrip("/")) + "/"
        yield from sorted(key for key in self.objects if key.startswith(folder))
