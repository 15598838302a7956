"""The way back from pseudonyms, for people: look identities up in the crosswalk, and take them out of it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import BinaryIO, Final, TextIO

from services.listener.crosswalk import PRIVATE, locked, rewritten, wrong_key
from services.listener.crosswalk_records import (
    MAX_HEADER_BYTES,
    DamagedRecordError,
    Identity,
    RecordCipher,
    is_pseudonym,
    opened,
    pseudonym_of,
)
from shared.archive import fsync_folder
from shared.errors import ConfigurationError

NOT_FOUND: Final = 3


def look_up(path: Path, key: bytes, pseudonyms: Collection[str]) -> tuple[dict[str, Identity], int]:
    """The identities behind those of `pseudonyms` that the file at `path` has, and how many records are damaged.

    Changes nothing, and does not wait for a listener that is writing.

    Raises:
        ConfigurationError: the file cannot be read, or belongs to another key.
    """
    found: dict[str, Identity] = {}
    damaged = 0
    try:
        with open(path, "rb") as file:
            cipher = _cipher(path, key, file.readline(MAX_HEADER_BYTES))
            for line, identity in opened(file, cipher):
                if identity is None:
                    damaged += 1
                elif (pseudonym := pseudonym_of(line)) in pseudonyms:
                    found[pseudonym] = identity
    except OSError as error:
        raise ConfigurationError(f"the crosswalk {path} cannot be read: {error.strerror}") from error
    return found, damaged


def forget(path: Path, key: bytes, pseudonyms: Collection[str]) -> set[str]:
    """Remove the records of `pseudonyms` by rewriting the file, durably; those of them that had one.

    A running listener goes on with the new file, and notes a patient anew who comes again. The old
    file's bytes, still encrypted, are free space of the disk until it is used again; copies elsewhere
    are what they were.

    Raises:
        ConfigurationError: the file cannot be rewritten, or belongs to another key.
    """
    path = path.resolve()
    new = rewritten(path)
    try:
        owner = path.stat()
        with locked(path) as lock, open(path, "rb") as old:
            header = old.readline(MAX_HEADER_BYTES)
            _cipher(path, key, header)
            try:
                with open(new, "wb", opener=_private) as file:
                    for descriptor in (lock, file.fileno()):
                        _give(descriptor, owner)
                    file.write(header)
                    removed = _copy(old, file, pseudonyms)
                    file.flush()
                    os.fsync(file.fileno())
                if removed:
                    os.replace(new, path)
                    fsync_folder(path.parent)
            finally:
                new.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the crosswalk {path} cannot be rewritten: {error.strerror}") from error
    return removed


def print_identities(path: Path, key: bytes, pseudonyms: Iterable[str], *, out: TextIO, err: TextIO) -> int:
    """Print whose the pseudonyms are, to `out` alone: nothing of it may be logged.

    Returns:
        The exit status: 0, or 3 if one is not in the crosswalk.

    Raises:
        ConfigurationError: as from `look_up`; or one is no pseudonym.
    """
    wanted = _checked(pseudonyms)
    found, damaged = look_up(path, key, wanted)
    for pseudonym in wanted:
        if (identity := found.get(pseudonym)) is None:
            print(f"{pseudonym}: not in the crosswalk", file=err)
        else:
            _print(f"{pseudonym}: {_shown(identity)}", out)
    if damaged:
        print(f"{damaged} records of the crosswalk are damaged and were left out", file=err)
    return 0 if len(found) == len(wanted) else NOT_FOUND


def print_forgotten(path: Path, key: bytes, pseudonyms: Iterable[str], *, out: TextIO, err: TextIO) -> int:
    """Forget the pseudonyms, and print which were there.

    Returns:
        The exit status: 0, or 3 if one was not in the crosswalk.

    Raises:
        ConfigurationError: as from `forget`; or one is no pseudonym.
    """
    wanted = _checked(pseudonyms)
    removed = forget(path, key, wanted)
    for pseudonym in wanted:
        if pseudonym in removed:
            print(f"{pseudonym}: removed from the crosswalk; copies and backups of the file still have it", file=out)
        else:
            print(f"{pseudonym}: not in the crosswalk", file=err)
    return 0 if len(removed) == len(wanted) else NOT_FOUND


def _checked(pseudonyms: Iterable[str]) -> list[str]:
    wanted = list(dict.fromkeys(text.strip().lower() for text in pseudonyms))
    for text in wanted:
        if not is_pseudonym(text):
            raise ConfigurationError(f"{text[:40]!r} is no pseudonym: expected 32 hexadecimal digits")
    return wanted


def _shown(identity: Identity) -> str:
    """An identity for a terminal; what could steer one is escaped."""
    if not identity.patient_id:
        return f"no Patient ID, the study {identity.study_instance_uid!r} stands in"
    issuer = repr(identity.issuer) if identity.issuer else "none"
    return f"Patient ID {identity.patient_id!r}, issuer {issuer}"


def _print(text: str, out: TextIO) -> None:
    """Print, escaping what the terminal's encoding lacks."""
    encoding = out.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=out)


def _cipher(path: Path, key: bytes, header: bytes) -> RecordCipher:
    try:
        return RecordCipher.for_file(key, header)
    except DamagedRecordError as error:
        raise wrong_key(path) from error


def _copy(old: BinaryIO, new: BinaryIO, pseudonyms: Collection[str]) -> set[str]:
    """Copy all whole lines but those of `pseudonyms`; those of them that had one."""
    removed = set()
    for line in old:
        if (pseudonym := pseudonym_of(line)) in pseudonyms:
            removed.add(pseudonym)
        elif line.endswith(b"\n"):
            new.write(line)
    return removed


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)


def _give(descriptor: int, owner: os.stat_result) -> None:
    """Leave a file to the listener's user, should another one (root) have made it."""
    found = os.fstat(descriptor)
    if (found.st_uid, found.st_gid) != (owner.st_uid, owner.st_gid):
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
