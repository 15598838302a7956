"""STOW-RS, the listener's second door: the Store transaction of PS3.18 section 10.5.

    POST /studies  ─▶ may it? ─▶ StowIntake, piece by piece in a thread ─▶ Store Instances Response
    POST /studies/{study}                 └▶ Reception of each part ─▶ the journal

A request counts as an association: its studies stay open until it ends. Of a request that breaks
off, or is refused while it arrives, the objects that were whole before stay.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.listener import metrics
from services.listener.answers import RefusedObjectError
from services.listener.multipart_related import MalformedMultipartError
from services.listener.settings import StowSection
from services.listener.store import StoreObject, StoreRequest
from services.listener.stow_intake import StowIntake, TooManyPartsError
from services.listener.stow_request import DisconnectedError, RefusalError, RequestBody, RequestHead, read_head
from services.listener.stow_response import RETRY_AFTER_S, LastResponse, problem, response_to
from services.listener.tally import Tally
from services.listener.threads import in_thread
from shared.errors import ConfigurationError

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
Ended = Callable[[int, str, Tally], None]

_MIN_TOKEN_BYTES: Final = 16


class StowDoor:
    """Serves the Store transaction.

    `numbers` gives the numbers of associations. `ended` is told of each request's end; `turned_away`
    of each one without the right token, by its peer address and a word for why.

    Raises:
        ConfigurationError: from the constructor, the token file cannot be used.
    """

    def __init__(
        self,
        section: StowSection,
        step: StoreObject,
        *,
        called_ae_title: str,
        numbers: Iterator[int],
        ended: Ended,
        turned_away: Callable[[str, str], None] = lambda _, __: None,
        is_allowed: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._section = section
        self._step = step
        self._called_ae_title = called_ae_title
        self._numbers = numbers
        self._ended = ended
        self._turned_away = turned_away
        self._is_allowed = is_allowed
        self._token_sha256 = None if section.token_file is None else _token_sha256(section.token_file)
        self._threads = ThreadPoolExecutor(max_workers=section.max_requests, thread_name_prefix="stow")
        self._under_way: set[asyncio.Task[object]] = set()
        self._open = 0

    def app(self) -> Starlette:
        """The routes, as an ASGI application."""
        routes = [
            Route(path, self._store, methods=["POST"])
            for path in ("/studies", "/studies/", "/studies/{study}", "/studies/{study}/")
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _no_such_resource})

    async def close(self) -> None:
        """Wait until the requests under way have left nothing behind. They must end, or have been cancelled."""
        await asyncio.gather(*self._under_way, return_exceptions=True)
        self._threads.shutdown()

    async def _store(self, request: Request) -> Response:
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        body = RequestBody(request, self._section)
        try:
            response, outcome = await self._answer(request, body)
        finally:
            self._under_way.discard(task)
        metrics.STOW_REQUESTS.labels(outcome or str(response.status_code)).inc()
        return response if body.is_whole else LastResponse(response)

    async def _answer(self, request: Request, body: RequestBody) -> tuple[Response, str]:
        """The response, and a word for what happened if its status does not say it."""
        try:
            self._check_token(request)
            head = read_head(request, self._section)
            intake = await self._take(request, body, head)
        except RefusalError as error:
            log.warning("STOW-RS request from %s: %d, %s", _peer(request), error.status, error)
            return problem(error.status, str(error), error.headers), ""
        except DisconnectedError:
            log.warning("STOW-RS request from %s: the client left before its end", _peer(request))
            return problem(400, "the client left"), "disconnected"
        except Exception:
            log.exception("a STOW-RS request ended by an error")
            return problem(500, "internal error of the listener"), ""
        return response_to(intake.results, head.media_type), ""

    def _check_token(self, request: Request) -> None:
        if self._token_sha256 is None:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        given = hashlib.sha256(token.strip().encode("latin-1")).digest()
        # Of a token's hash no time of comparing says anything.
        if not hmac.compare_digest(given, self._token_sha256) or scheme.lower() != "bearer":
            self._turned_away(_peer(request), "bearer-token")
            raise RefusalError(401, "a bearer token is needed", {"WWW-Authenticate": 'Bearer realm="STOW-RS"'})

    async def _take(self, request: Request, body: RequestBody, head: RequestHead) -> StowIntake:
        if self._open >= self._section.max_requests:
            raise RefusalError(503, "too many requests at a time", {"Retry-After": str(RETRY_AFTER_S)})
        self._open += 1
        number = next(self._numbers)
        intake: StowIntake | None = None
        try:
            # No byte of it is read in vain where the disk is full.
            await self._in_thread(self._step.journal.check_space, 0)
            intake = self._intake(request, number, head)
            while not body.is_whole:
                await self._in_thread(intake.feed, await body.piece())
            intake.finish()
            return intake
        except MalformedMultipartError as error:
            raise RefusalError(400, str(error)) from None
        except TooManyPartsError:
            raise RefusalError(413, f"more than {self._section.max_parts} parts") from None
        except (RefusedObjectError, OSError) as error:
            log.warning("STOW-RS: the journal's disk: %s", error)
            raise RefusalError(503, "the listener's disk is nearly full", {"Retry-After": str(RETRY_AFTER_S)}) from None
        finally:
            if intake is not None:
                await self._in_thread(intake.discard)
            self._open -= 1
            self._ended(number, _peer(request), intake.tally if intake is not None else Tally())

    def _intake(self, request: Request, number: int, head: RequestHead) -> StowIntake:
        origin = StoreRequest(
            association=number,
            calling_ae_title=self._section.ae_title,
            called_ae_title=self._called_ae_title,
            sop_class_uid="",
            sop_instance_uid="",
            transfer_syntax_uid="",
            peer_address=_peer(request),
        )
        return StowIntake(
            self._step,
            origin,
            boundary=head.boundary,
            study=head.study,
            max_parts=self._section.max_parts,
            is_allowed=self._is_allowed,
        )

    async def _in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`call` in one of the door's threads. When cancelled it ends no sooner than the thread."""
        return await in_thread(partial(call, *args, **kwargs), self._threads)


def _token_sha256(path: Path) -> bytes:
    try:
        token = path.read_bytes().strip()
    except OSError as error:
        raise ConfigurationError(f"the STOW-RS token file {path} cannot be read: {error.strerror}") from error
    if len(token) < _MIN_TOKEN_BYTES:
        raise ConfigurationError(f"the STOW-RS token file {path} holds fewer than {_MIN_TOKEN_BYTES} bytes")
    return hashlib.sha256(token).digest()


def _peer(request: Request) -> str:
    return request.client.host if request.client is not None else ""


async def _no_such_resource(_: Request, error: Exception) -> Response:
    """The framework's own refusals: no such path, no such method."""
    assert isinstance(error, HTTPException)
    metrics.STOW_REQUESTS.labels(str(error.status_code)).inc()
    headers = dict(error.headers or {})
    return LastResponse(problem(error.status_code, "only POST /studies and /studies/{study} are here", headers))
