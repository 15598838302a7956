"""A listener under fuzz, in this process or one of its own, and what must hold of it after each case."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import random
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Final

from pydicom.filereader import data_element_generator
from pydicom.uid import UID

from services.listener.part10 import encode_file_head
from tests.fuzz import streams
from tests.fuzz.exchange import PATIENCE_S, FindingError, exchange
from tests.fuzz.streams import Answers, Sent
from tests.fuzz.templates import IDENTITY

# Study, Series and SOP Instance UID.
_IDENTIFIERS: Final = (0x0020000D, 0x0020000E, 0x00080018)


@dataclass
class Target:
    """A listener. `stored` are the objects that it answered with Success."""

    host: str
    port: int
    folder: Path
    identity: set[str] = field(default_factory=lambda: set(IDENTITY))
    stored: dict[str, str] = field(default_factory=dict)
    """SOP Instance UID to the file's SHA-256."""
    _descriptors: int = 0

    def start(self) -> None:
        """Warm it up, and remember what it holds open then."""
        for _ in range(3):
            self.echoes()
        self.settle()
        self._descriptors = self.open_descriptors()

    def open_descriptors(self) -> int:
        raise NotImplementedError

    def open_associations(self) -> int:
        raise NotImplementedError

    def log_lines(self) -> list[tuple[int, str]]:
        """Level and text of what was logged since the last call."""
        raise NotImplementedError

    def settle(self) -> None:
        """Wait until every association has ended.

        Raises:
            FindingError: one has not.
        """
        raise NotImplementedError

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    def echoes(self) -> None:
        """The listener answers a C-ECHO.

        Raises:
            FindingError: it does not.
        """
        stream = b"".join((streams.associate_rq(), *streams.pdus(streams.echo()), streams.release_rq()))
        answered = streams.answers(exchange(self, stream, random.Random(0)))
        if answered.responses != [(streams.C_ECHO_RSP, 0)] or answered.end != streams.RELEASE_RP:
            raise FindingError(f"no echo: {answered}")

    def check_case(self) -> None:
        """What must hold after each case.

        Raises:
            FindingError: it does not.
        """
        self.settle()
        if not comes(lambda: not list((self.journal / "receiving").iterdir())):
            raise FindingError("temporary files are left")
        self.check_log()

    def check_log(self) -> None:
        for level, text in self.log_lines():
            if level >= logging.ERROR:
                raise FindingError(f"logged as an error: {text}")
            for value in self.identity:
                if value in text:
                    raise FindingError(f"identity in a log line: {text}")

    def check_stored(self, sent: Sent, transfer_syntax: str) -> None:
        """An object that was just answered with Success is there, durable, as it was sent, and can be read.

        Raises:
            FindingError: it is not.
        """
        expected = (
            encode_file_head(
                sop_class_uid=sent.sop_class, sop_instance_uid=sent.sop, transfer_syntax_uid=transfer_syntax
            )
            + sent.data_set
        )
        try:
            study, series, sop = _identifiers(sent.data_set, transfer_syntax)
        except Exception as error:
            raise FindingError(f"Success for an object that cannot be read: {error!r}") from error
        if sop != sent.sop:
            raise FindingError(f"Success for {sent.sop}, which names itself {sop}")
        sha256 = hashlib.sha256(expected).hexdigest()
        sender = b"FUZZ".hex()
        kept = self.journal / "incoming" / study / f"{sop}.{sha256}.{sender}.dcm"
        archived = self.folder / "archive" / "instances" / study / series / f"{sop}.dcm"
        for path in (kept, archived):
            try:
                if path.read_bytes() == expected:
                    break
            except FileNotFoundError:
                continue
        else:
            # Whoever sent it first may have another AE title, after a mutation.
            if not any(
                path.read_bytes() == expected for path in (self.journal / "incoming" / study).glob(f"{sop}.{sha256}.*")
            ):
                raise FindingError(f"Success, but no file holds object {sop} of study {study}")
        if self.stored.setdefault(sop, sha256) != sha256:
            raise FindingError(f"Success for two different objects named {sop}")

    def check_answers(self, stream: bytes, answered: Answers) -> int:
        """Of a whole stream: no Success without its object. How many there were.

        Raises:
            FindingError: there was.
        """
        sent, count = streams.sent_objects(stream), 0
        if len(answered.stores) > len(sent):
            raise FindingError(f"{len(answered.stores)} C-STORE responses to {len(sent)} requests")
        for request, status in zip(sent, answered.stores, strict=False):
            if status == 0x0110:
                raise FindingError("an internal error of the listener")
            if status == 0x0000:
                self.check_stored(request, answered.contexts[request.context_id])
                count += 1
        return count

    def check_all(self) -> None:
        """At the end: everything answered with Success is still there, nothing leaks, and it answers.

        Raises:
            FindingError: it is not so.
        """
        self.echoes()
        self.check_case()
        if not comes(lambda: not self.open_associations() and self.open_descriptors() <= self._descriptors):
            raise FindingError(
                f"{self.open_associations()} associations and {self.open_descriptors()} descriptors are open, "
                f"not 0 and {self._descriptors}"
            )
        held: dict[str, set[str]] = {}
        # The journal first: what is purged from it meanwhile is in the archive.
        for folder in (self.journal / "incoming", self.folder / "archive"):
            for path in _dicom_files(folder):
                text = str(path.relative_to(self.folder))
                if any(value in text for value in IDENTITY):
                    raise FindingError(f"identity in a file name: {text}")
                sop = path.name.rsplit(".", 3)[0] if folder.name == "incoming" else path.stem
                with contextlib.suppress(FileNotFoundError):
                    digest = hashlib.sha256(path.read_bytes()).hexdigest()
                    held.setdefault(sop, set()).add(digest)
        for sop, sha256 in self.stored.items():
            if sha256 not in held.get(sop, ()):
                raise FindingError(f"the object {sop} was answered with Success and is gone")


def _identifiers(data_set: bytes, transfer_syntax: str) -> tuple[str, str, str]:
    """Study, series and SOP Instance UID of a data set that pydicom reads to its end.

    Its raw values are taken: whether they suit their elements is not the listener's business.
    """
    syntax = UID(transfer_syntax)
    if syntax.is_deflated:
        data_set = zlib.decompress(data_set, -zlib.MAX_WBITS)
    raw: dict[int, bytes] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for element in data_element_generator(BytesIO(data_set), syntax.is_implicit_VR, syntax.is_little_endian):
            if element.tag in _IDENTIFIERS:
                raw[element.tag] = element.value or b""
    study, series, sop = (raw[tag].rstrip(b"\0 ").decode("ascii").strip() for tag in _IDENTIFIERS)
    return study, series, sop


def _dicom_files(folder: Path) -> Iterator[Path]:
    """Files below a folder whose own folders come and go."""
    for name, _, files in os.walk(folder):
        yield from (Path(name, file) for file in files if file.endswith(".dcm"))


def comes(condition: Callable[[], bool]) -> bool:
    """Whether a condition comes to hold before patience ends."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.0005)
    return True
