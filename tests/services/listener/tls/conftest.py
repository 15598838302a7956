"""Files of a TLS server, and servers that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from certificates import Authority, Issued
from cryptography.hazmat.primitives.asymmetric import rsa
from tls_harness import Echoing, Files

from services.listener.tls import TlsContexts


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="session")
def server_certificate(authority: Authority) -> Issued:
    return authority.issue(key=rsa.generate_private_key(65537, 2048))


@pytest.fixture
def files(tmp_path: Path, authority: Authority, server_certificate: Issued) -> Files:
    return Files(tmp_path, authority, server_certificate)


@pytest.fixture
def serve() -> Iterator[Callable[[TlsContexts], Echoing]]:
    servers: list[Echoing] = []

    def start(contexts: TlsContexts) -> Echoing:
        servers.append(Echoing(contexts))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
