"""Records every request that is about studies, whoever answers it."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.query.audit.actions import SESSION_PATH, action_of
from services.query.audit.log import AuditLog
from services.query.audit.messages import Client
from services.query.audit.trail import TRAIL, Trail
from services.query.client_address import ClientAddresses
from services.query.principal import principal_of

# Whoever is sent away by the rate limits saw nothing, and a flood must not fill the disk.
TOO_MANY: Final = 429


class Audited:
    """Records a request when its answer begins, before a byte of it is sent; outside of whatever refuses requests.

    A stream that tells of studies afterwards is recorded once more at its end.
    """

    def __init__(self, app: ASGIApp, *, log: AuditLog, clients: ClientAddresses) -> None:
        self._app = app
        self._log = log
        self._clients = clients

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not self._log.is_on:
            await self._app(scope, receive, send)
            return
        trail: Trail = {}
        told: tuple[int, int] | None = None

        def tell(status: int) -> None:
            nonlocal told
            told = status, len(trail)
            self._tell(scope, status, dict(trail))

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                tell(message["status"])
            await send(message)

        token = TRAIL.set(trail)
        try:
            await self._app(scope, receive, watched)
        finally:
            TRAIL.reset(token)
            if told is None:
                tell(500)
            elif len(trail) > told[1]:
                tell(told[0])

    def _tell(self, scope: Scope, status: int, trail: Trail) -> None:
        client = Client(principal_of(Request(scope)) or "", self._clients.of(scope))
        asked = action_of(scope["method"], scope["path"])
        if status == 401:
            self._log.sign_in_failed(client)
        elif status == TOO_MANY:
            return
        elif scope["path"] == SESSION_PATH and scope["method"] in ("POST", "DELETE"):
            self._log.signed(client, status, is_in=scope["method"] == "POST")
        elif asked is not None:
            self._log.acted(client, asked[0], status, asked[1], trail)
        elif status == 403:
            self._log.refused(client)
