"""An archive in a bucket of an object store: S3 and what is compatible with it, Google Cloud Storage, Azure Blobs.

Large objects go up and come down in parts of `part_bytes`, so that memory stays flat and no single request takes long.
An upload that is broken off is no object; its parts lie hidden in the bucket until a lifecycle rule of the bucket
removes them (for S3: AbortIncompleteMultipartUpload).

The library runs threads of its own, which a fork does not have: in the fork of a process that has used an archive,
calls never return. Start other processes by spawn, or before the first call.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256 as new_sha256
from pathlib import Path
from typing import BinaryIO, Final

import obstore
from obstore.exceptions import BaseError

from shared.archive.connect import Store, connect, locate
from shared.archive.integrity import check_sha256, check_size, checked
from shared.archive.keys import check_key, is_key
from shared.errors import ArchiveObjectMissingError, ArchiveUnavailableError
from shared.settings import ArchiveSettings

MOST_PARTS: Final = 10_000  # of one upload to S3
KEYS_PER_PAGE: Final = 1000

_CODE: Final = re.compile(r"<Code>(\w{1,64})</Code>")
_REASON: Final = re.compile(
    r"status code: (\d{3}(?: \w+)*)|kind: (Connect|Timeout|Request|Interrupted|Decode|Unknown)\b"
)
_NO_SUCH_OBJECT: Final = (None, "NoSuchKey", "BlobNotFound")


@dataclass(frozen=True, slots=True)
class ObjectStoreArchive:
    """An archive in a bucket. Each object is stored whole or not at all, and durable when a call returns."""

    url: str
    store: Store = field(repr=False)  # it holds the credentials
    part_bytes: int
    upload_concurrency: int

    def put(self, key: str, data: bytes) -> None:
        check_key(key)
        with _storing(key):
            obstore.put(
                self.store, key, data, chunk_size=self._part_of(len(data)), max_concurrency=self.upload_concurrency
            )

    def put_file(self, key: str, path: Path, *, sha256: str | None = None, size_bytes: int | None = None) -> None:
        check_key(key)
        with _storing(key), open(path, "rb") as file:
            length = os.fstat(file.fileno()).st_size
            check_size(key, length, size_bytes)
            part = self._part_of(length)
            if length <= part:
                data = file.read()
                check_size(key, len(data), length)
                check_sha256(key, new_sha256(data).hexdigest(), sha256)
                obstore.put(self.store, key, data, use_multipart=False)
            else:
                # The length as well: it must not grow or shrink under the upload.
                parts = checked(key, _parts(file, part), sha256, length)
                obstore.put(self.store, key, parts, chunk_size=part, max_concurrency=self.upload_concurrency)

    def put_files(self, items: Iterable[tuple[str, Path]]) -> None:
        # Small files side by side, large ones one after another with their parts side by side: either way at most
        # `upload_concurrency` parts are in memory.
        small, large = list[tuple[str, Path]](), list[tuple[str, Path]]()
        for key, path in items:
            check_key(key)
            with _storing(key):
                (small if path.stat().st_size <= self.part_bytes else large).append((key, path))
        with ThreadPoolExecutor(self.upload_concurrency, thread_name_prefix="archive") as pool:
            for _ in pool.map(lambda item: self.put_file(*item), small):
                pass
        for key, path in large:
            self.put_file(key, path)

    def get(self, key: str) -> bytes:
        return b"".join(self._parts(check_key(key), None))

    def verify(self, key: str, sha256: str, size_bytes: int) -> None:
        for _ in checked(key, self._parts(check_key(key), size_bytes), sha256, size_bytes):
            pass

    def exists(self, key: str) -> bool:
        check_key(key)
        try:
            with _reading(key):
                obstore.head(self.store, key)
        except ArchiveObjectMissingError:
            # The answer to HEAD has no body: a bucket or a user that does not exist reads the same. GET tells.
            with contextlib.suppress(ArchiveObjectMissingError), _reading(key):
                obstore.get(self.store, key)
                return True
            return False
        return True

    def list(self, prefix: str) -> Iterator[str]:
        folder = check_key(prefix.rstrip("/"))
        with _reading(folder):
            for page in obstore.list(self.store, folder, chunk_size=KEYS_PER_PAGE):
                yield from (entry["path"] for entry in page if is_key(entry["path"]))

    def _part_of(self, size_bytes: int) -> int:
        return max(self.part_bytes, -(-size_bytes // MOST_PARTS))

    def _parts(self, key: str, size_bytes: int | None) -> Iterator[bytes]:
        """The object's bytes; `size_bytes`, if given, is checked before they are read."""
        with _reading(key):
            whole = obstore.get(self.store, key)
            size, etag = whole.meta["size"], whole.meta["e_tag"]
            check_size(key, size, size_bytes)
            if size <= self.part_bytes:
                yield bytes(whole.bytes())
                return
            del whole  # not read: one request for all of it could last longer than `timeout_s`
            for start in range(0, size, self.part_bytes):
                part = obstore.get(
                    self.store, key, options={"range": (start, start + self.part_bytes), "if_match": etag}
                )
                yield bytes(part.bytes())


def open_object_store(settings: ArchiveSettings) -> ObjectStoreArchive:
    """The archive at an s3://, gs:// or az:// URL. Nothing is sent yet.

    Raises:
        ConfigurationError: the settings contradict each other.
    """
    return ObjectStoreArchive(
        str(locate(settings.url)), connect(settings), settings.part_bytes, settings.upload_concurrency
    )


def _parts(file: BinaryIO, size: int) -> Iterator[bytes]:
    while part := file.read(size):
        yield part


@contextlib.contextmanager
def _storing(key: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:
        raise ArchiveUnavailableError(f"cannot store {key}: {_reason(error)}") from None


@contextlib.contextmanager
def _reading(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if _code(error) in _NO_SUCH_OBJECT:
            raise ArchiveObjectMissingError(f"nothing is archived at {key}") from None
        raise ArchiveUnavailableError(f"cannot read {key}: {_reason(error)}") from None
    except (BaseError, OSError) as error:
        raise ArchiveUnavailableError(f"cannot read {key}: {_reason(error)}") from None


def _code(error: Exception) -> str | None:
    found = _CODE.search(str(error))
    return found[1] if found else None


def _reason(error: Exception) -> str:
    """What went wrong. The error itself is not told on: it quotes the server's answer, with keys and signatures."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    found = _REASON.search(str(error))
    words = [type(error).__name__, found and (found[1] or found[2]), _code(error)]
    return ", ".join(word for word in words if word)
