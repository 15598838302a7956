"""Asks the query service by HTTP, as any client would."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from services.demo.report import NeighbourFound
from services.demo.studies import DemoStudy

NEIGHBOURS = 3


@dataclass(frozen=True, slots=True)
class Found:
    """`itself`: an image of the study, uploaded, finds the study. `neighbours`: of other patients."""

    itself: bool
    neighbours: tuple[NeighbourFound, ...]


def find_similar(client: httpx.Client, study: DemoStudy) -> Found:
    """Search by one of the study's files, and by the indexed study."""
    image = study.files[len(study.files) // 2]
    uploaded = client.post("/v1/search/upload", files={"file": (image.name, image.read_bytes())})
    indexed = client.post("/v1/search", json={"study_instance_uid": study.study_instance_uid, "limit": NEIGHBOURS})
    return Found(
        itself=any(hit["study_instance_uid"] == study.study_instance_uid for hit in _results(uploaded)),
        neighbours=tuple(NeighbourFound.model_validate(hit) for hit in _results(indexed)),
    )


def _results(response: httpx.Response) -> list[dict[str, Any]]:
    if response.status_code in (httpx.codes.NOT_FOUND, httpx.codes.UNPROCESSABLE_ENTITY):
        return []  # not indexed: the report says so
    response.raise_for_status()
    results: list[dict[str, Any]] = response.json()["results"]
    return results
