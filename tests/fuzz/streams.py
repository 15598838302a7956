"""Byte streams of a DICOM sender, and what such a stream says: written and read apart from the listener's own code."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import PresentationContext

MR: Final = "1.2.840.10008.5.1.4.1.1.4"
VERIFICATION: Final = "1.2.840.10008.1.1"
COMMITMENT: Final = "1.2.840.10008.1.20.1"
ASSOCIATE_RQ, ASSOCIATE_AC, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = 1, 2, 4, 5, 6, 7
C_STORE_RQ, C_FIND_RQ, C_ECHO_RQ, N_ACTION_RQ, C_CANCEL_RQ = 0x0001, 0x0020, 0x0030, 0x0130, 0x0FFF
C_STORE_RSP, C_ECHO_RSP = 0x8001, 0x8030

# Presentation context id to abstract and transfer syntax, of every request that is made here.
CONTEXTS: Final = {
    1: (VERIFICATION, ImplicitVRLittleEndian),
    3: (MR, ExplicitVRLittleEndian),
    5: (MR, ImplicitVRLittleEndian),
    7: (MR, ExplicitVRBigEndian),
    9: (MR, DeflatedExplicitVRLittleEndian),
    11: (COMMITMENT, ExplicitVRLittleEndian),
    13: ("1.2.826.0.1.3680043.2.1143.9", JPEG2000Lossless),
    15: ("1.2.840.10008.5.1.4.1.2.2.1", ImplicitVRLittleEndian),
}


@dataclass(frozen=True)
class Message:
    """A DIMSE message to be sent."""

    context_id: int
    command: bytes
    data_set: bytes = b""


@dataclass(frozen=True)
class Sent:
    """A whole C-STORE request, as it stands in a stream."""

    context_id: int
    sop_class: str
    sop: str
    data_set: bytes


@dataclass
class Answers:
    """What a listener sent: its last A-ABORT or A-RELEASE-RP as `end`, if any."""

    contexts: dict[int, str] = field(default_factory=dict)
    responses: list[tuple[int, int]] = field(default_factory=list)
    """Command field and status."""
    end: int = 0

    @property
    def stores(self) -> list[int]:
        """The statuses of the C-STORE responses."""
        return [status for kind, status in self.responses if kind == C_STORE_RSP]


@cache
def associate_rq(
    kind: int = 0, max_pdu_bytes: int = 16_384, contexts: tuple[tuple[str, str], ...] = tuple(CONTEXTS.values())
) -> bytes:
    """An A-ASSOCIATE-RQ by pynetdicom's encoder; `kind` 1 and 2 have more user items than 0.

    `contexts` are abstract and transfer syntaxes; their ids are 1, 3, 5 and so on.
    """
    request = A_ASSOCIATE()
    request.application_context_name = "1.2.840.10008.3.1.1.1"
    request.calling_ae_title, request.called_ae_title = "FUZZ", "SIMILIS"
    proposed = []
    for number, (abstract, transfer) in enumerate(contexts):
        context = PresentationContext()
        context.context_id, context.abstract_syntax, context.transfer_syntax = 2 * number + 1, abstract, [transfer]
        proposed.append(context)
    request.presentation_context_definition_list = proposed
    length = MaximumLengthNotification()
    length.maximum_length_received = max_pdu_bytes
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = "1.2.826.0.1.3680043.9.3811.3.0.4"
    items: list[object] = [length, implementation]
    if kind:
        version = ImplementationVersionNameNotification()
        version.implementation_version_name = "FUZZ_1"
        role = SCP_SCU_RoleSelectionNegotiation()
        role.sop_class_uid, role.scu_role, role.scp_role = MR, True, kind == 2
        extended = SOPClassExtendedNegotiation()
        extended.sop_class_uid, extended.service_class_application_information = MR, b"\x02\x00\x03\x00\x01\x00"
        items += [version, role, extended]
    if kind == 2:
        window = AsynchronousOperationsWindowNegotiation()
        window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 5
        user = UserIdentityNegotiation()
        user.user_identity_type, user.primary_field = 1, b"somebody"
        user.positive_response_requested = False
        items += [window, user]
    request.user_information = items
    return bytes(A_ASSOCIATE_RQ(request).encode())


def release_rq() -> bytes:
    return struct.pack(">BxI4x", RELEASE_RQ, 4)


def abort() -> bytes:
    return struct.pack(">BxI4x", ABORT, 4)


def command(kind: int, *, sop_class: str = "", sop: str = "", message_id: int = 1, has_data_set: bool = False) -> bytes:
    """A command set; the UIDs are affected or, in N-ACTION, requested."""
    is_action = kind == N_ACTION_RQ
    elements = [
        _uid(0x0003 if is_action else 0x0002, sop_class),
        _us(0x0100, kind),
        _us(0x0120 if kind == C_CANCEL_RQ else 0x0110, message_id),
        _us(0x0700, 0) if kind in (C_STORE_RQ, C_FIND_RQ) else b"",
        _us(0x0800, 1 if has_data_set else 0x0101),
        _uid(0x1001 if is_action else 0x1000, sop),
        _us(0x1008, 1) if is_action else b"",
    ]
    body = b"".join(elements)
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def store(context_id: int, sop: str, data_set: bytes, *, message_id: int = 1, sop_class: str = "") -> Message:
    """A C-STORE request, of the context's SOP class if no other is given."""
    head = command(
        C_STORE_RQ,
        sop_class=sop_class or CONTEXTS[context_id][0],
        sop=sop,
        message_id=message_id,
        has_data_set=True,
    )
    return Message(context_id, head, data_set)


