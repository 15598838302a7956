from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from light_box_seed import FakeEncoder, Seed, fill

from services.query.app import build_parts
from services.query.http import build_app
from services.query.settings import QuerySection, QuerySettings
from shared.archive import LocalArchive
from shared.health import Health
from shared.pixels.frame_reader import FrameReader
from shared.vector_index.memory import MemoryIndex

SETTINGS = QuerySettings(
    query=QuerySection(
        upload_max_bytes=400_000, catalogue_max_age_s=0, upload_max_decoded_bytes=4_000_000, decode_workers=0
    )
)


def ready_app(seed: Seed, settings: QuerySettings = SETTINGS, frame_reader: FrameReader | None = None) -> FastAPI:
    health = Health()
    app = build_app(settings.query, health)
    app.state.parts = build_parts(
        settings, archive=seed.archive, index=seed.index, encoder=seed.encoder, frame_reader=frame_reader
    )
    health.ready = True
    return app


@pytest.fixture
def empty(tmp_path: Path) -> Seed:
    encoder = FakeEncoder()
    return Seed(LocalArchive(tmp_path), MemoryIndex(encoder.dim), encoder)


@pytest.fixture(scope="session")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Seed:
    encoder = FakeEncoder()
    seeded = Seed(LocalArchive(tmp_path_factory.mktemp("archive")), MemoryIndex(encoder.dim), encoder)
    fill(seeded)
    return seeded


@pytest.fixture
def app(seed: Seed) -> FastAPI:
    return ready_app(seed)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app) as opened:
        yield opened


def client_of(app: FastAPI) -> httpx.AsyncClient:
    # A fault must answer as it does behind a real server, not raise into the test.
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")
