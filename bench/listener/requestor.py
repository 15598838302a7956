"""A requestor that opens an association and then says nothing: PS3.8 section 9.3 by hand."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from bench.listener.errors import BenchmarkError

_APPLICATION_CONTEXT: Final = b"1.2.840.10008.3.1.1.1"
_CT_IMAGE_STORAGE: Final = b"1.2.840.10008.5.1.4.1.1.2"
_IMPLICIT_VR_LITTLE_ENDIAN: Final = b"1.2.840.10008.1.2"
_IMPLEMENTATION_CLASS: Final = b"1.2.826.0.1.3680043.8.498.1"
_ASSOCIATE_AC: Final = 2
_RELEASE_RQ: Final = b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"


class Address(NamedTuple):
    """Where a receiver listens."""

    host: str
    port: int
    ae_title: str


@contextlib.contextmanager
def association(address: Address, *, timeout_s: float) -> Iterator[socket.socket]:
    """An established association with one presentation context (CT), released at the end.

    Raises:
        BenchmarkError: the receiver did not accept it.
        OSError: the receiver could not be reached, or was silent for `timeout_s`.
    """
    with socket.create_connection(address[:2], timeout=timeout_s) as connection:
        connection.sendall(_associate_rq(address.ae_title))
        answer = connection.recv(6, socket.MSG_WAITALL)
        if not answer or answer[0] != _ASSOCIATE_AC:
            raise BenchmarkError(f"the receiver did not accept an association: {answer.hex() or 'it hung up'}")
        (rest,) = struct.unpack(">I", answer[2:])
        connection.recv(rest, socket.MSG_WAITALL)
        yield connection
        with contextlib.suppress(OSError):
            connection.sendall(_RELEASE_RQ)
            connection.recv(10, socket.MSG_WAITALL)


def is_open(connection: socket.socket) -> bool:
    """Whether the peer has neither closed the connection nor sent an abort."""
    connection.setblocking(False)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _associate_rq(called_ae_title: str) -> bytes:
    context = _item(0x20, b"\x01\0\0\0" + _item(0x30, _CT_IMAGE_STORAGE) + _item(0x40, _IMPLICIT_VR_LITTLE_ENDIAN))
    user = _item(0x50, _item(0x51, struct.pack(">I", 16_384)) + _item(0x52, _IMPLEMENTATION_CLASS))
    titles = called_ae_title.encode("ascii").ljust(16) + b"BENCH".ljust(16)
    body = b"\0\x01\0\0" + titles + bytes(32) + _item(0x10, _APPLICATION_CONTEXT) + context + user
    return b"\x01\0" + struct.pack(">I", len(body)) + body


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value
