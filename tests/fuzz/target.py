"""A listener under fuzz, in this process or one of its own, and what must hold of it after each case."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import random
import re
import socket
import subprocess
import threading
import time
import urllib.request
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Final

from pydicom.filereader import data_element_generator
from pydicom.uid import UID

from services.listener import metrics
from services.listener.part10 import encode_file_head
from tests.faults.real_listener import RealListener
from tests.fuzz import streams
from tests.fuzz.streams import Answers, Sent
from tests.fuzz.templates import IDENTITY
from tests.services.listener.listener_harness import Running, make_settings

PATIENCE_S: Final = 10.0
_MOST_FINDINGS: Final = 5
# Study, Series and SOP Instance UID.
_IDENTIFIERS: Final = (0x0020000D, 0x0020000E, 0x00080018)
_CHUNKS: Final = (1, 7, 100, 1000, 20_000)


class FindingError(AssertionError):
    """The listener did what it must not do."""


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
        if not _comes(lambda: not list((self.journal / "receiving").iterdir())):
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
        if not _comes(lambda: not self.open_associations() and self.open_descriptors() <= self._descriptors):
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


class _Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        # DEBUG of libraries is off in the process; the listener's own is not.
        if record.levelno >= logging.INFO or record.name.startswith(("services", "shared")):
            trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
            self.lines.append((record.levelno, f"{record.name}: {record.getMessage()}\n{trace}"))


class ThreadTarget(Target):
    """A listener in threads of this process: quick, and open to inspection."""

    def __init__(self, folder: Path, **options: object) -> None:
        self._running = Running(make_settings(folder, **options)).start()
        super().__init__(self._running.host, self._running.port, folder)
        self._log = _Log()
        self._levels = {name: logging.getLogger(name).level for name in ("", "pydicom", "pynetdicom")}
        for name in ("pydicom", "pynetdicom"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        logging.getLogger().addHandler(self._log)
        logging.getLogger().setLevel(logging.INFO)
        self.start()

    def open_descriptors(self) -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def open_associations(self) -> int:
        return int(metrics.ASSOCIATIONS_OPEN._value.get())

    def log_lines(self) -> list[tuple[int, str]]:
        lines, self._log.lines = self._log.lines, []
        return lines

    def settle(self) -> None:
        if not _comes(lambda: not any(thread.name == "dicom-association" for thread in threading.enumerate())):
            raise FindingError("an association's thread lives on without its peer")

    def check_all(self) -> None:
        super().check_all()
        text = "\n".join(event.model_dump_json() for _, event in list(self._running.publisher.events))
        text += "\n".join(path.read_text() for path in (self.folder / "archive" / "manifests").rglob("*.json"))
        for value in IDENTITY:
            if value in text:
                raise FindingError("identity in an event or a manifest")

    def stop(self) -> None:
        logging.getLogger().removeHandler(self._log)
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)
        self._running.stop()


class ProcessTarget(Target):
    """The listener's own process, without a broker."""

    def __init__(self, folder: Path) -> None:
        self._process = RealListener(folder)
        super().__init__(self._process.host, self._process.port, folder)
        self.start()

    def open_descriptors(self) -> int:
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))

    def open_threads(self) -> int:
        return len(list(Path(f"/proc/{self._process.pid}/task").iterdir()))

    def open_associations(self) -> int:
        with urllib.request.urlopen(self._process.metrics_url) as answer:
            found = re.search(r"^similis_listener_associations_open (\S+)", answer.read().decode(), re.MULTILINE)
        assert found is not None
        return int(float(found[1]))

    def log_lines(self) -> list[tuple[int, str]]:
        lines = self._process.new_log_lines()
        # The broker is away on purpose, and says so.
        return [
            (logging.ERROR if re.search(r"ERROR|CRITICAL|Traceback", line) else logging.INFO, line)
            for line in lines
            if "127.0.0.1:9" not in line
        ]

    def settle(self) -> None:
        return

    def check_case(self) -> None:
        if not self._process.is_alive:
            raise FindingError(f"the process ended: {self._process.new_log_lines()[-20:]}")
        self.check_log()

    def check_all(self) -> None:
        super().check_all()
        if not _comes(lambda: not list((self.journal / "receiving").iterdir())):
            raise FindingError("temporary files are left")

    def stop(self) -> subprocess.CompletedProcess[str]:
        return self._process.stop()


def _dicom_files(folder: Path) -> Iterator[Path]:
    """Files below a folder whose own folders come and go."""
    for name, _, files in os.walk(folder):
        yield from (Path(name, file) for file in files if file.endswith(".dcm"))


def _comes(condition: Callable[[], bool]) -> bool:
    """Whether a condition comes to hold before patience ends."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.0005)
    return True


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


def exchange(
    target: Target, stream: bytes, rng: random.Random, *, ending: str = "shutdown", chunked: bool = False
) -> bytes:
    """Send a stream on a connection of its own; what the listener answered until it closed the connection.

    `ending`: how the sender goes: "shutdown" ends its stream, "close" and "reset" leave at once.

    Raises:
        FindingError: the connection stays open though the stream has ended.
    """
    received = bytearray()
    with socket.create_connection((target.host, target.port), timeout=PATIENCE_S) as connected:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for chunk in _chunks(stream, rng) if chunked else (stream,):
                connected.sendall(chunk)
            if ending == "shutdown":
                connected.shutdown(socket.SHUT_WR)
                while data := connected.recv(1 << 16):
                    received += data
            elif ending == "reset":
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        except TimeoutError as error:
            raise FindingError("the connection stays open though its peer's stream has ended") from error
        except OSError:
            # The listener aborted, and reset what it would not read; what it answered before can still be read.
            _drain(connected, received)
    return bytes(received)


def _drain(connected: socket.socket, received: bytearray) -> None:
    try:
        while data := connected.recv(1 << 16):
            received += data
    except OSError:
        return


def _chunks(stream: bytes, rng: random.Random) -> list[bytes]:
    size = rng.choice(_CHUNKS if len(stream) < 3000 else _CHUNKS[2:])
    chunks, position = [], 0
    while position < len(stream):
        step = rng.randint(1, size)
        chunks.append(stream[position : position + step])
        position += step
    return chunks


def run_cases(name: str, numbers: range, seed: int, run: Callable[[random.Random], None]) -> int:
    """Run cases, each from a generator of its own seed; how many there were.

    Raises:
        AssertionError: names the cases that failed, and how to run one of them alone.
    """
    only = os.environ.get("SIMILIS_FUZZ_ONLY")
    if only is not None:
        numbers = range(int(only), int(only) + 1)
    failed: list[str] = []
    for number in numbers:
        try:
            run(random.Random(f"{name} {seed} {number}"))
        except FindingError as error:
            failed.append(f"SIMILIS_FUZZ_SEED={seed} SIMILIS_FUZZ_ONLY={number}: {error}")
            if len(failed) >= _MOST_FINDINGS:
                break
    assert not failed, "\n".join((f"{len(failed)} cases of {name} failed; one runs alone with these set:", *failed))
    return len(numbers)
