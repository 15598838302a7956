"""A sender that writes its PDUs byte by byte: what no toolkit would send, but the Standard allows or forbids."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

from pynetdicom.pdu import A_ASSOCIATE_AC

from tests.services.listener.listener_harness import MR, Running, Sample, item

VERIFICATION: Final = "1.2.840.10008.1.1"
IMPLICIT: Final = "1.2.840.10008.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = 2, 3, 4, 5, 6, 7
C_STORE_RQ, C_ECHO_RQ, RESPONSE = 0x0001, 0x0030, 0x8000
TEST: Final = (
    (VERIFICATION, (IMPLICIT,)),
    (MR, (EXPLICIT,)),
)

Contexts = Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class Request:
    """An A-ASSOCIATE-RQ: PS3.8 section 9.3.2. Context ids are 1, 3, 5, …"""

    contexts: Contexts = TEST
    calling: str = "WIRE"
    called: str = "SIMILIS"
    version: int = 1
    application_context: str = "1.2.840.10008.3.1.1.1"
    max_pdu_bytes: int = 16_384
    user_items: bytes = b""
    implementation_version: str = ""

    def encode(self) -> bytes:
        user = item(0x51, struct.pack(">I", self.max_pdu_bytes)) + item(0x52, b"1.2.3") + self.user_items
        if self.implementation_version:
            user += item(0x55, self.implementation_version.encode())
        items = item(0x10, self.application_context.encode())
        for number, (abstract, syntaxes) in enumerate(self.contexts):
            names = item(0x30, abstract.encode()) + b"".join(item(0x40, one.encode()) for one in syntaxes)
            items += item(0x20, bytes([2 * number + 1, 0, 0, 0]) + names)
        titles = self.called.encode().ljust(16) + self.calling.encode().ljust(16)
        return pdu(0x01, struct.pack(">H2x", self.version) + titles + bytes(32) + items + item(0x50, user))


@dataclass(frozen=True)
class Response:
    """A DIMSE response's command set, and the lengths of the PDUs that it came in."""

    fields: dict[int, bytes]
    pdu_lengths: tuple[int, ...]
    fragment_lengths: tuple[int, ...]

    @property
    def kind(self) -> int:
        return number(self.fields[0x0100])

    @property
    def message_id(self) -> int:
        return number(self.fields[0x0120])

    @property
    def status(self) -> int:
        return number(self.fields[0x0900])

    @property
    def sop(self) -> str:
        return self.fields[0x1000].rstrip(b"\0").decode()


