"""GET /v1/studies?facets=true: what each filter would find under the others."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st
from light_box_seed import Seed

from bench.query import plain_list
from services.query.catalogue import Catalogue, StudyRecord
from services.query.requests import Filters
from services.query.study_columns import CurrentColumns, StudyColumns
from shared.events import Decision, StudyDiagnosed
from tests.services.query.conftest import client_of, ready_app


async def test_a_count_is_what_choosing_that_value_finds_under_the_other_filters(client: httpx.AsyncClient):
    given = {"modality": "MR", "label": "glioma-like"}
    facets = (await client.get("/v1/studies", params={**given, "facets": True})).json()["facets"]
    assert len(facets["label"]) > 1  # its own filter is left out
    for field in ("label", "modality", "decision", "sex"):
        assert facets[field]
        for entry in facets[field]:
            found = (await client.get("/v1/studies", params={**given, field: entry["value"]})).json()
            assert found["total"] == entry["studies"], (field, entry)


async def test_counts_are_only_made_when_asked_for(client: httpx.AsyncClient):
    assert (await client.get("/v1/studies")).json()["facets"] is None


values = st.sampled_from(["a", "b", "c", "longer"])
some = st.lists(values, max_size=2, unique=True)
days = st.sampled_from([None, "20240101", "20240102", "20240131", "no date"])
chosen = dict.fromkeys(("task", "label", "modality", "body_part", "sex", "age_band"), some)
bounds = st.sampled_from([None, date(2024, 1, 1), date(2024, 1, 2), date(2025, 1, 1)])


@st.composite
def studies(draw: st.DrawFn) -> tuple[StudyRecord, ...]:
    number = draw(st.integers(0, 12))
    return tuple(
        StudyRecord(
            study_instance_uid=f"1.2.{place}",
            revision=1,
            # Some at the same moment: the UID breaks the tie.
            received_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=place // 2),
            study_date=draw(days),
            modalities=tuple(draw(some)),
            body_parts=tuple(draw(some)),
            sexes=tuple(draw(some)),
            age_bands=tuple(draw(some)),
            series_count=1,
            instance_count=1,
            frame_count=1,
            mixed_patients=False,
            diagnoses=tuple(
                StudyDiagnosed.model_construct(
                    task=draw(values), decision=draw(st.sampled_from(Decision)), label=draw(values | st.none())
                )
                for _ in range(draw(st.integers(0, 3)))
            ),
            map_count=0,
            cover=None,
        )
        for place in reversed(range(number))
    )


filters = st.builds(
    Filters,
    **chosen,
    decision=st.lists(st.sampled_from(Decision), max_size=2),
    study_date_from=bounds,
    study_date_to=bounds,
)


@settings(deadline=None, max_examples=300)
@given(records=studies(), wanted=filters, text=st.sampled_from(["", "", "a", "long", "1.2.1", "nowhere"]))
def test_columns_find_page_and_count_what_looking_at_each_study_does(
    records: tuple[StudyRecord, ...], wanted: Filters, text: str
):
    records = tuple(sorted(records, key=lambda record: record.order, reverse=True))
    found = StudyColumns.of(records).find(wanted, text)
    expected = plain_list.matching(records, wanted, text)
    assert found.total == len(expected)
    assert found.facets() == plain_list.facets(records, wanted, text)
    seen, after, more = [], None, True
    while more:
        page, more = found.page(after, 2)
        seen += page
        after = page[-1].order if page else after
    assert seen == expected


async def test_counts_are_of_the_list_as_it_is_when_data_arrives(empty: Seed):
    app = ready_app(empty)
    async with client_of(app) as client:
        for number in range(1, 4):
            empty.study(number, label="glioma-like", decision=Decision.FINDING)
            page = (await client.get("/v1/studies", params={"facets": True, "label": "glioma-like"})).json()
            assert page["total"] == page["facets"]["studies"] == number
            assert page["facets"]["label"] == [{"value": "glioma-like", "studies": number}]
        empty.study(1, label="normal", decision=Decision.NO_FINDING, revision=2)
        changed = (await client.get("/v1/studies", params={"facets": True})).json()["facets"]["label"]
    assert {entry["value"]: entry["studies"] for entry in changed} == {"glioma-like": 2, "normal": 1}


def test_an_unchanged_list_keeps_its_columns(empty: Seed):
    empty.study(1)
    catalogue = Catalogue(empty.archive, max_age_s=0, recheck_s=0)
    columns = CurrentColumns(catalogue)
    first = columns()
    assert columns() is first
    empty.study(2)
    assert len(columns().records) == 2
