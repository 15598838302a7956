from __future__ import annotations

import io
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from light_box_seed import LABELS, TASK, FakeEncoder, Seed
from PIL import Image

from services.query.app import build_parts
from services.query.cursors import SearchCursor, decode_search, encode_search, fingerprint, mark
from services.query.match_patches import Patches, match_patches
from services.query.problems import Problem
from services.query.spaces import Space
from shared.events import Decision
from shared.ids import mean_id, region_id
from shared.pixels import PixelLimits, read_image
from shared.pixels.frame import Frame
from shared.vector_index import collection_name, space_collection_name
from shared.vector_index.memory import MemoryAliases, MemoryIndex
from shared.vector_index.port import FramePoint, Region
from shared.vision.patch_grid import PatchGrid
from shared.vision.retrieval_report import RetrievalReport
from shared.vision.tasks import BUILT_IN
from shared.vision.transform import letterboxed
from tests.services.query.conftest import SETTINGS, client_of, ready_app

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class HalfHead:
    """A space that keeps half of the embedding."""

    id: str = "brain-mr@half"
    space_dim: int = 12

    def project(self, cls):
        half = cls[:, :12]
        return half / np.linalg.norm(half, axis=1, keepdims=True)


def grey_frame(pixels) -> Frame:
    buffer = io.BytesIO()
    Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8)).save(buffer, "PNG")
    return read_image(buffer.getvalue(), limits=PixelLimits())


@pytest.fixture
def stocked(empty: Seed) -> Seed:
    for number in range(1, 15):
        empty.study(number, label=LABELS[number % 4], decision=Decision.FINDING, slices=2)
    return empty


def with_collections(seed: Seed):
    """The app over frames, and beside them regions, study means and a task's space made from the same frames."""
    head, encoder = HalfHead(), seed.encoder
    names = [collection_name(encoder.id, level) for level in ("regions", "studies")]
    held = {name: MemoryIndex(encoder.dim) for name in names} | {space_collection_name(head.id): MemoryIndex(12)}
    points = seed.index.scroll(limit=1000)
    held[space_collection_name(head.id)].upsert(
        [replace(point, vector=head.project(point.vector[None])[0]) for point in points]
    )
    for point in points:
        held[names[1]].upsert(
            [FramePoint(mean_id(encoder.id, point.payload.study_instance_uid), point.vector, point.payload)]
        )
        for cell in range(2):
            box = Region(left=cell / 2, top=0.0, width=0.5, height=1.0)
            payload = point.payload.model_copy(update={"region": box})
            held[names[0]].upsert([FramePoint(region_id(point.id, cell), np.roll(point.vector, cell), payload)])
    app = ready_app(seed)
    app.state.parts = build_parts(
        SETTINGS,
        archive=seed.archive,
        index=seed.index,
        encoder=encoder,
        spaces={TASK: Space(TASK, "Brain MR", head)},
        open_collection=lambda name, _: held[name],
        aliases=MemoryAliases(held),
    )
    return app


KEPT = RetrievalReport.model_validate_json((BUILT_IN / TASK / "retrieval.json").read_text())


def with_report(seed: Seed):
    """The app with the figures that were measured of the built-in head."""
    app = ready_app(seed)
    spaces = {TASK: Space(TASK, "Brain MR", HalfHead(), KEPT)}
    app.state.parts = build_parts(SETTINGS, archive=seed.archive, index=seed.index, encoder=seed.encoder, spaces=spaces)
    return app


async def test_a_vote_says_what_such_a_vote_was_worth_when_it_was_measured(empty):
    others = ["glioma-like"] * 5 + ["normal"] * 3 + ["meningioma-like"] * 2
    for number, label in enumerate(["normal", *others], start=1):
        empty.study(number, label=label, decision=Decision.FINDING, slices=2)
    start = {"study_instance_uid": empty.studies[0].uid}
    async with client_of(with_report(empty)) as client:
        vote = (await client.post("/v1/search", json={**start, "limit": 10})).json()["vote"]
        expected = KEPT.spaces["visual"].vote(0.5)
        assert expected is not None
        said = vote["calibration"]
        assert (said["probability"], said["low"], said["high"]) == (expected.right, expected.low, expected.high)
        assert "phantom" in said["source"]
        for other in ({"limit": 9}, {"limit": 10, "filters": {"modality": ["MR"]}}, {"limit": 10, "group_by": "frame"}):
            answer = await client.post("/v1/search", json={**start, **other})
            assert answer.json()["vote"]["calibration"] is None, other


