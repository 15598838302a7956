"""Storage commitment transactions that are not reported yet: a durable file each.

commitments/<transaction>.json       a request that was answered with Success
commitments/<transaction>-<n>.json   another one with a Transaction UID that was in use already
commitments/*.unreadable             files that were damaged on disk, set aside
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from services.listener.commitment_requests import Reference
from shared.archive import fsync_folder
from shared.ids import Uid

log = logging.getLogger(__name__)

_PART: Final = ".part-"
_SUFFIX: Final = ".json"


class Transaction(BaseModel):
    """What a requestor wants to be committed, and who it is. Holds nothing of a patient."""

    model_config = ConfigDict(frozen=True)

    transaction_uid: Uid
    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    received_at: AwareDatetime
    is_duplicate: bool = False
    """Its Transaction UID was that of another transaction, not reported yet."""
    references: tuple[Reference, ...]

    def without_references(self) -> Transaction:
        """What is small of it."""
        return self.model_copy(update={"references": ()})

    def repeats(self, other: Transaction) -> bool:
        """Whether the same requestor asks for the same once more."""
        mine = (self.transaction_uid, self.calling_ae_title, self.references)
        return mine == (other.transaction_uid, other.calling_ae_title, other.references)


class Kept(NamedTuple):
    """A file's name, and a number that is a new one each time that it is asked for."""

    name: str
    number: int


class Transactions:
    """The files in `folder`, which is made. All methods block and may be called from any thread.

    Raises:
        OSError: from the constructor, if the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._asked: dict[str, int] = {}
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)

    def recover(self) -> list[tuple[Kept, Transaction]]:
        """Sweep what a crash left half-written; the transactions of earlier runs, the oldest first."""
        with self._lock:
            return self._recover()

    def _recover(self) -> list[tuple[Kept, Transaction]]:
        for temporary in self._folder.glob(f"{_PART}*"):
            temporary.unlink()
        found = []
        for path in self._folder.glob(f"*{_SUFFIX}"):
            try:
                found.append((Kept(path.stem, self._asked.get(path.stem, 0)), self.load(path.stem)))
            except ValidationError:
                log.error("storage commitment %s is damaged on disk and was set aside", path.stem)  # noqa: TRY400
                path.rename(path.with_suffix(".unreadable"))
        return sorted(found, key=lambda pair: pair[1].received_at)

    def keep(self, transaction: Transaction) -> Kept:
        """Keep a request durably, unless it repeats one that is kept.

        Raises:
            OSError: it could not be made durable; nothing of it is left.
        """
        uid = transaction.transaction_uid
        with self._lock:
            for copy in itertools.count():
                name = f"{uid}-{copy}" if copy else uid
                path = self._folder / f"{name}{_SUFFIX}"
                if not path.exists():
                    self._write(path, transaction.model_copy(update={"is_duplicate": copy > 0}))
                    break
                with contextlib.suppress(ValidationError):
                    if self.load(name).repeats(transaction):
                        break
            self._asked[name] = next(self._numbers)
            return Kept(name, self._asked[name])

    def load(self, name: str) -> Transaction:
        """A transaction that is kept.

        Raises:
            OSError: it cannot be read, or is not kept any more.
            ValidationError: its file is damaged.
        """
        return Transaction.model_validate_json((self._folder / f"{name}{_SUFFIX}").read_bytes())

    def remove(self, kept: Kept) -> bool:
        """Whether a transaction is over: not if it was asked for once more. Safe to repeat."""
        with self._lock:
            if self._asked.get(kept.name, 0) != kept.number:
                return False
            # Not fsynced: a file that comes back after a power cut is reported once more, which is allowed.
            (self._folder / f"{kept.name}{_SUFFIX}").unlink(missing_ok=True)
            self._asked.pop(kept.name, None)
            return True

    def _write(self, path: Path, transaction: Transaction) -> None:
        temporary = path.with_name(f"{_PART}{path.stem}")
        try:
            with open(temporary, "wb") as file:
                file.write(transaction.model_dump_json().encode())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            fsync_folder(self._folder)
        except BaseException:
            # Not durable for sure, so not acknowledged: it must not stay either.
            for one in (temporary, path):
                with contextlib.suppress(OSError):
                    one.unlink()
            raise
