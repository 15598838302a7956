"""Whole messages over a socket, each within a deadline: four bytes of length (big-endian), then so many bytes."""

from __future__ import annotations

import time
from socket import socket
from typing import Final

_LENGTH_BYTES: Final = 4


class Channel:
    """One end of a connection. `timeout_s` is for a whole message, however slowly it comes; None: no limit."""

    def __init__(self, end: socket, longest_bytes: int) -> None:
        self._socket = end
        self._longest_bytes = longest_bytes

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def send(self, data: bytes, timeout_s: float | None = None) -> None:
        """Send a message.

        Raises:
            TimeoutError: it was not taken in time; part of it may have been.
            OSError: the other end is gone.
        """
        self._socket.settimeout(timeout_s)  # sendall counts it for all of the data
        self._socket.sendall(len(data).to_bytes(_LENGTH_BYTES) + data)

    def receive(self, timeout_s: float | None = None) -> bytes:
        """The next message.

        Raises:
            TimeoutError: it was not there, in whole, in time.
            EOFError, OSError: the other end is gone, or announces more than `longest_bytes`.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        length = int.from_bytes(self._exactly(_LENGTH_BYTES, deadline))
        if length > self._longest_bytes:
            raise OSError("a message is too long")
        return self._exactly(length, deadline)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _exactly(self, count: int, deadline: float | None) -> bytes:
        data = bytearray()
        while len(data) < count:
            # 0 would mean: do not wait, and fail with another error.
            self._socket.settimeout(None if deadline is None else max(1e-6, deadline - time.monotonic()))
            part = self._socket.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
            if deadline is not None and len(data) < count and time.monotonic() >= deadline:
                raise TimeoutError
        return bytes(data)
