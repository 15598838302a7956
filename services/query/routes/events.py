"""GET /v1/events: what is new about studies, as it happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from services.query import problems
from services.query.access.users import User
from services.query.parts import Ready
from services.query.study_news import StudyNews, TooManyListenersError

router = APIRouter(tags=["studies"])

STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Until the client goes, its sign-in ends, the service stops, or the longest time is over.",
        "content": {
            "text/event-stream": {
                "schema": {
                    "type": "string",
                    "description": "`event: study` with a StudySummary as `data`; `event: reset`: read the list anew.",
                    "contentMediaType": "text/event-stream",
                }
            }
        },
    }
}


class EventStream(StreamingResponse):
    """Server-sent events of one listener, whose place is given back however the stream ends."""

    media_type = "text/event-stream"

    def __init__(
        self, news: StudyNews, last_event_id: str | None, user: str | None, may_listen: Callable[[], bool]
    ) -> None:
        # A proxy must not hold events back.
        headers = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}
        super().__init__(news.events(last_event_id, may_listen), headers=headers)
        self._news, self._user = news, user

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._news.leave(self._user)


@router.get(
    "/v1/events",
    summary="What is new about studies, as it happens",
    status_code=200,
    responses=STREAM,
    response_class=EventStream,
)
async def get_events(
    parts: Ready,
    request: Request,
    last_event_id: Annotated[
        str | None, Header(max_length=64, description="ID of the last event seen; what happened since is told first.")
    ] = None,
) -> EventStream:
    """Server-sent events: a study was received, judged or explained. Several changes in short order may be one event.

    `event: reset` says that what happened since `Last-Event-ID` is not known: read the list anew.
    A stream ends when the key, token or session that opened it does.
    """
    user = request.scope.get("user")
    name = user.display_name if isinstance(user, User) else None
    try:
        await parts.news.join(name)
    except TooManyListenersError as error:
        raise problems.busy(parts.settings.retry_after_s) from error
    may_listen = user.is_current if isinstance(user, User) else lambda: True
    return EventStream(parts.news, last_event_id, name, may_listen)
