"""Hostile images: real decode workers that hang, crash, and are replaced while the service goes on serving."""

from __future__ import annotations

import asyncio
import io
import struct
import sys
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from light_box_seed import PATIENT_ID, Seed, picture, png
from pydicom import dcmread

from services.query.decoding import DecodeMetrics, open_frame_reader
from services.query.settings import QuerySection, QuerySettings
from shared.pixels import PixelLimits
from shared.pixels.frame_reader import FrameReader
from shared.pixels.pool_process import WorkerOptions
from tests.services.query.conftest import SETTINGS, client_of, ready_app

TROUBLED = str(Path(__file__).parents[2] / "shared" / "pixels" / "troubled_worker.py")
TIMEOUT_S = 2.0
# A hanging decoder would take an hour; the machine may be busy.
SOON_S = 20.0


@pytest.fixture
def troubled() -> Iterator[FrameReader]:
    """Two workers whose decoder hangs at frame 1 and crashes at frame 2."""
    options = WorkerOptions(None, PixelLimits(), TIMEOUT_S, 0, (sys.executable, TROUBLED, "hang:1,abort:2"))
    reader = FrameReader.in_workers(options, 2, DecodeMetrics())
    reader.start()
    yield reader
    reader.close()


@pytest.fixture
async def client(seed: Seed, troubled: FrameReader) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(ready_app(seed, SETTINGS, troubled)) as opened:
        yield opened


def frames(seed: Seed, count: int = 3) -> bytes:
    """A multi-frame object."""
    dataset = dcmread(io.BytesIO(seed.studies[0].files[0]))
    dataset.NumberOfFrames = count
    dataset.PixelData = np.concatenate([np.frombuffer(dataset.PixelData, np.uint16)] * count).tobytes()
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


async def upload(client: httpx.AsyncClient, data: bytes, **parameters: int) -> httpx.Response:
    return await client.post("/v1/search/upload", files={"file": ("x", data)}, params=parameters)


def is_undecodable(answer: httpx.Response, words: str) -> None:
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:similis:problem:undecodable-pixels"), answer.text
    assert words in answer.json()["detail"]
    assert PATIENT_ID not in answer.text


async def test_an_upload_that_hangs_or_crashes_its_decoder_is_a_problem_in_time_and_the_next_is_served(
    client: httpx.AsyncClient, seed: Seed
):
    for number, words in ((1, "timed out"), (2, "died")):
        started = time.monotonic()
        is_undecodable(await upload(client, frames(seed), frame_number=number), words)
        assert time.monotonic() - started < SOON_S
    assert (await upload(client, frames(seed), frame_number=3)).status_code == 200
    metrics = (await client.get("/metrics")).text
    assert 'similis_query_decode_workers_replaced_total{reason="DecodeTimedOut"}' in metrics


def crowded(elements: int) -> bytes:
    """A deflated object of so many empty elements: 400,000 are half a megabyte, and take seconds to read."""

    def element(group: int, number: int, vr: bytes, value: bytes = b"") -> bytes:
        return struct.pack("<HH2sH", group, number, vr, len(value)) + value

    meta = element(2, 0x10, b"UI", b"1.2.840.10008.1.2.1.99")
    body = b"".join(element(0x11 + 2 * (at >> 15), at & 0x7FFF, b"LO") for at in range(elements))
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = deflater.compress(body) + deflater.flush()
    return bytes(128) + b"DICM" + element(2, 0, b"UL", struct.pack("<I", len(meta))) + meta + deflated


async def test_a_header_that_takes_too_long_is_read_by_a_worker_too(seed: Seed):
    reader = FrameReader.in_workers(WorkerOptions(None, PixelLimits(), 0.3, 0), 1)
    reader.start()
    settings = QuerySettings(query=QuerySection(upload_max_bytes=4_000_000))
    try:
        async with client_of(ready_app(seed, settings, reader)) as client:
            is_undecodable(await upload(client, crowded(400_000)), "timed out")
    finally:
        reader.close()


async def test_everything_else_is_answered_while_a_decoder_hangs(client: httpx.AsyncClient, seed: Seed):
    study = seed.studies[0]
    hanging = asyncio.create_task(upload(client, png(picture(1, "normal", 0.5, 48))))
    shown = asyncio.create_task(client.get(f"/v1/studies/{study.uid}/instances/{study.sops[0]}/frames/1.png"))
    answers = asyncio.gather(
        client.get("/livez"),
        client.get("/v1/studies"),
        client.post("/v1/search", json={"study_instance_uid": study.uid}),
    )
    done, _ = await asyncio.wait({hanging, shown, answers}, return_when=asyncio.FIRST_COMPLETED)
    assert done == {answers}
    assert [answer.status_code for answer in answers.result()] == [200, 200, 200]
    is_undecodable(await hanging, "timed out")
    is_undecodable(await shown, "timed out")


async def test_an_indexed_frame_that_hangs_its_decoder_is_a_problem(client: httpx.AsyncClient, seed: Seed):
    asked = {"sop_instance_uid": seed.studies[0].sops[0], "frame_number": 1}
    is_undecodable(await client.post("/v1/matches", json={"query": asked, "neighbour": asked}), "timed out")


async def test_without_decoders_an_upload_is_told_to_come_back(seed: Seed, troubled: FrameReader):
    troubled.close()
    async with client_of(ready_app(seed, SETTINGS, troubled)) as client:
        answer = await upload(client, seed.studies[0].files[0])
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:similis:problem:decoders-unavailable")
    assert answer.headers["Retry-After"]


async def test_uploads_by_workers_find_what_uploads_in_the_process_find(seed: Seed):
    reader = open_frame_reader(QuerySettings(query=QuerySection(decode_workers=1)))
    files = (seed.studies[1].files[0], png(picture(1, "normal", 0.5, 48)))
    found = []
    try:
        for app in (ready_app(seed), ready_app(seed, SETTINGS, reader)):
            async with client_of(app) as client:
                answers = [await upload(client, data) for data in files]
            found.append([(answer.json()["results"], answer.json()["query"]["preview"]) for answer in answers])
    finally:
        reader.close()
    assert found[0] == found[1]
