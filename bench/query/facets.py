"""`python -m bench.query.facets`: one request for the list with counts, by columns and the plain way, in one run.

Synthetic records in memory, no archive and no HTTP; both ways must agree. Research use only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, TypeVar

import numpy as np
import typer

from bench.query import plain_list
from services.query.catalogue import StudyRecord
from services.query.requests import Filters
from services.query.study_columns import StudyColumns
from shared.errors import SimilisError
from shared.events import Decision, StudyDiagnosed

FILTERS: Final = (
    ("none", Filters(), ""),
    ("modality", Filters(modality=["MR"]), ""),
    ("three fields", Filters(modality=["MR", "CT"], sex=["F"], decision=[Decision.FINDING]), ""),
    ("text", Filters(), "glioma"),
)
_PAGE: Final = 50
T = TypeVar("T")


def main(
    studies: Annotated[int, typer.Option(min=100, help="Studies in the list.")] = 100_000,
    repeats: Annotated[int, typer.Option(min=1, help="Requests of each kind.")] = 5,
) -> None:
    """Median CPU times of a request."""
    listed = records(studies)
    made_s, columns = _timed(lambda: StudyColumns.of(listed))
    print(f"{studies} studies; columns made in {made_s:.2f} s of CPU, once for each list that changed\n")
    print("| filters | columns, CPU ms | plain, CPU ms | plain / columns |\n|---|---|---|---|")
    for name, filters, text in FILTERS:
        fast_s, slow_s = [], []
        for _ in range(repeats):
            # In turns, so that what disturbs meets both.
            spent, ours = _timed(lambda: _by_columns(columns, filters, text))  # noqa: B023 - called at once
            fast_s.append(spent)
            spent, theirs = _timed(lambda: _plainly(listed, filters, text))  # noqa: B023
            slow_s.append(spent)
            if ours != theirs:
                raise SimilisError(f"the two ways disagree on {name}")
        fast, slow = float(np.median(fast_s)), float(np.median(slow_s))
        print(f"| {name} | {1e3 * fast:.1f} | {1e3 * slow:.0f} | {slow / fast:.0f} |")


def records(count: int, seed: int = 1) -> tuple[StudyRecord, ...]:
    """Studies of a hospital's mix, newest first; one in ten waits to be judged."""
    numbers = np.random.default_rng(seed)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return tuple(
        StudyRecord(
            study_instance_uid=f"1.2.826.0.1.3680043.{number}",
            revision=1,
            received_at=start + timedelta(seconds=number),
            study_date=f"2025{numbers.integers(1, 13):02}{numbers.integers(1, 29):02}",
            modalities=(("MR", "CT", "CR", "US")[numbers.integers(4)],),
            body_parts=(("BRAIN", "CHEST", "ABDOMEN", "KNEE")[numbers.integers(4)],),
            sexes=("FM"[numbers.integers(2)],),
            age_bands=(f"{10 * numbers.integers(1, 9)}-{10 * numbers.integers(1, 9) + 9}",),
            series_count=4,
            instance_count=100,
            frame_count=100,
            mixed_patients=False,
            diagnoses=_diagnoses(numbers),
            map_count=0,
            cover=None,
        )
        for number in reversed(range(count))
    )


def _diagnoses(numbers: np.random.Generator) -> tuple[StudyDiagnosed, ...]:
    if numbers.random() < 0.1:
        return ()
    decision, label = (
        (Decision.FINDING, "glioma-like"),
        (Decision.FINDING, "meningioma-like"),
        (Decision.NO_FINDING, "normal"),
        (Decision.ABSTAINED, None),
    )[numbers.integers(4)]
    # Only what the list reads; the rest of a diagnosis costs nothing here.
    read: dict[str, Any] = {"task": "brain-mr", "decision": decision, "label": label}
    return (StudyDiagnosed.model_construct(**read),)


def _by_columns(columns: StudyColumns, filters: Filters, text: str) -> object:
    found = columns.find(filters, text)
    return found.total, found.page(None, _PAGE)[0], found.facets()


def _plainly(listed: tuple[StudyRecord, ...], filters: Filters, text: str) -> object:
    found = plain_list.matching(listed, filters, text)
    return len(found), found[:_PAGE], plain_list.facets(listed, filters, text)


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    started = time.process_time()
    found = work()
    return time.process_time() - started, found


if __name__ == "__main__":
    try:
        typer.run(main)
    except SimilisError as error:
        print(f"bench.query.facets: {error}", file=sys.stderr)
        sys.exit(1)