@dataclass
class Wire:
    """One connection."""

    connection: socket.socket
    accepted: A_ASSOCIATE_AC | None = None
    _items: dict[int, list[bytes]] = field(default_factory=dict)

    @classmethod
    def connect(cls, listener: Running) -> Wire:
        connection = socket.create_connection((listener.host, listener.port), timeout=20)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(connection)

    @classmethod
    def associate(cls, listener: Running, request: Request | None = None) -> Wire:
        """An association that is accepted."""
        wire = cls.connect(listener)
        try:
            kind, body = wire.ask(request or Request())
            assert kind == ASSOCIATE_AC, (kind, body)
        except BaseException:
            wire.connection.close()
            raise
        wire.accepted = A_ASSOCIATE_AC()
        wire.accepted.decode(pdu(kind, body))
        wire._items = _user_items(body)
        return wire

    def ask(self, request: Request) -> tuple[int, bytes]:
        """Send an association request; type and body of the answer."""
        self.send(request.encode())
        return self.read_pdu()

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def read_pdu(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxI", self._read(6))
        return kind, self._read(length)

    def response(self) -> Response:
        """The next DIMSE response."""
        command, pdu_lengths, fragment_lengths = b"", [], []
        is_last = False
        while not is_last:
            kind, body = self.read_pdu()
            assert kind == P_DATA, (kind, body)
            pdu_lengths.append(len(body))
            while body:
                length, _, control = struct.unpack_from(">IBB", body)
                fragment_lengths.append(length - 2)
                command += body[6 : 4 + length]
                is_last = bool(control & 2)
                body = body[4 + length :]
        return Response(elements(command), tuple(pdu_lengths), tuple(fragment_lengths))

    def release(self) -> None:
        self.send(pdu(RELEASE_RQ, bytes(4)))
        assert self.read_pdu()[0] == RELEASE_RP
        assert self.is_closed()

    def is_closed(self) -> bool:
        """Whether the listener closes the connection, once this side has nothing more to send."""
        self.connection.shutdown(socket.SHUT_WR)
        try:
            return not self.connection.recv(1)
        except ConnectionResetError:
            return True

    def user_item(self, kind: int) -> list[bytes]:
        """The bodies of the accept's user information items of a type."""
        return self._items.get(kind, [])

    def _read(self, size_bytes: int) -> bytes:
        data = b""
        while len(data) < size_bytes:
            piece = self.connection.recv(size_bytes - len(data))
            if not piece:
                raise ConnectionError("the listener closed the connection")
            data += piece
        return data

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.connection.close()


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxI", kind, len(body)) + body


def abort() -> bytes:
    return pdu(ABORT, bytes(4))


def store_command(
    sample: Sample, *, message_id: int = 1, priority: int = 0, move_originator: tuple[str, int] | None = None
) -> bytes:
    """A C-STORE-RQ's command set: PS3.7 section 9.3.1.1."""
    parts = [
        _uid(0x0002, sample.sop_class),
        _us(0x0100, C_STORE_RQ),
        _us(0x0110, message_id),
        _us(0x0700, priority),
        _us(0x0800, 0x0000),
        _uid(0x1000, sample.sop),
    ]
    if move_originator is not None:
        title, originator_id = move_originator
        parts += [_element(0x1030, title.encode().ljust(len(title) + len(title) % 2)), _us(0x1031, originator_id)]
    return _command_set(parts)


def echo_command(message_id: int = 1) -> bytes:
    return _command_set(
        [_uid(0x0002, VERIFICATION), _us(0x0100, C_ECHO_RQ), _us(0x0110, message_id), _us(0x0800, 0x0101)]
    )


def message(context_id: int, command: bytes, data_set: bytes = b"", *, fragment_bytes: int = 1 << 30) -> list[bytes]:
    """A message's presentation data values: PS3.8 section 9.3.5.1."""
    values = []
    for kind, data in ((1, command), (0, data_set)):
        for start in range(0, len(data), fragment_bytes):
            piece = data[start : start + fragment_bytes]
            control = kind | (2 if start + fragment_bytes >= len(data) else 0)
            values.append(struct.pack(">IBB", len(piece) + 2, context_id, control) + piece)
    return values


def one_each(values: Iterable[bytes]) -> bytes:
    """P-DATA-TF PDUs with a presentation data value each."""
    return b"".join(pdu(P_DATA, value) for value in values)


def elements(command: bytes) -> dict[int, bytes]:
    found, position = {}, 0
    while position < len(command):
        group, element, length = struct.unpack_from("<HHI", command, position)
        assert group == 0
        found[element] = command[position + 8 : position + 8 + length]
        position += 8 + length
    assert number(found.pop(0)) == len(command) - 12
    return found


def number(raw: bytes) -> int:
    return int.from_bytes(raw, "little")


def _user_items(body: bytes) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    outer = dict(_items(body[68:]))
    for kind, content in _items(outer[0x50]):
        found.setdefault(kind, []).append(content)
    return found


def _items(body: bytes) -> Iterable[tuple[int, bytes]]:
    while body:
        kind, length = struct.unpack_from(">BxH", body)
        yield kind, body[4 : 4 + length]
        body = body[4 + length :]


def _command_set(parts: Iterable[bytes]) -> bytes:
    body = b"".join(parts)
    return _element(0x0000, struct.pack("<I", len(body))) + body


def _element(element: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, element, len(value)) + value


def _us(element: int, value: int) -> bytes:
    return _element(element, struct.pack("<H", value))


def _uid(element: int, uid: str) -> bytes:
    raw = uid.encode()
    return _element(element, raw + b"\0" * (len(raw) % 2))