async def pages(client, request, between=lambda: None):
    found, cursor = [], None
    while True:
        answer = await client.post("/v1/search", json={**request, **({"cursor": cursor} if cursor else {})})
        assert answer.status_code == 200, answer.text
        found.append(answer.json())
        cursor = found[-1]["next_cursor"]
        if cursor is None:
            return found
        between()


async def test_pages_hold_every_study_once_in_order(stocked):
    async with client_of(ready_app(stocked)) as client:
        found = await pages(client, {"study_instance_uid": stocked.studies[0].uid, "limit": 4})
    results = [one for page in found for one in page["results"]]
    assert {one["study_instance_uid"] for one in results} == {study.uid for study in stocked.studies[1:]}
    assert len(results) == 13
    assert [one["rank"] for one in results] == list(range(1, 14))
    scores = [one["score"] for one in results]
    assert scores == sorted(scores, reverse=True)


async def test_studies_that_come_between_pages_neither_repeat_nor_hide_nor_disorder_any(stocked):
    before = {study.uid for study in stocked.studies[1:]}
    numbers = iter(range(100, 200))

    def arrive():
        for _ in range(3):
            stocked.study(next(numbers), label="glioma-like", decision=Decision.FINDING, slices=2)

    async with client_of(ready_app(stocked)) as client:
        found = await pages(client, {"study_instance_uid": stocked.studies[0].uid, "limit": 3}, arrive)
    results = [one for page in found for one in page["results"]]
    uids = [one["study_instance_uid"] for one in results]
    assert len(uids) == len(set(uids))
    assert before <= set(uids)
    scores = [one["score"] for one in results]
    assert scores == sorted(scores, reverse=True)


async def test_a_cursor_of_another_search_is_422(stocked):
    async with client_of(ready_app(stocked)) as client:
        first = {"study_instance_uid": stocked.studies[0].uid, "limit": 2}
        cursor = (await client.post("/v1/search", json=first)).json()["next_cursor"]
        other = {"study_instance_uid": stocked.studies[1].uid, "limit": 2, "cursor": cursor}
        for request in (other, {**first, "cursor": cursor[:-4]}, {**first, "cursor": "é"}):
            answer = await client.post("/v1/search", json=request)
            assert (answer.status_code, answer.json()["type"]) == (422, "urn:similis:problem:invalid-cursor")


@pytest.mark.parametrize("options", [{"space": TASK}, {"level": "study"}])
async def test_every_space_and_level_answers_without_the_querys_own_patient(stocked, options):
    twin = stocked.study(50, patient=1, label=LABELS[1], decision=Decision.FINDING, slices=2)
    async with client_of(with_collections(stocked)) as client:
        body = {"study_instance_uid": stocked.studies[0].uid, "limit": 50, **options}
        answer = (await client.post("/v1/search", json=body)).json()
    found = {one["study_instance_uid"] for one in answer["results"]}
    assert found == {study.uid for study in stocked.studies[1:] if study.uid != twin.uid}
    assert (answer["query"]["space"], answer["query"]["level"]) == (
        options.get("space", "visual"),
        options.get("level", "frame"),
    )


async def test_a_region_is_answered_by_regions_of_other_patients(stocked):
    study = stocked.studies[0]
    region = {"left": 0.5, "top": 0.25, "width": 0.25, "height": 0.5}
    body = {"sop_instance_uid": study.sops[0], "frame_number": 1, "region": region, "limit": 50}
    async with client_of(with_collections(stocked)) as client:
        answer = (await client.post("/v1/search", json=body)).json()
        upload = await client.post(
            "/v1/search/upload", files={"file": study.files[0]}, params={"region": "0.5,0.25,0.25,0.5"}
        )
    assert answer["query"]["region"] == region
    assert len(answer["results"]) == 13
    assert all(one["region"]["width"] == 0.5 for one in answer["results"])
    assert study.uid not in {one["study_instance_uid"] for one in answer["results"]}
    # The same frame and box: the same vector, though an upload is nobody's.
    assert upload.status_code == 200
    scores = {one["study_instance_uid"]: one["score"] for one in upload.json()["results"]}
    assert all(scores.get(one["study_instance_uid"], one["score"]) == one["score"] for one in answer["results"][:5])


async def test_what_is_not_indexed_is_no_such_space(stocked):
    body = {"study_instance_uid": stocked.studies[0].uid}
    async with client_of(with_collections(stocked)) as client:
        for options in ({"space": "lung-ct"}, {"level": "series"}, {"space": TASK, "level": "study"}):
            answer = await client.post("/v1/search", json={**body, **options})
            assert (answer.status_code, answer.json()["type"]) == (404, "urn:similis:problem:no-such-space")


