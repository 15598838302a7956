"""Puts an association's DIMSE messages together out of their fragments: PS3.8 section 9.3.5 and annex E."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from services.listener import dimse
from services.listener import upper_layer as ul
from services.listener.negotiation import STORAGE_COMMITMENT, VERIFICATION, AcceptedContext
from services.listener.store import Reception

MAX_COMMAND_BYTES: Final = 1 << 16
MAX_DATA_SET_BYTES: Final = 16 << 20
"""Of a data set that is no object's."""
DRAINED_BYTES: Final = 1 << 30
"""How much more of an object than is allowed is read and dropped, so that it can be answered with 0xA700."""
MAX_EMPTY_FRAGMENTS: Final = 1000
"""Of one message."""


class AbortError(Exception):
    """The association is to be aborted: PS3.8 section 9.3.8."""

    def __init__(self, source_and_reason: tuple[int, int], why: str) -> None:
        super().__init__(why)
        self.pdu = ul.abort_pdu(source_and_reason)


@dataclass(frozen=True, slots=True)
class Message:
    """A whole DIMSE message. Its data set is in `reception` if it is an object's, else in `data_set`."""

    command: dimse.Command
    context_id: int
    context: AcceptedContext
    reception: Reception | None
    data_set: bytes


class MessageAssembly:
    """Takes fragments, for one thread, and gives whole messages.

    `begin_object` is asked where the data set of a C-STORE request is to go before it comes.
    """

    def __init__(
        self,
        connection: ul.Connection,
        contexts: Mapping[int, AcceptedContext],
        begin_object: Callable[[dimse.Command, AcceptedContext], Reception],
        max_object_bytes: int,
    ) -> None:
        self._connection = connection
        self._contexts = contexts
        self._begin_object = begin_object
        # No context has the id 0: here it means that none is in use.
        self._context_id = 0
        self._command_bytes = bytearray()
        self._command: dimse.Command | None = None
        self._reception: Reception | None = None
        self._data_set = bytearray()
        self._data_set_bytes = 0
        self._empty_fragments = 0
        self._max_object_bytes = max_object_bytes

    @property
    def is_idle(self) -> bool:
        """Whether no message has begun that is not whole, and answered, yet."""
        return not self._context_id

    def discard(self) -> None:
        """Nothing more comes: what has begun is let go."""
        reception, self._reception = self._reception, None
        if reception is not None:
            reception.discard()

    def take(self, length: int) -> Iterator[Message]:
        """The messages that end in a P-DATA-TF PDU, of which `length` bytes follow in the connection.

        Raises:
            AbortError: the peer breaks the protocol.
            ClosedError, TooSlowError: as the connection's reading.
        """
        if not length:
            raise AbortError(ul.INVALID_PARAMETER, "a P-DATA PDU without an item")
        while length:
            if length < 6:
                raise AbortError(ul.INVALID_PARAMETER, "a P-DATA PDU ends within an item")
            size_bytes, context_id, control = self._connection.read_fragment_header()
            length -= 6 + size_bytes
            if size_bytes < 0 or length < 0:
                raise AbortError(ul.INVALID_PARAMETER, "an item is longer than its PDU")
            if self._context_id != context_id or not context_id:
                if self._context_id or context_id not in self._contexts:
                    raise AbortError(ul.INVALID_PARAMETER, "a fragment of another presentation context")
                self._context_id = context_id
            is_last = bool(control & ul.LAST)
            if not size_bytes and not is_last:
                self._empty_fragments += 1
                if self._empty_fragments > MAX_EMPTY_FRAGMENTS:
                    raise AbortError(ul.INVALID_PARAMETER, "a message of empty fragments")
            if control & ul.COMMAND:
                is_whole = self._take_command(size_bytes, is_last=is_last)
            else:
                self._take_data_set(size_bytes)
                is_whole = is_last
            if is_whole:
                # Whoever takes it answers it before the next fragment is read.
                yield self._message()
                self._reset()

    def _take_command(self, size_bytes: int, *, is_last: bool) -> bool:
        """Whether the message ends with its command."""
        if self._command is not None or len(self._command_bytes) + size_bytes > MAX_COMMAND_BYTES:
            raise AbortError(ul.INVALID_PARAMETER, "a command within a data set, or one without end")
        if size_bytes:
            self._command_bytes += self._connection.read(size_bytes)
        if not is_last:
            return False
        try:
            command = dimse.parse_command(self._command_bytes)
        except dimse.CommandError as error:
            raise AbortError(ul.INVALID_PARAMETER, f"a command set cannot be read: {error}") from None
        self._command_bytes.clear()
        self._command = command
        context = self._contexts[self._context_id]
        if command.has_data_set and command.field == dimse.C_STORE_RQ and stores_by(context):
            self._reception = self._begin_object(command, context)
        return not command.has_data_set

    def _take_data_set(self, size_bytes: int) -> None:
        if self._command is None:
            raise AbortError(ul.INVALID_PARAMETER, "a data set without a command")
        context = self._contexts[self._context_id]
        # Of no other message is the data set looked at.
        is_wanted = self._command.field == dimse.N_ACTION_RQ and context.abstract_syntax == STORAGE_COMMITMENT
        limit_bytes = MAX_DATA_SET_BYTES if self._reception is None else self._max_object_bytes + DRAINED_BYTES
        self._data_set_bytes += size_bytes
        if self._data_set_bytes > limit_bytes:
            raise AbortError(ul.BY_USER, "a data set without end")
        while size_bytes:
            piece = self._connection.read_some(size_bytes)
            size_bytes -= len(piece)
            if self._reception is not None:
                self._reception.write(piece)
            elif is_wanted:
                self._data_set += piece

    def _message(self) -> Message:
        command, context_id = self._command, self._context_id
        assert command is not None  # take() has seen to it
        return Message(command, context_id, self._contexts[context_id], self._reception, bytes(self._data_set))

    def _reset(self) -> None:
        self._context_id, self._command, self._reception = 0, None, None
        self._data_set = bytearray()
        self._data_set_bytes = self._empty_fragments = 0


def stores_by(context: AcceptedContext) -> bool:
    """Whether objects may come in by this context."""
    return context.abstract_syntax not in (VERIFICATION, STORAGE_COMMITMENT)
