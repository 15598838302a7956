"""The API over the real app, a folder archive, the in-memory index and a small working encoder."""

from __future__ import annotations

import json
from urllib.parse import unquote

import httpx
import numpy as np
import pytest
from light_box_seed import CALLING_AE, PATIENT_ID, PATIENT_NAME, ROOT, TASK, Seed, not_an_image, picture, png
from PIL import Image

from services.query.http import build_app
from shared.errors import ArchiveUnavailableError, IndexUnavailableError
from shared.events import Decision
from shared.health import Health
from tests.services.query.conftest import SETTINGS, client_of, ready_app

NOTICE = "research use only"
GLIOMA = 4  # place of the first glioma-like study in the seed


def is_problem(response: httpx.Response, status: int, kind: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["type"] == f"urn:similis:problem:{kind}"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert unquote(body["instance"]) == response.request.url.path


# -- search ----------------------------------------------------------------------------------
async def test_search_by_study_finds_others_best_first(client, seed: Seed):
    study = seed.studies[GLIOMA]
    response = await client.post("/v1/search", json={"study_instance_uid": study.uid, "limit": 6})
    assert response.status_code == 200, response.text
    body = response.json()
    studies = [hit["study_instance_uid"] for hit in body["results"]]
    scores = [hit["score"] for hit in body["results"]]
    assert len(studies) == len(set(studies)) == 6
    assert study.uid not in studies
    assert scores == sorted(scores, reverse=True)
    assert [hit["rank"] for hit in body["results"]] == [1, 2, 3, 4, 5, 6]
    assert body["query"]["kind"] == "study"
    assert body["query"]["label"] == "glioma-like"
    assert body["notice"] == NOTICE
    assert all(hit["notice"] == NOTICE for hit in body["results"])
    assert all(hit["agrees"] == (hit["label"] == "glioma-like") for hit in body["results"] if hit["label"])


async def test_a_study_is_searched_by_its_evidence_frames(client, seed: Seed):
    study = seed.studies[GLIOMA]
    points = seed.index.retrieve([evidence.point_id for evidence in study.diagnosed.evidence])
    mean = np.mean([point.vector for point in points], axis=0)
    by_study = (await client.post("/v1/search", json={"study_instance_uid": study.uid})).json()
    by_vector = (await client.post("/v1/search", json={"vector": [float(v) for v in mean * 3]})).json()
    assert by_study["query"]["frames_used"] == len(points) == 2
    others = [hit for hit in by_vector["results"] if hit["study_instance_uid"] != study.uid]
    assert [hit["sop_instance_uid"] for hit in by_study["results"][:5]] == [
        hit["sop_instance_uid"] for hit in others[:5]
    ]


async def test_a_study_without_evidence_is_searched_by_the_mean_of_its_frames(client, seed: Seed):
    no_task = next(found for found in seed.studies if found.diagnosed and found.diagnosed.task == "none")
    body = (await client.post("/v1/search", json={"study_instance_uid": no_task.uid})).json()
    assert body["query"]["frames_used"] == len(no_task.sops)
    assert body["query"]["decision"] == "no-task"
    assert all(hit["agrees"] is None for hit in body["results"])


async def test_search_by_series_instance_and_frame(client, seed: Seed):
    study = seed.studies[GLIOMA]
    by_series = (await client.post("/v1/search", json={"series_instance_uid": study.series})).json()
    by_instance = (await client.post("/v1/search", json={"sop_instance_uid": study.sops[1]})).json()
    by_frame = (await client.post("/v1/search", json={"sop_instance_uid": study.sops[1], "frame_number": 1})).json()
    assert (by_series["query"]["kind"], by_series["query"]["frames_used"]) == ("series", 5)
    assert (by_instance["query"]["kind"], by_frame["query"]["kind"]) == ("instance", "frame")
    assert by_instance["results"] == by_frame["results"]


async def test_the_own_patient_is_left_out_unless_asked_for(empty: Seed):
    first = empty.study(1, patient=1)
    second = empty.study(2, patient=1)
    third = empty.study(3, patient=3)
    async with client_of(ready_app(empty)) as client:
        request = {"study_instance_uid": first.uid}
        default = (await client.post("/v1/search", json=request)).json()
        everyone = (await client.post("/v1/search", json={**request, "exclude_own_patient": False})).json()
    assert [hit["study_instance_uid"] for hit in default["results"]] == [third.uid]
    assert default["query"]["own_patient_excluded"] is True
    assert {hit["study_instance_uid"] for hit in everyone["results"]} == {second.uid, third.uid}
    assert everyone["query"]["own_patient_excluded"] is False


@pytest.mark.parametrize(
    ("filters", "holds"),
    [
        ({"label": ["normal"]}, lambda hit: hit["label"] == "normal"),
        ({"label": ["normal", "metastasis-like"]}, lambda hit: hit["label"] in ("normal", "metastasis-like")),
        ({"modality": ["CT"]}, lambda hit: hit["modality"] == "CT"),
        ({"decision": ["abstained"]}, lambda hit: hit["decision"] == "abstained"),
        ({"task": ["none"]}, lambda hit: hit["task"] == "none"),
        ({"sex": ["M"], "age_band": ["60-69"]}, lambda hit: hit["sex"] == "M" and hit["age_band"] == "60-69"),
        (
            {"study_date_from": "2024-05-13", "study_date_to": "2024-05-13"},
            lambda hit: hit["study_date"] == "2024-05-13",
        ),
    ],
)
async def test_filters_hold_for_every_neighbour(client, seed: Seed, filters, holds):
    request = {"study_instance_uid": seed.studies[GLIOMA].uid, "filters": filters, "limit": 50}
    results = (await client.post("/v1/search", json=request)).json()["results"]
    assert results
    assert all(holds(hit) for hit in results)


async def test_grouped_by_frame_one_study_may_come_twice(client, seed: Seed):
    request = {"study_instance_uid": seed.studies[GLIOMA].uid, "group_by": "frame", "limit": 30}
    body = (await client.post("/v1/search", json=request)).json()
    studies = [hit["study_instance_uid"] for hit in body["results"]]
    assert len(studies) == 30 > len(set(studies))
    # Each study has one vote, however many of its frames are found.
    assert body["vote"]["voters"] + body["vote"]["without_label"] == len(set(studies))


async def test_the_vote_counts_each_study_once_and_owns_up_to_a_tie(empty: Seed):
    query = empty.study(1)
    for number, label in enumerate(("normal", "glioma-like", "normal", "glioma-like"), start=2):
        decision = Decision.NO_FINDING if label == "normal" else Decision.FINDING
        empty.study(number, label=label, decision=decision)
    empty.study(9, decision=Decision.ABSTAINED)
    async with client_of(ready_app(empty)) as client:
        tied = (await client.post("/v1/search", json={"study_instance_uid": query.uid})).json()["vote"]
        top = (
            await client.post("/v1/search", json={"study_instance_uid": query.uid, "filters": {"label": ["normal"]}})
        ).json()["vote"]
    assert (tied["label"], tied["tie"], tied["voters"], tied["without_label"]) == (None, True, 4, 1)
    assert (top["label"], top["tie"], top["votes"], top["voters"]) == ("normal", False, 2, 2)
    assert tied["notice"] == NOTICE


async def test_the_limit_is_capped(client, seed: Seed):
    body = (await client.post("/v1/search", json={"study_instance_uid": seed.studies[0].uid, "limit": 10**9})).json()
    assert 0 < len(body["results"]) <= SETTINGS.query.search_limit_max


@pytest.mark.parametrize(
    "request_body",
    [
        {},
        {"study_instance_uid": "1.2", "vector": [1.0]},
        {"study_instance_uid": "1.2", "frame_number": 1},
        {"study_instance_uid": "../../etc/passwd"},
        {"study_instance_uid": "1." * 60 + "1"},
        {"sop_instance_uid": "1.2", "frame_number": 0},
        {"vector": []},
        {"vector": ["a"]},
        {"vector": [1.0], "limit": 0},
        {"study_instance_uid": "1.2", "filters": {"patient_pseudonym": ["x"]}},
        {"study_instance_uid": "1.2", "surprise": 1},
    ],
)
async def test_a_bad_search_is_422(client, request_body):
    is_problem(await client.post("/v1/search", json=request_body), 422, "invalid-request")


async def test_a_vector_that_is_not_one_is_422(client, seed: Seed):
    dim = seed.encoder.dim
    for vector in ([0.0] * dim, [1.0] * (dim + 1)):
        is_problem(await client.post("/v1/search", json={"vector": vector}), 422, "invalid-vector")
    assert (await client.post("/v1/search", json={"vector": [1e300] * dim})).status_code == 200
    not_json = '{"vector": [NaN]}'
    response = await client.post("/v1/search", content=not_json, headers={"content-type": "application/json"})
    is_problem(response, 422, "invalid-request")


@pytest.mark.parametrize("field", ["study_instance_uid", "series_instance_uid", "sop_instance_uid"])
async def test_a_search_by_something_unknown_is_404(client, field):
    is_problem(await client.post("/v1/search", json={field: "1.2.3.4"}), 404, "not-indexed")


# -- upload ----------------------------------------------------------------------------------
async def upload(client: httpx.AsyncClient, data: bytes, query: str = "", name: str = "scan") -> httpx.Response:
    return await client.post(f"/v1/search/upload{query}", files={"file": (name, data)})


async def test_an_uploaded_slice_finds_itself_first(client, seed: Seed):
    study = seed.studies[GLIOMA]
    response = await upload(client, study.files[1], "?limit=3")
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["results"][0]["sop_instance_uid"] == study.sops[1]
    assert body["results"][0]["score"] == pytest.approx(1.0, abs=1e-4)
    assert body["query"]["kind"] == "upload"
    assert body["query"]["own_patient_excluded"] is False
    assert body["query"]["preview"].startswith("data:image/png;base64,")


async def test_png_and_jpeg_uploads_are_searched(client, seed: Seed, tmp_path):
    pixels = picture(5, "glioma-like", 0.5, 48)
    as_png = await upload(client, png(pixels), "?label=glioma-like")
    Image.fromarray((pixels // 16).astype(np.uint8)).save(tmp_path / "a.jpg", quality=95)
    as_jpeg = await upload(client, (tmp_path / "a.jpg").read_bytes())
    assert {hit["label"] for hit in as_png.json()["results"]} == {"glioma-like"}
    assert as_jpeg.status_code == 200


async def test_uploads_that_are_no_image_are_refused(client, seed: Seed):
    is_problem(await upload(client, b"hello"), 415, "not-an-image")
    is_problem(await upload(client, b""), 415, "not-an-image")
    is_problem(await upload(client, b"%PDF-1.7 ..."), 415, "not-an-image")
    is_problem(await upload(client, not_an_image()), 415, "not-an-image")
    is_problem(await upload(client, b"\x89PNG\r\n\x1a\nbroken"), 415, "not-an-image")
    is_problem(await upload(client, png(picture(1, "normal", 0.5, 48))[:-400]), 422, "undecodable-pixels")
    is_problem(await upload(client, seed.studies[0].files[0][:-500]), 422, "undecodable-pixels")
    is_problem(await upload(client, seed.studies[0].files[0], "?frame_number=7"), 422, "undecodable-pixels")


async def test_an_upload_without_a_file_is_422(client):
    is_problem(await client.post("/v1/search/upload"), 422, "invalid-request")


async def test_an_upload_that_is_too_large_is_413(client):
    is_problem(await upload(client, b"x" * 500_000), 413, "too-large")


async def test_a_body_that_lies_about_its_length_is_413(client):
    async def endless():
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="scan"\r\n\r\n'
        for _ in range(200):
            yield b"x" * 10_000

    # Without Content-Length: the limit must hold while the body arrives.
    headers = {"content-type": "multipart/form-data; boundary=b"}
    is_problem(await client.post("/v1/search/upload", content=endless(), headers=headers), 413, "too-large")
    headers = {"content-type": "application/json"}
    is_problem(await client.post("/v1/search", content=endless(), headers=headers), 413, "too-large")


async def test_a_decompression_bomb_is_refused(client, tmp_path):
    # 64 million pixels in 60 kB.
    Image.new("L", (8000, 8000)).save(tmp_path / "bomb.png", compress_level=9)
    data = (tmp_path / "bomb.png").read_bytes()
    assert len(data) < SETTINGS.query.upload_max_bytes
    is_problem(await upload(client, data), 413, "image-too-large")


async def test_uploads_are_counted_by_outcome(client, seed: Seed):
    before = (await client.get("/metrics")).text
    await upload(client, b"hello")
    after = (await client.get("/metrics")).text
    line = 'similis_query_uploads_total{outcome="not-an-image"} '
    count = [float(text.split(line)[1].split("\n")[0]) if line in text else 0.0 for text in (before, after)]
    assert count[1] == count[0] + 1
    assert 'similis_query_problems_total{kind="not-an-image"}' in after
    assert 'route="/v1/search/upload"' in after


# -- studies ---------------------------------------------------------------------------------
async def test_studies_are_listed_newest_first_on_pages_without_gaps(client, seed: Seed):
    seen, cursor = [], None
    while True:
        page = (await client.get("/v1/studies", params={"limit": 7, **({"cursor": cursor} if cursor else {})})).json()
        seen += [study["study_instance_uid"] for study in page["studies"]]
        assert page["total"] == len(seed.studies)
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [study.uid for study in reversed(seed.studies)]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("?modality=CT", 1),
        ("?label=normal", 4),
        ("?label=normal&label=glioma-like", 8),
        ("?decision=abstained", 1),
        ("?decision=abstained&label=normal", 0),
        ("?task=none", 1),
        ("?sex=M", 8),
        ("?study_date_from=2024-05-13&study_date_to=2024-05-13", 4),
        ("?q=glioma", 4),
        (f"?q={ROOT}.22", 1),
    ],
)
async def test_the_list_is_filtered(client, query, count):
    page = (await client.get(f"/v1/studies{query}")).json()
    assert page["total"] == len(page["studies"]) == count


async def test_facets_count_what_the_filters_find(client):
    facets = (await client.get("/v1/facets")).json()
    for field in ("task", "decision", "label", "modality", "body_part", "sex", "age_band"):
        assert facets[field]
        for entry in facets[field]:
            page = (await client.get("/v1/studies", params={field: entry["value"]})).json()
            assert page["total"] == entry["studies"], (field, entry)


async def test_a_study_in_full(client, seed: Seed):
    study = seed.studies[GLIOMA]
    body = (await client.get(f"/v1/studies/{study.uid}")).json()
    assert body["state"] == "diagnosed"
    assert body["diagnoses"][0]["label"] == "glioma-like"
    assert body["diagnoses"][0]["notice"] == NOTICE
    assert len(body["diagnoses"][0]["classes"]) == 4
    assert len(body["maps"]) == body["map_count"] == 1
    # The manifest lists the slices from the top, in space they lie the other way round.
    frames = [frame["sop_instance_uid"] for frame in body["series"][0]["frames"]]
    assert frames == list(reversed(study.sops))
    for url in (body["image_url"], body["series"][0]["frames"][0]["image_url"], body["maps"][0]["layer_url"]):
        response = await client.get(url)
        assert response.status_code == 200
        assert response.headers["content-type"] == "image/png"


async def test_a_study_that_waits_says_so(client, seed: Seed):
    waiting = seed.studies[-1]
    body = (await client.get(f"/v1/studies/{waiting.uid}")).json()
    assert (body["state"], body["diagnoses"], body["maps"]) == ("waiting", [], [])
    is_problem(await client.post("/v1/search", json={"study_instance_uid": waiting.uid}), 404, "not-indexed")


@pytest.mark.parametrize("uid", ["abc", "1.2.x", "1..2", "%2e%2e", "1.2%00", "1" * 65])
async def test_a_uid_that_is_none_is_422(client, uid):
    is_problem(await client.get(f"/v1/studies/{uid}"), 422, "invalid-request")


async def test_what_is_unknown_is_404(client, seed: Seed):
    study = seed.studies[GLIOMA]
    base = f"/v1/studies/{study.uid}"
    is_problem(await client.get("/v1/studies/1.2.3"), 404, "unknown-study")
    is_problem(await client.get(f"{base}/instances/1.2.3/frames/1.png"), 404, "unknown-instance")
    is_problem(await client.get(f"{base}/instances/{study.sops[0]}/frames/2.png"), 404, "unknown-frame")
    is_problem(await client.get(f"{base}/explanations/{TASK}/1.2.3-1.png"), 404, "unknown-map")
    is_problem(await client.get(f"{base}/explanations/other/{study.map_name}.json"), 404, "unknown-map")
    is_problem(await client.get("/v1/nothing"), 404, "not-found")
    is_problem(await client.get("/static/nothing.js"), 404, "not-found")
    is_problem(await client.put("/v1/studies"), 405, "method-not-allowed")


async def test_a_cursor_of_ones_own_making_is_422(client):
    for cursor in ("x", "====", "MjAyNnwxLjI=", "é", "bm90YWRhdGV8MS4y"):
        is_problem(await client.get("/v1/studies", params={"cursor": cursor}), 422, "invalid-cursor")


# -- pictures --------------------------------------------------------------------------------
async def test_a_frame_is_drawn_no_larger_than_asked(client, seed: Seed):
    study = seed.studies[GLIOMA]
    url = f"/v1/studies/{study.uid}/instances/{study.sops[0]}/frames/1.png"
    small, full = [await client.get(f"{url}{query}") for query in ("?size=16", "")]
    assert Image.open(small).size == (16, 16)
    assert Image.open(full).size == (seed.size, seed.size)
    again = await client.get(url, headers={"if-none-match": full.headers["etag"]})
    assert again.status_code == 304
    assert full.headers["cache-control"].startswith("private")
    for size in ("0", "-1", "99999", "x"):
        is_problem(await client.get(f"{url}?size={size}"), 422, "invalid-request")


async def test_a_map_comes_as_overlay_layer_and_record(client, seed: Seed):
    study = seed.studies[GLIOMA]
    url = f"/v1/studies/{study.uid}/explanations/{TASK}/{study.map_name}"
    overlay, layer, record = [await client.get(f"{url}{end}") for end in (".png", ".png?layer=map", ".json")]
    assert Image.open(overlay).mode == "L"
    picture_of_map = Image.open(layer)
    assert (picture_of_map.mode, picture_of_map.size) == ("RGBA", (224, 224))
    alpha = np.asarray(picture_of_map)[..., 3]
    # The seeded map has its peak at row 90, column 140 of the model's grid.
    assert alpha[90, 140] == 255
    assert alpha[200, 20] == 0
    assert record.json()["notice"] == NOTICE


@pytest.mark.parametrize(
    "path",
    [
        "/v1/studies/../../../etc/passwd",
        "/v1/studies/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/static/../settings.py",
        "/static/%2e%2e/settings.py",
        "/static/..%2fapp.py",
        "/static/js/%2e%2e/%2e%2e/app.py",
        f"/v1/studies/{ROOT}.5/explanations/{TASK}/..%2f..%2fexplained.json",
        f"/v1/studies/{ROOT}.5/explanations/..%2fbrain-mr/x.json",
        f"/v1/studies/{ROOT}.5/instances/..%2f..%2fx/frames/1.png",
    ],
)
async def test_no_path_leaves_its_folder(client, path):
    # httpx would tidy the path up by itself: the app must see it as it is.
    url = client.base_url.copy_with(raw_path=path.encode())
    response = await client.get(url)
    assert response.status_code in (404, 422)
    assert "root:" not in response.text
    assert "import" not in response.text


# -- privacy, notice, headers ----------------------------------------------------------------
async def test_no_answer_holds_identity(client, seed: Seed):
    study = seed.studies[GLIOMA]
    secrets = [PATIENT_NAME, "Verysecret", PATIENT_ID, CALLING_AE, *{found.pseudonym for found in seed.studies}]
    answers = [
        await client.get("/v1/info"),
        await client.get("/v1/facets"),
        await client.get("/v1/studies?limit=200"),
        await client.get(f"/v1/studies/{study.uid}"),
        await client.post("/v1/search", json={"study_instance_uid": study.uid, "limit": 100}),
        await upload(client, study.files[0]),
        await upload(client, study.files[0][:-500], name=f"{PATIENT_NAME}.dcm"),
        await upload(client, not_an_image(), name=f"{PATIENT_NAME}.dcm"),
        await client.post("/v1/search", json={"study_instance_uid": PATIENT_NAME}),
        await client.get("/v1/studies", params={"modality": PATIENT_NAME, "limit": PATIENT_NAME}),
        await client.get(f"/v1/studies/{study.uid}/instances/{study.sops[0]}/frames/1.png"),
        await client.get(f"/v1/studies/{study.uid}/explanations/{TASK}/{study.map_name}.json"),
        await client.get("/metrics"),
    ]
    for answer in answers:
        assert not [secret for secret in secrets if secret.encode() in answer.content], answer.request.url


async def test_whatever_shows_a_diagnosis_carries_the_notice(client, seed: Seed):
    study = seed.studies[GLIOMA]

    def check(value: object) -> None:
        if isinstance(value, dict):
            shows = "label" in value and ("decision" in value or "votes" in value)
            assert not shows or value.get("notice") == NOTICE, value
            for inner in value.values():
                check(inner)
        elif isinstance(value, list):
            for inner in value:
                check(inner)

    for answer in (
        await client.get("/v1/studies"),
        await client.get(f"/v1/studies/{study.uid}"),
        await client.post("/v1/search", json={"study_instance_uid": study.uid}),
        await upload(client, study.files[0]),
    ):
        assert answer.json()["notice"] == NOTICE
        check(answer.json())


async def test_every_answer_has_the_security_headers(client):
    for path in ("/", "/static/app.css", "/v1/info", "/v1/studies/abc", "/nothing", "/metrics"):
        headers = (await client.get(path)).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "cache-control" in headers
    assert (await client.get("/v1/studies")).headers["cache-control"] == "no-store"


async def test_the_page_refers_to_nothing_elsewhere(client):
    for path in ("/", "/static/app.css", "/static/js/app.js", "/static/js/list.js", "/static/js/api.js"):
        text = (await client.get(path)).text
        assert "http://" not in text
        assert "https://" not in text


# -- faults ----------------------------------------------------------------------------------
async def test_before_it_is_ready_it_says_so():
    health = Health()
    async with client_of(build_app(SETTINGS.query, health)) as client:
        response = await client.get("/v1/studies")
        is_problem(response, 503, "starting")
        assert int(response.headers["retry-after"]) > 0
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/")).status_code == 200
        health.ready = True
        assert (await client.get("/readyz")).status_code == 200


async def test_without_the_index_browsing_goes_on(seed: Seed, monkeypatch):
    def away(*_: object, **__: object) -> None:
        raise IndexUnavailableError("http://qdrant.internal:6333 refused")

    app = ready_app(seed)
    for name in ("search", "search_studies", "retrieve", "scroll", "count"):
        monkeypatch.setattr(type(seed.index), name, away)
    async with client_of(app) as client:
        response = await client.post("/v1/search", json={"study_instance_uid": seed.studies[0].uid})
        is_problem(response, 503, "index-unavailable")
        assert int(response.headers["retry-after"]) > 0
        assert "qdrant.internal" not in response.text
        assert (await client.get("/v1/studies")).status_code == 200
        assert (await client.get("/v1/info")).json()["frames_indexed"] is None


async def test_without_the_archive_it_is_503(seed: Seed, monkeypatch):
    def away(*_: object) -> None:
        raise ArchiveUnavailableError("/srv/archive: input/output error")

    monkeypatch.setattr(type(seed.archive), "list", away)
    async with client_of(ready_app(seed)) as client:
        response = await client.get("/v1/studies")
    is_problem(response, 503, "archive-unavailable")
    assert "/srv/archive" not in response.text


async def test_a_bug_answers_500_without_its_details(seed: Seed, monkeypatch):
    def bug(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(type(seed.archive), "list", bug)
    async with client_of(ready_app(seed)) as client:
        response = await client.get("/v1/studies")
    is_problem(response, 500, "internal")
    assert "secret detail" not in response.text
    assert response.headers["content-security-policy"]


async def test_the_answers_fit_the_openapi_document(client, seed: Seed):
    document = (await client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    text = json.dumps(document)
    assert "HTTPValidationError" not in text
    assert {"/v1/search", "/v1/search/upload", "/v1/studies", "/v1/info", "/v1/facets"} <= set(document["paths"])
    refs = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert refs <= set(document["components"]["schemas"])


async def test_a_map_that_hardly_varies_stays_pale(empty: Seed):
    study = empty.study(1, label="glioma-like", decision=Decision.FINDING, explained=True)
    key = f"explanations/{study.uid}/1/{TASK}/{study.map_name}.json"
    record = json.loads(empty.archive.get(key))
    # The explainer's least span: the scale is far wider than this map's own range.
    record["overlay_scale"]["high"] = record["overlay_scale"]["low"] + 42 * 2.0
    empty.archive.put(key, json.dumps(record).encode())
    async with client_of(ready_app(empty)) as client:
        layer = await client.get(f"/v1/studies/{study.uid}/explanations/{TASK}/{study.map_name}.png?layer=map")
        assert np.asarray(Image.open(layer))[..., 3].max() < 40
        empty.archive.put(key, b'{"notice": "research use only"}')
        async with client_of(ready_app(empty)) as fresh:
            broken = await fresh.get(f"/v1/studies/{study.uid}/explanations/{TASK}/{study.map_name}.png?layer=map")
        is_problem(broken, 500, "archive-object-corrupt")
