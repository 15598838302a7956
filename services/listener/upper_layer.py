"""The DICOM upper layer's PDUs on a connection: PS3.8 section 9.3.

A P-DATA-TF PDU is not read as a whole: its fragments are handed on as they come out of the socket,
so that a PDU's length costs no memory. What a peer may hold up is bounded by time instead.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from typing import Final

ASSOCIATE_RQ: Final = 0x01
ASSOCIATE_AC: Final = 0x02
ASSOCIATE_RJ: Final = 0x03
P_DATA_TF: Final = 0x04
RELEASE_RQ: Final = 0x05
RELEASE_RP: Final = 0x06
ABORT: Final = 0x07

# Message control header, PS3.8 annex E.2.
COMMAND: Final = 0x01
LAST: Final = 0x02

# PS3.8 table 9-26: source and reason of an A-ABORT.
BY_USER: Final = (0, 0)
NO_REASON: Final = (2, 0)
UNRECOGNIZED_PDU: Final = (2, 1)
UNEXPECTED_PDU: Final = (2, 2)
INVALID_PARAMETER: Final = (2, 6)

_RELEASE_RP_PDU: Final = struct.pack(">BxI4x", RELEASE_RP, 4)
_MIN_PDU_BYTES: Final = 16  # of fragments to a peer that allows no PDU of a useful length
_PDU_HEADER_BYTES: Final = 6
_PDV_HEADER_BYTES: Final = 6
_QUICKACK: Final = getattr(socket, "TCP_QUICKACK", None)

_pdu_header = struct.Struct(">BxI")
_pdv_header = struct.Struct(">IBB")


class ClosedError(Exception):
    """The peer closed the connection, or reset it."""


class TooSlowError(Exception):
    """The peer let the time run out."""


class Connection:
    """PDUs to and from one peer. One thread reads; any thread may send.

    `receive_bytes` is the size of its one buffer; `tick_s`, a fraction of the shortest time to wait,
    is how exactly times are kept. `min_bytes_per_s` is what a peer must reach once
    something that it began to send has taken `grace_s`.
    """

    def __init__(
        self,
        connected: socket.socket,
        *,
        receive_bytes: int,
        tick_s: float,
        grace_s: float = 30.0,
        min_bytes_per_s: int = 0,
    ) -> None:
        self.socket = connected
        self._buffer = memoryview(bytearray(receive_bytes))
        self._start = self._end = 0
        self._sending = threading.Lock()
        self._timeout_s = self._tick_s = tick_s
        if isinstance(connected, ssl.SSLSocket):
            connected.settimeout(tick_s)
        else:
            # The kernel's own time-outs spare a poll before each call.
            connected.settimeout(None)
            for option, seconds in ((socket.SO_RCVTIMEO, tick_s), (socket.SO_SNDTIMEO, grace_s)):
                time_value = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
                connected.setsockopt(socket.SOL_SOCKET, option, time_value)
        self._grace_s = grace_s
        self._min_bytes_per_s = min_bytes_per_s
        self._deadline_s: float | None = None
        self._began_s = 0.0
        self._received_bytes = 0
        with contextlib.suppress(OSError):  # no TCP socket, or one that is closed already
            # PS3.8's answers are small PDUs: Nagle's algorithm would hold them for the peer's delayed ACK.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def timeout(self, seconds: float, *, in_all: bool = False) -> None:
        """Wait at most this long for each piece that is read from now on, or for all of them."""
        self._timeout_s = seconds
        self._deadline_s = time.monotonic() + seconds if in_all else None

    def expect_rate(self, *, expected: bool) -> None:
        """Whether the peer must keep up its rate from now on: within a message, not between two."""
        self._began_s = time.monotonic() if expected else 0.0
        self._received_bytes = 0

    def read_header(self) -> tuple[int, int]:
        """Type and length in bytes of the next PDU.

        Raises:
            ClosedError: the peer closed the connection.
            TooSlowError: nothing came in time.
        """
        offset = self._need(_PDU_HEADER_BYTES)
        kind, length = _pdu_header.unpack_from(self._buffer, offset)
        return kind, length

    def read_fragment_header(self) -> tuple[int, int, int]:
        """Of the next presentation data value: its fragment's length in bytes, context id and control header.

        Raises as `read_header`.
        """
        offset = self._need(_PDV_HEADER_BYTES)
        length, context_id, control = _pdv_header.unpack_from(self._buffer, offset)
        return length - 2, context_id, control

    def read(self, size_bytes: int) -> bytes:
        """Exactly `size_bytes`. Raises as `read_header`."""
        pieces = []
        while size_bytes:
            piece = self.read_some(size_bytes)
            size_bytes -= len(piece)
            pieces.append(bytes(piece))
        return b"".join(pieces)

    def read_some(self, max_bytes: int) -> memoryview:
        """At least one byte and at most `max_bytes`; valid until the next read. Raises as `read_header`."""
        if self._start == self._end:
            self._start = 0
            self._end = self._receive(self._buffer)
        start = self._start
        self._start = min(self._end, start + max_bytes)
        return self._buffer[start : self._start]

    def send(self, data: bytes) -> None:
        """Send all of `data`.

        Raises:
            ClosedError: the connection is gone.
            TooSlowError: the peer took nothing for too long.
        """
        try:
            with self._sending:
                self.socket.sendall(data)
        except (BlockingIOError, TimeoutError) as error:
            raise TooSlowError("the peer takes nothing") from error
        except OSError as error:
            raise ClosedError("the connection is closed") from error

    def shut(self) -> None:
        """End the connection from any thread: whoever waits in it wakes up. Its reader closes it; safe to repeat."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection, also one that the peer has reset already; safe to repeat. For its reader only."""
        self.shut()
        self.socket.close()

    def _need(self, size_bytes: int) -> int:
        """See that `size_bytes` lie in the buffer, and step over them; the offset where they begin."""
        if self._end - self._start < size_bytes:
            held = self._end - self._start
            self._buffer[:held] = bytes(self._buffer[self._start : self._end])
            self._start, self._end = 0, held
            while self._end < size_bytes:
                self._end += self._receive(self._buffer[self._end :])
        offset = self._start
        self._start += size_bytes
        return offset

    def _receive(self, into: memoryview) -> int:
        count = self._receive_in_time(into)
        if not count:
            raise ClosedError("the peer closed the connection")
        if _QUICKACK is not None:
            # A sender with Nagle's algorithm on waits for this acknowledgement before its next small segment.
            with contextlib.suppress(OSError):
                self.socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        if self._deadline_s is not None and time.monotonic() >= self._deadline_s:
            # However often a drip of bytes came in between.
            raise TooSlowError("not everything came in time")
        self._received_bytes += count
        if self._began_s and self._min_bytes_per_s:
            elapsed_s = time.monotonic() - self._began_s
            if elapsed_s > self._grace_s and self._received_bytes < elapsed_s * self._min_bytes_per_s:
                raise TooSlowError("the peer sends too slowly")
        return count

    def _receive_in_time(self, into: memoryview) -> int:
        """Sleeps in the socket for a tick at a time: so a change of the time to wait costs no system call."""
        waited_s = 0.0
        while True:
            try:
                return self.socket.recv_into(into)
            except (BlockingIOError, TimeoutError):
                waited_s += self._tick_s
                if waited_s >= self._timeout_s or (self._deadline_s and time.monotonic() >= self._deadline_s):
                    raise TooSlowError("nothing came in time") from None
            except (OSError, ValueError) as error:
                raise ClosedError("the connection is closed") from error


