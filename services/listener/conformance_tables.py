"""Tables of the DICOM conformance statement, made from what the listener runs on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel
from pydicom.uid import UID

from services.listener import (
    access,
    association,
    audit_messages,
    commitment,
    commitment_check,
    dimse,
    negotiation,
    rules,
    stow_response,
    tls,
)
from services.listener import upper_layer as ul
from services.listener.answers import STATUS, Outcome
from services.listener.ports import Reject
from shared.audit.codes import MEANINGS

# PS3.4 table B.2-1 and PS3.7 annex C: what a status is called, and when the listener answers with it.
_OUTCOMES: Final = MappingProxyType(
    {
        Outcome.STORED: ("Success", "the object is durable"),
        Outcome.DUPLICATE: ("Success", "the same object, byte for byte, is known already: nothing changes"),
        Outcome.SET_ASIDE: (
            "Success",
            "another object has its SOP Instance UID, and the settings say to keep both: it is durable, apart",
        ),
        Outcome.DROPPED: ("Success", "a routing rule says to drop it: it is not kept"),
        Outcome.REFUSED: ("Refused: Not authorized", "a routing rule says to refuse it, without a status of its own"),
        Outcome.CONFLICT: ("Duplicate SOP Instance", "another object has its SOP Instance UID"),
        Outcome.MISMATCH: (
            "Error: Data set does not match SOP Class",
            "its SOP Class or Instance UID differs between command and data set",
        ),
        Outcome.MALFORMED: (
            "Error: Cannot understand",
            "the data set is truncated, not in its transfer syntax, or lacks one of its UIDs",
        ),
        Outcome.TOO_LARGE: ("Refused: Out of resources", "the data set is longer than the settings allow"),
        Outcome.NO_SPACE: ("Refused: Out of resources", "the disk is full, nearly full, or cannot be written"),
        Outcome.FAILED: ("Processing failure", "an internal error"),
    }
)
_ABORTS: Final = (
    (ul.BY_USER, "the listener stops, or a limit on objects or on a message is reached"),
    (ul.NO_REASON, "the peer is idle or slow for longer than the settings allow, or an internal error"),
    (ul.UNRECOGNIZED_PDU, "a PDU of an unknown type"),
    (ul.UNEXPECTED_PDU, "a PDU that may not come now"),
    (ul.INVALID_PARAMETER, "a PDU or command set that is malformed or too long, or an unknown presentation context"),
)
_REJECTS: Final[tuple[tuple[Reject, str], ...]] = (
    (association._UNSUPPORTED_VERSION, "bit 0 of the protocol version is not set"),
    (association._UNSUPPORTED_APPLICATION, "the application context is not DICOM's"),
    (access.CALLED_AE_TITLE, "the called AE title is not the listener's, nor on its list"),
    (access.CALLING_AE_TITLE, "the calling AE title is not on the list"),
    (access.CALLING_AE_ADDRESS, "the calling AE title is tied to another network"),
    (access.PEER_ADDRESS, "the peer's address is not on the list"),
    (access.TOTAL_LIMIT, "too many associations at a time"),
    (access.PEER_LIMIT, "too many associations at a time from the peer's address"),
)
_REASON_MEANINGS: Final = MappingProxyType(
    {
        1: "user-rejection: the requestor proposes not to be the SCU",
        2: "no reason",
        3: "abstract syntax not supported: another service, or a SOP class that the settings leave out",
        4: "transfer syntaxes not supported: none of those proposed is in section 3.6",
    }
)
_ACTION_STATUSES: Final = (
    (dimse.SUCCESS, "the request is durable; its report will come"),
    (dimse.NO_SUCH_SOP_CLASS, "the requested SOP class is not Storage Commitment Push Model"),
    (dimse.NO_SUCH_SOP_INSTANCE, "the requested SOP instance is not the well-known one"),
    (dimse.NO_SUCH_ACTION_TYPE, "another action type than 1"),
    (commitment.INVALID_ARGUMENT_VALUE, "the data set cannot be read, or names no Transaction UID or no instance"),
    (commitment.RESOURCE_LIMITATION, "too many requests, too many instances in one, or the disk is nearly full"),
    (dimse.PROCESSING_FAILURE, "the request could not be kept"),
)
_FAILURE_REASONS: Final = (
    (commitment_check.PROCESSING_FAILURE, "not archived in time, damaged in the archive, or in conflict with another"),
    (commitment_check.NO_SUCH_OBJECT_INSTANCE, "never received, or gone from the archive"),
    (commitment_check.CLASS_INSTANCE_CONFLICT, "archived as an instance of another SOP class"),
    (commitment_check.DUPLICATE_TRANSACTION_UID, "the Transaction UID is in use by another request"),
)
_STOW_REASONS: Final = (
    (stow_response.SOP_CLASS_NOT_SUPPORTED, "the SOP class is not stored"),
    (stow_response.TRANSFER_SYNTAX_NOT_SUPPORTED, "the transfer syntax is not supported"),
)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def storage_classes() -> str:
    """The storage SOP classes that are known by name."""
    return table(("SOP class", "UID"), ((UID(uid).name, f"`{uid}`") for uid in by_uid(negotiation._STORAGE)))


def transfer_syntaxes() -> str:
    """Every transfer syntax that is accepted."""
    return table(
        ("transfer syntax", "UID"), ((UID(uid).name, f"`{uid}`") for uid in by_uid(negotiation.TRANSFER_SYNTAXES))
    )


def services() -> str:
    """The SOP classes, their roles, and what is negotiated of them."""
    any_syntax = "all of section 3.6"
    rows = [
        (_named(negotiation.VERIFICATION), any_syntax, "SCP", "none"),
        ("storage SOP classes: section 3.5", any_syntax, "SCP", "section 3.7"),
        (_named(negotiation.STORAGE_COMMITMENT), any_syntax, "SCP", "none"),
    ]
    return table(("SOP class", "transfer syntaxes", "role", "extended negotiation"), rows)


def store_statuses() -> str:
    """Of C-STORE responses, by outcome."""
    rows = ((hexadecimal(STATUS[outcome]), *_OUTCOMES[outcome], f"`{outcome}`") for outcome in Outcome)
    return table(("status", "meaning (PS3.4 table B.2-1, PS3.7 annex C)", "when", "in metrics"), rows)


def rule_statuses() -> str:
    """Of C-STORE responses, where a routing rule refuses."""
    return table(("status", "meaning"), ((hexadecimal(status), meaning) for status, meaning in rules.REFUSALS.items()))


def action_statuses() -> str:
    """Of N-ACTION responses."""
    return table(("status", "when"), ((hexadecimal(status), when) for status, when in _ACTION_STATUSES))


def failure_reasons() -> str:
    """Failure Reasons of storage commitment."""
    return table(("Failure Reason (0008,1197)", "when"), ((hexadecimal(one), when) for one, when in _FAILURE_REASONS))


def stow_reasons() -> str:
    """Failure Reasons that STOW-RS has and C-STORE has not."""
    return table(("Failure Reason (0008,1197)", "when"), ((hexadecimal(one), when) for one, when in _STOW_REASONS))


def rejections() -> str:
    """A-ASSOCIATE-RJ: result, source and reason."""
    rows = ((one.result, one.source, one.reason, when, f"`{one.why}`") for one, when in _REJECTS)
    return table(("result", "source", "reason", "when", "in metrics and audit"), rows)


def context_results() -> str:
    """Why a presentation context is not accepted."""
    rows = ((result, _REASON_MEANINGS[result], f"`{word}`") for result, word in negotiation.REASONS.items())
    return table(("result", "meaning", "in metrics"), rows)


def aborts() -> str:
    """A-ABORT: source and reason."""
    return table(("source", "reason", "when"), ((*code, when) for code, when in _ABORTS))


def audit_codes() -> str:
    """Codes that audit messages use."""
    rows = ((code, MEANINGS[code]) for code in audit_messages.CODES)
    return table(("code (DCM)", "meaning"), rows)


def cipher_suites() -> str:
    """The cipher suites of TLS 1.2, strongest first."""
    return "\n".join(f"- `{suite}`" for suite in tls._CIPHERS.split(":") if not suite.startswith("@"))


def settings(section: type[BaseModel], prefix: str, *names: str) -> str:
    """Settings with their defaults; `names` picks some of the section's own, in their order."""
    fields: Mapping[str, Any] = section.model_fields
    wanted = names or tuple(name for name, field in fields.items() if not _is_section(field.annotation))
    rows = (
        (f"`{prefix}{name.upper()}`", _shown(fields[name].default), fields[name].description or "") for name in wanted
    )
    return table(("setting", "default", "meaning"), rows)


def by_uid(uids: Iterable[str]) -> list[str]:
    """Distinct UIDs, each component in its order as a number."""
    return sorted(set(uids), key=lambda uid: [int(one) for one in uid.split(".")])


def hexadecimal(status: int) -> str:
    """A status as the Standard writes it."""
    return f"`{status:04X}`"


def _named(uid: str) -> str:
    return f"{UID(uid).name} `{uid}`"


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _shown(value: object) -> str:
    return "" if value is None or value in ("", ()) else f"`{value}`"
