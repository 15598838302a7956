"""What a service says of itself."""

from __future__ import annotations

import contextvars
import io
import logging
import socket

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from shared.health import Health, bind, serve
from shared.logs import JsonFormatter


def test_progress_of_one_work_does_not_hide_that_another_is_stuck() -> None:
    now = 0.0
    health = Health(stuck_after_s=10.0, clock=lambda: now)
    with health.work():
        now = 9.0
        with health.work():
            now = 11.0
            health.progress(busy=True)
            assert not health.is_alive()
        health.progress(busy=True)
        assert health.is_alive()


def test_a_sign_of_progress_after_the_works_end_leaves_nothing_under_way() -> None:
    now = 0.0
    health = Health(stuck_after_s=10.0, clock=lambda: now)
    with health.work():
        late = contextvars.copy_context()
    late.run(health.progress, busy=True)
    now = 100.0
    assert health.is_alive()


def test_a_service_that_failed_for_good_is_not_alive() -> None:
    health = Health()
    health.fail()
    assert not health.is_alive()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_accepted_connection_does_not_wait_for_acknowledgements(host):
    with bind(host, 0) as bound:
        bound.listen()
        with socket.create_connection(bound.getsockname()[:2]), bound.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_the_server_logs_an_unforeseen_error_as_the_service_does(monkeypatch):
    async def fail(request: Request) -> None:
        raise ValueError(request.query_params["name"])

    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter("some"))
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    # Another test's server may have had uvicorn's own configuration.
    for name in ("uvicorn", "uvicorn.error"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    async with serve(Starlette(routes=[Route("/", fail)]), bind("127.0.0.1", 0)) as url, httpx.AsyncClient() as client:
        answer = await client.get(url, params={"name": "Doe^John"})
    assert answer.status_code == 500
    assert "server" not in answer.headers
    assert "ValueError" in written.getvalue()
    assert "Doe^John" not in written.getvalue()
