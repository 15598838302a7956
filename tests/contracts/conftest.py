"""A real S3 server for the session."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.archive import open_archive
from shared.archive.object_store import ObjectStoreArchive
from tests.contracts.s3_server import VERSION, S3Server, find_binary


@pytest.fixture(scope="session")
def s3_binary() -> Path:
    binary = find_binary()
    if binary is None:
        reason = f"no S3 server: versitygw {VERSION} is not installed (see tests/contracts/s3_server.py)"
        if os.environ.get("SIMILIS_REQUIRE_S3") == "1":
            pytest.fail(f"SIMILIS_REQUIRE_S3=1, but: {reason}")
        pytest.skip(reason)
    return binary


@pytest.fixture(scope="session")
def s3_server(s3_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(s3_binary, tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def s3_prefix() -> str:
    """A folder of its own for each test, in the shared bucket."""
    return f"tests/{uuid.uuid4().hex}"


@pytest.fixture
def s3_archive(s3_server: S3Server, s3_prefix: str) -> ObjectStoreArchive:
    archive = open_archive(s3_server.settings(s3_prefix))
    assert isinstance(archive, ObjectStoreArchive)
    return archive