def echo(message_id: int = 1) -> Message:
    return Message(1, command(C_ECHO_RQ, sop_class=VERIFICATION, message_id=message_id))


def pdus(message: Message, rng: random.Random | None = None) -> list[bytes]:
    """P-DATA-TF PDUs of a message: whole, or split and packed at random."""
    fragments = [
        struct.pack(">IBB", len(piece) + 2, message.context_id, kind | (2 if is_last else 0)) + piece
        for kind, data in ((1, message.command), (0, message.data_set))
        for piece, is_last in _split(data, rng)
        if data
    ]
    packed: list[bytes] = []
    while fragments:
        count = 1 if rng is None else rng.choice((1, 1, 2, 5, len(fragments)))
        body, fragments = b"".join(fragments[:count]), fragments[count:]
        packed.append(struct.pack(">BxI", P_DATA, len(body)) + body)
    return packed


def _split(data: bytes, rng: random.Random | None) -> Iterator[tuple[bytes, bool]]:
    if rng is None or rng.random() < 0.3:
        yield data, True
        return
    largest = rng.choice((1, 2, 7, 100, 1000, 30_000)) if len(data) < 2000 else rng.choice((100, 1000, 30_000, 120_000))
    position = 0
    while position < len(data):
        step = rng.randint(0 if rng.random() < 0.05 else 1, largest)
        yield data[position : position + step], position + step >= len(data)
        position += step


def sent_objects(stream: bytes) -> list[Sent]:
    """The whole C-STORE requests of a stream in their order, as far as it can be read."""
    found = []
    pieces: tuple[bytearray, bytearray] = (bytearray(), bytearray())
    fields: dict[int, bytes] | None = None
    for context_id, control, fragment in _fragments(stream):
        pieces[0 if control & 1 else 1].extend(fragment)
        if not control & 2:
            continue
        if control & 1:
            fields = _elements(bytes(pieces[0]))
            pieces[0].clear()
            if fields is None:
                break
            if fields.get(0x0800, b"\1\1") != b"\1\1":
                continue
        elif fields is None:
            break
        if fields.get(0x0100) == struct.pack("<H", C_STORE_RQ):
            sop_class, sop = (fields.get(tag, b"").rstrip(b"\0 ").decode("latin-1") for tag in (0x0002, 0x1000))
            found.append(Sent(context_id, sop_class, sop, bytes(pieces[1])))
        pieces[1].clear()
        fields = None
    return found


def answers(received: bytes) -> Answers:
    """Read what a listener answered."""
    found = Answers()
    for kind, body in _pdus(received):
        if kind == ASSOCIATE_AC:
            found.contexts = _accepted(body)
        elif kind in (ABORT, RELEASE_RP):
            found.end = kind
    held = bytearray()
    for _, control, fragment in _fragments(received):
        held += fragment
        if control & 2:
            fields = _elements(bytes(held)) if control & 1 else None
            held.clear()
            if fields and 0x0100 in fields and 0x0900 in fields:
                kind, status = (int(struct.unpack("<H", fields[tag])[0]) for tag in (0x0100, 0x0900))
                found.responses.append((kind, status))
    return found


def _pdus(stream: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + 6 <= len(stream):
        kind, length = struct.unpack_from(">BxI", stream, position)
        yield kind, stream[position + 6 : position + 6 + length]
        position += 6 + length


def _fragments(stream: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Of each presentation data value that is there as a whole: context id, control header and fragment."""
    for kind, body in _pdus(stream):
        position = 0
        while kind == P_DATA and position + 6 <= len(body):
            size, context_id, control = struct.unpack_from(">IBB", body, position)
            fragment = body[position + 6 : position + 4 + size]
            position += 4 + max(size, 2)
            if len(fragment) == size - 2:
                yield context_id, control, fragment


def _elements(data: bytes) -> dict[int, bytes] | None:
    found, position = {}, 0
    while position < len(data):
        if position + 8 > len(data):
            return None
        group, element, length = struct.unpack_from("<HHI", data, position)
        if group or position + 8 + length > len(data):
            return None
        found[element] = data[position + 8 : position + 8 + length]
        position += 8 + length
    return found


def _accepted(body: bytes) -> dict[int, str]:
    """Context ids and transfer syntaxes that an A-ASSOCIATE-AC accepts: PS3.8 table 9-18."""
    found, position = {}, 68
    while position + 4 <= len(body):
        kind, length = struct.unpack_from(">BxH", body, position)
        item = body[position + 4 : position + 4 + length]
        if kind == 0x21 and item[2] == 0:
            found[item[0]] = item[8:].decode("latin-1").rstrip("\0 ")
        position += 4 + length
    return found


def _us(element: int, value: int) -> bytes:
    return struct.pack("<HHIH", 0, element, 2, value)


def _uid(element: int, uid: str) -> bytes:
    raw = uid.encode()
    raw += b"\0" * (len(raw) % 2)
    return struct.pack("<HHI", 0, element, len(raw)) + raw if raw else b""
