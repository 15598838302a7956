"""How an association request is answered: PS3.8 section 7.1.1, PS3.7 annex D.3.

Accepted are Verification, Storage Commitment Push Model, and every storage SOP class (also private
ones and those this release of pynetdicom does not know) in every transfer syntax whose data sets
can be walked. The PDUs themselves are read and written by pynetdicom.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import pynetdicom.sop_class
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
)
from pynetdicom.presentation import PresentationContext, negotiate_as_acceptor
from pynetdicom.sop_class import _STORAGE_CLASSES

from services.listener.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from services.listener.request_items import without_unknown

APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
VERIFICATION: Final = "1.2.840.10008.1.1"
STORAGE_COMMITMENT: Final = "1.2.840.10008.1.20.1"
# PS3.6 annex A also calls these two transfer syntaxes; they encode no data set.
_NO_DATA_SETS: Final = frozenset({"1.2.840.10008.1.2.6.1", "1.2.840.10008.1.2.6.2"})
_STORAGE: Final = frozenset(_STORAGE_CLASSES.values())
_STORAGE_ROOT: Final = "1.2.840.10008.5.1.4.1.1."
TRANSFER_SYNTAXES: Final = (
    frozenset(uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax") - _NO_DATA_SETS
)
_REMEMBERED: Final = 64
_REMEMBERED_BYTES: Final = 32 * 1024
REASONS: Final = {1: "user", 2: "no-reason", 3: "abstract-syntax", 4: "transfer-syntax"}
# PS3.4 table B.3-2: storage level 2 (full), signature level 3 (bit preserving), no element is coerced.
_STORAGE_SUPPORT: Final = b"\x02\x00\x03\x00\x00\x00"


class MalformedRequestError(Exception):
    """An A-ASSOCIATE-RQ that cannot be read."""


@dataclass(frozen=True, slots=True, eq=False)
class AssociationRequest:
    """What an A-ASSOCIATE-RQ asks for. `max_pdu_bytes` is the longest PDU its sender takes; 0: any."""

    calling_ae_title: str
    called_ae_title: str
    protocol_version: int
    application_context: str
    max_pdu_bytes: int
    size_bytes: int
    primitive: A_ASSOCIATE


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    """A presentation context that was accepted."""

    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class RejectedContext:
    """A presentation context that was not accepted, and why (PS3.8 table 9-18)."""

    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Acceptance:
    """An A-ASSOCIATE-AC and what it agrees to."""

    pdu: bytes
    contexts: dict[int, AcceptedContext]
    rejected: tuple[RejectedContext, ...]


class Negotiation:
    """Reads association requests and answers them. Safe from any thread.

    A sender with an association for each object asks the same again and again, so the last requests
    and their answers are remembered.
    """

    def __init__(
        self,
        *,
        max_pdu_bytes: int,
        is_allowed: Callable[[str], bool] = lambda _: True,
        commitment: bool = False,
    ) -> None:
        self._max_pdu_bytes = max_pdu_bytes
        self._is_allowed = is_allowed
        self._commitment = commitment
        self._parsed = lru_cache(_REMEMBERED)(parse_request)
        self._answered = lru_cache(_REMEMBERED)(self._answer)

    def parse(self, body: bytes) -> AssociationRequest:
        """As `parse_request`."""
        return self._parsed(body) if len(body) <= _REMEMBERED_BYTES else parse_request(body)

    def accept(self, request: AssociationRequest) -> Acceptance:
        """As the function `accept`, by this listener's settings."""
        is_short = request.size_bytes <= _REMEMBERED_BYTES
        return self._answered(request) if is_short else self._answer(request)

    def _answer(self, request: AssociationRequest) -> Acceptance:
        return accept(
            request, max_pdu_bytes=self._max_pdu_bytes, is_allowed=self._is_allowed, commitment=self._commitment
        )


@lru_cache(maxsize=4096)
def is_storage(abstract_syntax: UID) -> bool:
    """Whether an abstract syntax is a storage SOP class: also a private, a retired or an unknown one."""
    if abstract_syntax in _STORAGE or abstract_syntax.is_private:
        return True
    if (entry := UID_dictionary.get(abstract_syntax)) is None:
        return True  # of a later edition of the Standard
    name, kind, keyword = entry[0], entry[1], entry[4]
    if kind != "SOP Class" or hasattr(pynetdicom.sop_class, keyword or "?"):
        return False
    # What pynetdicom does not know, or calls otherwise, such as Modality Worklist.
    return abstract_syntax.startswith(_STORAGE_ROOT) or ("Storage" in name and "Commitment" not in name)


def parse_request(body: bytes) -> AssociationRequest:
    """Read an A-ASSOCIATE-RQ PDU, of which `body` is all that follows its length.

    Raises:
        MalformedRequestError: it is not one that PS3.8 section 9.3.2 allows.
    """
    try:
        request = A_ASSOCIATE_RQ()
        body = without_unknown(body)
        request.decode(struct.pack(">BxI", 0x01, len(body)) + body)
        primitive = request.to_primitive()
        return AssociationRequest(
            calling_ae_title=request.calling_ae_title.strip(),
            called_ae_title=request.called_ae_title.strip(),
            protocol_version=request.protocol_version,
            application_context=str(request.application_context_name or ""),
            max_pdu_bytes=primitive.maximum_length_received or 0,
            size_bytes=len(body),
            primitive=_checked(primitive),
        )
    except MalformedRequestError:
        raise
    except Exception as error:  # pynetdicom raises whatever the bytes make it raise
        raise MalformedRequestError(type(error).__name__) from error


