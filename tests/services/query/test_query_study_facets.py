"""GET /v1/studies?facets=true: what each filter would find under the others."""

from __future__ import annotations

import httpx


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
