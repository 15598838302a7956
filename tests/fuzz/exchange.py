"""A stream of bytes to a listener, and what it answers; what it must not do is a finding."""

from __future__ import annotations

import random
import socket
from typing import Final, Protocol

PATIENCE_S: Final = 10.0
_CHUNKS: Final = (1, 7, 100, 1000, 20_000)


class FindingError(AssertionError):
    """The listener did what it must not do."""


class Address(Protocol):
    """Where a listener is."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


def exchange(
    address: Address, stream: bytes, rng: random.Random, *, ending: str = "shutdown", chunked: bool = False
) -> bytes:
    """Send a stream on a connection of its own; what the listener answered until it closed the connection.

    `ending`: how the sender goes: "shutdown" ends its stream, "close" and "reset" leave at once.

    Raises:
        FindingError: the connection stays open though the stream has ended.
    """
    received = bytearray()
    with socket.create_connection((address.host, address.port), timeout=PATIENCE_S) as connected:
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
