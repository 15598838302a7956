"""A Store request: what its head says, and its body as it comes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.types import Message

from services.listener.multipart_related import parse_media_type
from services.listener.settings import StowSection
from services.listener.stow_intake import DICOM_FILE
from services.listener.stow_response import choose_media_type
from shared.ids import is_valid_uid

_PIECE_BYTES: Final = 256 << 10
_WANTED: Final = 'send multipart/related; type="application/dicom", a DICOM file in each part'


class RefusalError(Exception):
    """The request as a whole is answered with an error."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.headers = status, headers


class DisconnectedError(Exception):
    """The client is gone."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What a request that may be served asks for. `study` is that of its URL; `media_type` that of its response."""

    boundary: str
    study: str | None
    media_type: str


def read_head(request: Request, section: StowSection) -> RequestHead:
    """What the request asks for: PS3.18 section 10.5.1.

    Raises:
        RefusalError: it cannot be served.
    """
    boundary = _boundary(request)
    if (media_type := choose_media_type(request.headers.get("accept", ""))) is None:
        raise RefusalError(406, "responses are application/dicom+json or application/dicom+xml")
    study = request.path_params.get("study")
    if study is not None and not is_valid_uid(study):
        raise RefusalError(400, "the study in the URL is not a UID")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > section.max_request_bytes:
        raise _too_large(section)
    return RequestHead(boundary, study, media_type)


@dataclass(slots=True)
class RequestBody:
    """What has come of a request's body, and how long the client was waited for."""

    request: Request
    section: StowSection
    size_bytes: int = 0
    waited_s: float = 0.0
    is_whole: bool = False
    _ended_by: RefusalError | DisconnectedError | None = None

    async def piece(self) -> bytes:
        """The next piece, of 256 KiB or a little more; shorter only at the end.

        Raises:
            RefusalError: the client is too slow, or sends too much.
            DisconnectedError: it is gone.
        """
        held: list[bytes] = []
        held_bytes = 0
        try:
            while held_bytes < _PIECE_BYTES and not self.is_whole and self._ended_by is None:
                data = await self._next()
                held.append(data)
                held_bytes += len(data)
        except (RefusalError, DisconnectedError) as error:
            self._ended_by = error
        if self._ended_by is not None and not held:
            raise self._ended_by
        # What came before that end may make an object whole.
        return b"".join(held)

    async def _next(self) -> bytes:
        limit_s = self.section.body_timeout_s
        clock = asyncio.get_running_loop().time
        started_s = clock()
        try:
            async with asyncio.timeout(limit_s):
                message: Message = await self.request.receive()
        except TimeoutError:
            raise RefusalError(408, f"nothing came for {limit_s:g} s") from None
        self.waited_s += clock() - started_s
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        data: bytes = message.get("body", b"")
        self.size_bytes += len(data)
        self.is_whole = not message.get("more_body", False)
        if (excess := self.size_bytes - self.section.max_request_bytes) > 0:
            self._ended_by = _too_large(self.section)
            return data[: len(data) - excess]
        # Only time in which the client was waited for counts: the disk may be slow, too.
        if self.waited_s > limit_s and self.size_bytes < self.waited_s * self.section.min_receive_bytes_per_s:
            raise RefusalError(408, f"fewer than {self.section.min_receive_bytes_per_s} bytes came in a second")
        return data


def _boundary(request: Request) -> str:
    """The boundary of a request whose media type is one that is taken."""
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise RefusalError(415, "a content encoding is not supported", {"Accept-Encoding": "identity"})
    media_type = parse_media_type(request.headers.get("content-type", ""))
    kind = media_type.parameters.get("type", DICOM_FILE).lower()
    if kind in ("application/dicom+json", "application/dicom+xml"):
        raise RefusalError(415, f"metadata with bulk data is not supported: {_WANTED}")
    if media_type.name != "multipart/related" or kind != DICOM_FILE:
        raise RefusalError(415, _WANTED)
    return media_type.parameters.get("boundary", "")


def _too_large(section: StowSection) -> RefusalError:
    return RefusalError(413, f"a request may have {section.max_request_bytes} bytes")
