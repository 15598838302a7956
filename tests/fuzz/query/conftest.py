from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fuzz.query.document import Api
from tests.fuzz.query.running import Service, running

answers: Counter[int | None] = Counter()


@pytest.fixture(scope="session")
def api() -> Api:
    return Api.read()


@pytest.fixture(scope="session")
def canary() -> Iterator[str]:
    """The address of a socket that nobody may ever connect to."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield "{}:{}".format(*listening.getsockname())
        with pytest.raises(BlockingIOError):
            listening.accept()


@pytest.fixture(scope="session")
def only_service() -> Iterator[Service]:
    with running() as service:
        yield service
        answers.update(service.answers)


@pytest.fixture(scope="session")
def closed_service() -> Iterator[Service]:
    """One that lets in whoever has a key."""
    with running(asks_who=True) as service:
        yield service
        answers.update(service.answers)
        service.check_itself()


@pytest.fixture
def service(only_service: Service) -> Iterator[Service]:
    yield only_service
    only_service.check_itself()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if answers:
        statuses = ", ".join(f"{count} x {status or 'none due'}" for status, count in answers.most_common())
        terminalreporter.write_line(f"the query service was asked {answers.total():,} times: {statuses}")
