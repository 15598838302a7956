"""DIMSE command sets, PS3.7: read into a small dictionary, written from fields.

A command set is always Implicit VR Little Endian (PS3.7 section 6.3.1), and the listener needs few
of its elements, so it is read and written here: for C-STORE, which comes thousands of times an
association, pynetdicom's general classes cost more than storing the object.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from shared.ids import is_valid_uid

C_STORE_RQ: Final = 0x0001
C_ECHO_RQ: Final = 0x0030
C_CANCEL_RQ: Final = 0x0FFF
N_EVENT_REPORT_RQ: Final = 0x0100
N_EVENT_REPORT_RSP: Final = 0x8100
N_ACTION_RQ: Final = 0x0130
RESPONSE: Final = 0x8000

SUCCESS: Final = 0x0000
UNRECOGNIZED_OPERATION: Final = 0x0211  # PS3.7 annex C
NO_SUCH_SOP_CLASS: Final = 0x0118
NO_SUCH_SOP_INSTANCE: Final = 0x0112
NO_SUCH_ACTION_TYPE: Final = 0x0123
PROCESSING_FAILURE: Final = 0x0110

_NO_DATA_SET: Final = 0x0101
_MAX_COMMENT_CHARACTERS: Final = 64  # Error Comment is LO

_AFFECTED_SOP_CLASS_UID: Final = 0x0002
_REQUESTED_SOP_CLASS_UID: Final = 0x0003
_COMMAND_FIELD: Final = 0x0100
_MESSAGE_ID: Final = 0x0110
_MESSAGE_ID_BEING_RESPONDED_TO: Final = 0x0120
_COMMAND_DATA_SET_TYPE: Final = 0x0800
_STATUS: Final = 0x0900
_ERROR_COMMENT: Final = 0x0902
_AFFECTED_SOP_INSTANCE_UID: Final = 0x1000
_REQUESTED_SOP_INSTANCE_UID: Final = 0x1001
_EVENT_TYPE_ID: Final = 0x1002
_ACTION_TYPE_ID: Final = 0x1008

_element = struct.Struct("<HHI")
_us = struct.Struct("<H")


class CommandError(Exception):
    """A command set that cannot be read."""


@dataclass(frozen=True, slots=True)
class Command:
    """What the listener reads of a command set; what is absent is 0 or empty."""

    field: int
    message_id: int
    responded_to: int
    sop_class_uid: str
    sop_instance_uid: str
    status: int
    type_id: int
    has_data_set: bool


def parse_command(data: bytes | bytearray) -> Command:
    """Read a command set. UIDs are those affected or, in N-ACTION, requested.

    Raises:
        CommandError: it is malformed, or lacks a command field.
    """
    found: dict[int, bytes] = {}
    position, end = 0, len(data)
    while position < end:
        if end - position < 8:
            raise CommandError("it ends within an element")
        group, element, length = _element.unpack_from(data, position)
        position += 8
        if group or length > end - position:
            raise CommandError("it holds what is no command element")
        found[element] = bytes(data[position : position + length])
        position += length
    field = _number(found, _COMMAND_FIELD)
    if field is None:
        raise CommandError("it has no command field")
    data_set_type = _number(found, _COMMAND_DATA_SET_TYPE)
    return Command(
        field=field,
        message_id=_number(found, _MESSAGE_ID) or 0,
        responded_to=_number(found, _MESSAGE_ID_BEING_RESPONDED_TO) or 0,
        sop_class_uid=_uid(found, _AFFECTED_SOP_CLASS_UID) or _uid(found, _REQUESTED_SOP_CLASS_UID),
        sop_instance_uid=_uid(found, _AFFECTED_SOP_INSTANCE_UID) or _uid(found, _REQUESTED_SOP_INSTANCE_UID),
        status=_number(found, _STATUS) or 0,
        type_id=_number(found, _ACTION_TYPE_ID) or _number(found, _EVENT_TYPE_ID) or 0,
        has_data_set=data_set_type is not None and data_set_type != _NO_DATA_SET,
    )


def response(request: Command, status: int, comment: str = "") -> bytes:
    """The response to a request, without a data set."""
    elements = [
        _encode_uid(_AFFECTED_SOP_CLASS_UID, request.sop_class_uid),
        _encode_us(_COMMAND_FIELD, request.field | RESPONSE),
        _encode_us(_MESSAGE_ID_BEING_RESPONDED_TO, request.message_id),
        _encode_us(_COMMAND_DATA_SET_TYPE, _NO_DATA_SET),
        _encode_us(_STATUS, status),
    ]
    if comment:
        text = comment[:_MAX_COMMENT_CHARACTERS].encode("ascii", errors="replace")
        elements.append(_encode(_ERROR_COMMENT, text + b" " * (len(text) % 2)))
    elements.append(_encode_uid(_AFFECTED_SOP_INSTANCE_UID, request.sop_instance_uid))
    if request.field == N_ACTION_RQ:
        elements.append(_encode_us(_ACTION_TYPE_ID, request.type_id))
    return _command_set(elements)


def event_report_request(*, message_id: int, sop_class_uid: str, sop_instance_uid: str, event_type_id: int) -> bytes:
    """An N-EVENT-REPORT-RQ that a data set follows."""
    return _command_set(
        [
            _encode_uid(_AFFECTED_SOP_CLASS_UID, sop_class_uid),
            _encode_us(_COMMAND_FIELD, N_EVENT_REPORT_RQ),
            _encode_us(_MESSAGE_ID, message_id),
            _encode_us(_COMMAND_DATA_SET_TYPE, 0x0001),
            _encode_uid(_AFFECTED_SOP_INSTANCE_UID, sop_instance_uid),
            _encode_us(_EVENT_TYPE_ID, event_type_id),
        ]
    )


def _number(found: dict[int, bytes], element: int) -> int | None:
    raw = found.get(element)
    return None if raw is None or len(raw) != 2 else int(_us.unpack(raw)[0])


def _uid(found: dict[int, bytes], element: int) -> str:
    """A UID, or nothing if it is none: it is answered, compared and stored, but never trusted."""
    raw = found.get(element, b"").rstrip(b"\0 ")
    text = raw.decode("ascii", errors="replace")
    return text if is_valid_uid(text) else ""


def _command_set(elements: list[bytes]) -> bytes:
    body = b"".join(elements)
    return _element.pack(0, 0, 4) + struct.pack("<I", len(body)) + body


def _encode(element: int, value: bytes) -> bytes:
    return _element.pack(0, element, len(value)) + value


def _encode_us(element: int, value: int) -> bytes:
    return _element.pack(0, element, 2) + _us.pack(value)


def _encode_uid(element: int, uid: str) -> bytes:
    raw = uid.encode("ascii")
    return _encode(element, raw + b"\0" * (len(raw) % 2)) if raw else b""