def abort_pdu(source_and_reason: tuple[int, int]) -> bytes:
    """An A-ABORT PDU: PS3.8 section 9.3.8."""
    return struct.pack(">BxI2xBB", ABORT, 4, *source_and_reason)


def reject_pdu(result: int, source: int, reason: int) -> bytes:
    """An A-ASSOCIATE-RJ PDU: PS3.8 section 9.3.4."""
    return struct.pack(">BxIxBBB", ASSOCIATE_RJ, 4, result, source, reason)


def release_reply_pdu() -> bytes:
    """An A-RELEASE-RP PDU: PS3.8 section 9.3.7."""
    return _RELEASE_RP_PDU


def message_pdus(context_id: int, command: bytes, data_set: bytes = b"", *, max_pdu_bytes: int) -> bytes:
    """A DIMSE message as P-DATA-TF PDUs of at most `max_pdu_bytes` each (0: any length), PS3.8 section 9.3.5."""
    # Annex E.1: a fragment has an even length.
    step = max(max_pdu_bytes - _PDV_HEADER_BYTES & ~1, _MIN_PDU_BYTES) if max_pdu_bytes else 1 << 20
    pdus = []
    for kind, data in ((COMMAND, command), (0, data_set)):
        for start in range(0, len(data), step):
            fragment = data[start : start + step]
            control = kind | (LAST if start + step >= len(data) else 0)
            size_bytes = len(fragment)
            pdus.append(struct.pack(">BxIIBB", P_DATA_TF, size_bytes + 6, size_bytes + 2, context_id, control))
            pdus.append(fragment)
    return b"".join(pdus)