def _checked(primitive: A_ASSOCIATE) -> A_ASSOCIATE:
    contexts = primitive.presentation_context_definition_list
    # PS3.8 table 9-13: the identifiers are the odd numbers from 1 to 255.
    if len({context.context_id for context in contexts}) != len(contexts):
        raise MalformedRequestError("two presentation contexts have one identifier")
    for context in contexts:
        if not context.context_id or not context.context_id % 2:
            raise MalformedRequestError("a presentation context's identifier is not odd")
        if not context.transfer_syntax or not context.abstract_syntax:
            raise MalformedRequestError("a presentation context lacks a syntax")
    return primitive


def accept(
    request: AssociationRequest,
    *,
    max_pdu_bytes: int,
    is_allowed: Callable[[str], bool] = lambda _: True,
    commitment: bool = False,
) -> Acceptance:
    """Answer a request: which of its presentation contexts are accepted, each in its sender's first choice.

    `is_allowed` narrows the storage SOP classes; `commitment` says whether storage commitment is
    offered.

    Raises:
        MalformedRequestError: the request cannot be answered.
    """
    try:
        return _accept(request, max_pdu_bytes, is_allowed, commitment=commitment)
    except Exception as error:  # pynetdicom raises whatever a strange request makes it raise
        raise MalformedRequestError(type(error).__name__) from error


def _accept(
    request: AssociationRequest, max_pdu_bytes: int, is_allowed: Callable[[str], bool], *, commitment: bool
) -> Acceptance:
    proposed = request.primitive.presentation_context_definition_list
    roles: dict[UID, tuple[bool | None, bool | None]] = {
        item.sop_class_uid: (item.scu_role or False, item.scp_role or False)
        for item in request.primitive.user_information
        if isinstance(item, SCP_SCU_RoleSelectionNegotiation) and item.sop_class_uid is not None
    }
    supported = supported_contexts(proposed, is_allowed=is_allowed, commitment=commitment, with_roles=roles)
    results, reply_roles = negotiate_as_acceptor(proposed, supported, roles)
    answer = A_ASSOCIATE()
    answer.application_context_name = APPLICATION_CONTEXT
    answer.calling_ae_title = request.primitive.calling_ae_title
    answer.called_ae_title = request.primitive.called_ae_title
    answer.result = 0x00
    answer.result_source = 0x01
    answer.presentation_context_definition_results_list = results
    answer.user_information = [
        *_own_items(max_pdu_bytes),
        *_extended(request, {context.abstract_syntax for context in results if not context.result}),
        *reply_roles,
    ]
    by_id = {context.context_id: context for context in proposed}
    return Acceptance(
        pdu=A_ASSOCIATE_AC(answer).encode(),
        contexts={
            context.context_id: AcceptedContext(str(context.abstract_syntax), str(context.transfer_syntax[0]))
            for context in results
            if context.context_id is not None and not context.result
        },
        rejected=tuple(
            RejectedContext(
                str(context.abstract_syntax),
                tuple(str(one) for one in by_id[context.context_id].transfer_syntax),
                REASONS.get(context.result, "other"),
            )
            for context in results
            if context.result
        ),
    )


def supported_contexts(
    proposed: Iterable[Any],
    *,
    is_allowed: Callable[[str], bool] = lambda _: True,
    commitment: bool = False,
    with_roles: Iterable[Any] = (),
) -> list[PresentationContext]:
    """Contexts that accept, of the `proposed` presentation contexts, what the listener can serve.

    Built from the proposal, in its order of preference: so that the association's set-up handles a
    few contexts rather than all SOP classes times all transfer syntaxes.
    """
    syntaxes: dict[UID, list[UID]] = {}
    for context in proposed:
        uid = context.abstract_syntax
        if not _is_served(uid, is_allowed, commitment=commitment):
            continue
        known = syntaxes.setdefault(uid, [])
        known += [one for one in context.transfer_syntax if one in TRANSFER_SYNTAXES and one not in known]
    roles = set(with_roles)
    return [_context(uid, known, has_role=uid in roles) for uid, known in syntaxes.items() if known]


def _is_served(uid: UID, is_allowed: Callable[[str], bool], *, commitment: bool) -> bool:
    if uid == STORAGE_COMMITMENT:
        return commitment
    return uid == VERIFICATION or (is_storage(uid) and is_allowed(uid))


def _context(abstract_syntax: UID, transfer_syntaxes: list[UID], *, has_role: bool) -> PresentationContext:
    context = PresentationContext()
    context.abstract_syntax = abstract_syntax
    context.transfer_syntax = list(transfer_syntaxes)
    if has_role:
        # The requestor is the SCU of everything here, and never its SCP (PS3.7 section D.3.3.4).
        context.scu_role, context.scp_role = True, False
    return context


def _own_items(max_pdu_bytes: int) -> list[Any]:
    length = MaximumLengthNotification()
    length.maximum_length_received = max_pdu_bytes
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return [length, implementation, version]


def _extended(request: AssociationRequest, accepted: set[Any]) -> list[Any]:
    """Answers to SOP class extended negotiation of storage classes: PS3.4 section B.3.1."""
    answers = []
    for item in request.primitive.user_information:
        if isinstance(item, SOPClassExtendedNegotiation) and item.sop_class_uid in accepted:
            if item.sop_class_uid in (VERIFICATION, STORAGE_COMMITMENT):
                continue
            answer = SOPClassExtendedNegotiation()
            answer.sop_class_uid = item.sop_class_uid
            answer.service_class_application_information = _STORAGE_SUPPORT
            answers.append(answer)
    return answers