async def test_a_batch_answers_each_search_in_order(stocked):
    searches = [
        {"study_instance_uid": stocked.studies[2].uid},
        {"study_instance_uid": "1.2.3.4"},
        {"study_instance_uid": stocked.studies[0].uid, "space": "lung-ct"},
    ]
    async with client_of(ready_app(stocked)) as client:
        answers = (await client.post("/v1/search/batch", json={"searches": searches})).json()["answers"]
        many = await client.post("/v1/search/batch", json={"searches": searches * 11})
    assert answers[0]["answer"]["query"]["study_instance_uid"] == stocked.studies[2].uid
    assert [one["problem"] and one["problem"]["status"] for one in answers] == [None, 404, 404]
    assert many.status_code == 422


async def test_a_search_that_takes_too_long_is_504_and_its_worker_comes_back(stocked):
    @dataclass(frozen=True, slots=True)
    class SlowEncoder(FakeEncoder):
        def encode(self, frames):
            time.sleep(0.4)
            return FakeEncoder.encode(self, frames)

    section = SETTINGS.query.model_copy(update={"search_timeout_s": 0.15})
    app = ready_app(stocked)
    app.state.parts = build_parts(
        SETTINGS.model_copy(update={"query": section}),
        archive=stocked.archive,
        index=stocked.index,
        encoder=SlowEncoder(),
    )
    async with client_of(app) as client:
        answer = await client.post("/v1/search/upload", files={"file": stocked.studies[0].files[0]})
        assert (answer.status_code, answer.json()["type"]) == (504, "urn:similis:problem:timeout")
    assert await app.state.parts.encoders.run(lambda: "free again") == "free again"


async def test_a_patch_that_moved_is_found_at_its_new_place():
    rng, encoder = np.random.default_rng(3), FakeEncoder()
    one, other = rng.uniform(0.2, 1.0, (2, 64, 64))
    other[8:24, 40:56] = one[32:48, 16:32]
    frames = [grey_frame(one), grey_frame(other)]
    sides = []
    for frame, tokens in zip(frames, encoder.encode(frames).patches, strict=True):
        grid = PatchGrid.of(frame, patches=64, size_px=64)
        sides.append(Patches(tokens, grid, grid.foreground(letterboxed(frame, 64))))
    best = match_patches(sides[0], sides[1], most=3)[0]
    assert best.query == Region(left=0.25, top=0.5, width=0.25, height=0.25)
    assert best.neighbour == Region(left=0.625, top=0.125, width=0.25, height=0.25)
    assert best.score > 0.999


async def test_matches_over_http_lie_on_the_frames_and_are_the_same_again(stocked):
    query, neighbour = stocked.studies[0], stocked.studies[1]
    body = {
        "query": {"sop_instance_uid": query.sops[0], "frame_number": 1},
        "neighbour": {"sop_instance_uid": neighbour.sops[0], "frame_number": 1},
    }
    async with client_of(ready_app(stocked)) as client:
        first = (await client.post("/v1/matches", json=body)).json()
        upload = await client.post(
            "/v1/matches/upload", files={"file": query.files[0]}, params={"sop_instance_uid": neighbour.sops[0]}
        )
        missing = await client.post("/v1/matches", json={**body, "query": {"sop_instance_uid": "1.2.3"}})
    assert first["matches"]
    assert upload.json()["matches"] == first["matches"]
    assert missing.status_code == 404


@given(st.floats(-1, 1), st.lists(st.text(), min_size=1, max_size=20), st.text())
def test_a_cursor_comes_back_as_it_went_and_only_for_its_search(score, names, query):
    cursor = SearchCursor(fingerprint(query), score, tuple(mark(name) for name in names))
    text = encode_search(cursor)
    assert decode_search(text, expected=cursor.fingerprint, seen_max=20) == cursor
    for expected, most in ((fingerprint(query, ""), 20), (cursor.fingerprint, len(names) - 1)):
        with pytest.raises(Problem):
            decode_search(text, expected=expected, seen_max=most)


@given(st.text(max_size=200))
def test_no_text_breaks_the_reading_of_a_cursor(text):
    with pytest.raises(Problem):
        decode_search(text, expected=b"12345678", seen_max=20)


async def test_info_says_whether_regions_are_indexed(stocked):
    for app, expected in ((ready_app(stocked), False), (with_collections(stocked), True)):
        async with client_of(app) as client:
            assert (await client.get("/v1/info")).json()["region_search"] is expected
