"""An association whose sender decides about every byte, one message after the other."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from types import TracebackType

from tests.fuzz import streams
from tests.fuzz.exchange import PATIENCE_S, Address, FindingError
from tests.fuzz.streams import Message, Sent


class RawAssociation:
    """An association that was accepted, by `request` if it is given.

    Raises:
        OSError: from the constructor, if there is no listener.
        FindingError: from the constructor, if it was not accepted; from `answer`, if no answer comes.
    """

    def __init__(self, target: Address, request: bytes = b"") -> None:
        self.socket = socket.create_connection((target.host, target.port), timeout=PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._held = b""
        self.contexts: dict[int, str] = {}
        try:
            self.send(request or streams.associate_rq())
            self.contexts = streams.answers(self._pdu()).contexts
        finally:
            if not self.contexts:
                self.socket.close()
        if not self.contexts:
            raise FindingError("a valid association request was not accepted")

    def send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def request(self, message: Message, rng: random.Random | None = None) -> int:
        """Send a message and wait for its answer; the status."""
        self.send(b"".join(streams.pdus(message, rng)))
        return self.answer()

    def answer(self) -> int:
        """The status of the next response."""
        received = b""
        while True:
            received += self._pdu()
            answered = streams.answers(received)
            if answered.responses:
                return answered.responses[0][1]
            if answered.end:
                raise FindingError("the association was aborted")

    def sent(self, message: Message, sop: str) -> Sent:
        """A C-STORE request's object, for `Target.check_stored`."""
        return Sent(message.context_id, streams.CONTEXTS[message.context_id][0], sop, message.data_set)

    def release(self) -> None:
        """Release the association in order."""
        self.send(streams.release_rq())
        if streams.answers(self._pdu()).end != streams.RELEASE_RP:
            raise FindingError("a release was not answered")
        self.socket.close()

    def abort(self) -> None:
        self.send(streams.abort())
        self.socket.close()

    def drop(self, *, reset: bool = False) -> None:
        """Leave without a word."""
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _pdu(self) -> bytes:
        while len(self._held) < 6 or len(self._held) < 6 + int.from_bytes(self._held[2:6], "big"):
            try:
                data = self.socket.recv(1 << 16)
            except OSError as error:
                raise FindingError(f"no answer: {type(error).__name__}") from error
            if not data:
                raise FindingError("no answer: the connection was closed")
            self._held += data
        size_bytes = 6 + int.from_bytes(self._held[2:6], "big")
        pdu, self._held = self._held[:size_bytes], self._held[size_bytes:]
        return pdu

    def __enter__(self) -> RawAssociation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.socket.close()
