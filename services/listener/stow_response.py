"""Answers of the Store transaction: PS3.18 section 10.5.3 and annex I, in the media types of annex F and PS3.19.

Nothing is retrieved here, so Retrieve URL (type 2) is always empty; no data element is coerced, so
there are no warnings.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.listener.answers import Answer, Outcome
from services.listener.multipart_related import parse_media_type
from shared.ids import is_valid_uid

log = logging.getLogger(__name__)

DICOM_JSON: Final = "application/dicom+json"
DICOM_XML: Final = "application/dicom+xml"
RETRY_AFTER_S: Final = 30
SUCCESSES: Final = frozenset({Outcome.STORED, Outcome.DUPLICATE, Outcome.SET_ASIDE, Outcome.DROPPED})
# PS3.18 table I.2-2.
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
TRANSFER_SYNTAX_NOT_SUPPORTED: Final = 0xC122

_LINGER_S: Final = 2.0
_JSON_RANGES: Final = (DICOM_JSON, "application/json", "application/*", "*/*")
_NAMESPACE: Final = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
_TITLES: Final = {
    400: "Bad request",
    401: "Not authorized",
    404: "No such resource",
    405: "Method not allowed",
    406: "No acceptable media type",
    408: "The request came too slowly",
    413: "The request is too large",
    415: "Unsupported media type",
    500: "Internal error",
    503: "Try again later",
}


@dataclass(frozen=True, slots=True)
class InstanceResult:
    """What became of one part. Its UIDs are as its file says, so they may be anything, or empty."""

    sop_class_uid: str
    sop_instance_uid: str
    answer: Answer

    @property
    def is_success(self) -> bool:
        """Whether the sender is told that it succeeded."""
        return self.answer.outcome in SUCCESSES

    @property
    def is_named(self) -> bool:
        """Whether it can be named in a response."""
        return is_valid_uid(self.sop_class_uid) and is_valid_uid(self.sop_instance_uid)


@dataclass(frozen=True, slots=True)
class _Element:
    tag: str
    vr: str
    keyword: str
    values: Sequence[str | int | Sequence[_Element]] = ()


class LastResponse(Response):
    """A response that comes before its request's end, and closes the connection.

    What the client still sends is passed over for a while: a connection that is closed at once is
    reset, and its client may never see the response (RFC 9112 section 9.6).
    """

    def __init__(self, response: Response) -> None:
        super().__init__(response.body, response.status_code)
        self.raw_headers = [*response.raw_headers, (b"connection", b"close")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; see ASGI."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            async with asyncio.timeout(_LINGER_S):
                while (await receive()).get("more_body"):
                    pass
        except TimeoutError:
            log.debug("a client sends on after its request was refused")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def status_of(results: Sequence[InstanceResult]) -> int:
    """The HTTP status of a request that was read to its end: PS3.18 table 10.5.3-1.

    Where nothing was stored for one reason, that reason decides: the disk is full (503), or the
    objects are too large (413).
    """
    failures = [result.answer.outcome for result in results if not result.is_success]
    if not failures:
        return 200
    if len(failures) < len(results):
        return 202
    return {frozenset({Outcome.NO_SPACE}): 503, frozenset({Outcome.TOO_LARGE}): 413}.get(frozenset(failures), 409)


def response_to(results: Sequence[InstanceResult], media_type: str) -> Response:
    """The Store Instances Response in one of the two media types."""
    status = status_of(results)
    elements = _elements(results)
    body = _xml(elements) if media_type == DICOM_XML else json.dumps(_json(elements)).encode()
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None
    return Response(body, status, headers, media_type)


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """An error with no response data set: RFC 9457."""
    content = {"title": _TITLES.get(status, "Error"), "status": status, "detail": detail}
    return Response(json.dumps(content), status, headers, "application/problem+json")


def choose_media_type(accept: str) -> str | None:
    """The media type to answer in, by an Accept header (empty: any); None if none will do. JSON goes first."""
    weights: dict[str, float] = {}
    for entry in accept.split(",") if accept.strip() else ["*/*"]:
        media_range = parse_media_type(entry)
        weights[media_range.name] = _weight(media_range.parameters.get("q", "1"))
    json_weight = next((weights[name] for name in _JSON_RANGES if name in weights), 0.0)
    xml_weight = weights.get(DICOM_XML, 0.0)
    if not json_weight and not xml_weight:
        return None
    return DICOM_JSON if json_weight >= xml_weight else DICOM_XML


def _weight(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return 0.0


def _elements(results: Iterable[InstanceResult]) -> list[_Element]:
    """The Store Instances Response Module, by tag: PS3.18 table I.1-1."""
    stored, failed, others = [], [], []
    for result in results:
        reason = _Element("00081197", "US", "FailureReason", (result.answer.status,))
        reference = (
            _Element("00081150", "UI", "ReferencedSOPClassUID", (result.sop_class_uid,)),
            _Element("00081155", "UI", "ReferencedSOPInstanceUID", (result.sop_instance_uid,)),
        )
        if result.is_success:
            stored.append((*reference, _Element("00081190", "UR", "RetrieveURL")))
        elif result.is_named:
            failed.append((*reference, reason))
        else:
            others.append((reason,))
    sequences = (
        _Element("00081198", "SQ", "FailedSOPSequence", failed),
        _Element("00081199", "SQ", "ReferencedSOPSequence", stored),
        _Element("0008119A", "SQ", "OtherFailuresSequence", others),
    )
    return [_Element("00081190", "UR", "RetrieveURL"), *(one for one in sequences if one.values)]


def _json(elements: Iterable[_Element]) -> dict[str, Any]:
    """PS3.18 section F.2: an empty attribute has no Value."""
    found: dict[str, Any] = {}
    for element in elements:
        values = [value if isinstance(value, str | int) else _json(value) for value in element.values]
        found[element.tag] = {"vr": element.vr} | ({"Value": values} if values else {})
    return found


def _xml(elements: Iterable[_Element]) -> bytes:
    """PS3.19 section A.1: the Native DICOM Model."""
    root = ElementTree.Element("NativeDicomModel", xmlns=_NAMESPACE)
    _add(root, elements)
    encoded: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return encoded


def _add(parent: ElementTree.Element, elements: Iterable[_Element]) -> None:
    for element in elements:
        node = ElementTree.SubElement(
            parent, "DicomAttribute", {"tag": element.tag, "vr": element.vr, "keyword": element.keyword}
        )
        for number, value in enumerate(element.values, 1):
            if isinstance(value, str | int):
                ElementTree.SubElement(node, "Value", number=str(number)).text = str(value)
            else:
                _add(ElementTree.SubElement(node, "Item", number=str(number)), value)
