"""What the routes of searches do between request and answer."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio

from services.query import metrics, views
from services.query.audit import trail
from services.query.cursors import SearchCursor, decode_search, encode_search, fingerprint
from services.query.find_similar import FindSimilar, NotIndexedError, Start, Tally, Wish, mark_of, tally
from services.query.parts import Parts
from services.query.problems import Problem
from services.query.requests import Filters, SearchOptions, SearchRequest
from services.query.search_schema import SearchResponse, VoteCalibration
from shared.ids import point_id
from shared.pixels.frame import Frame
from shared.vector_index import Level
from shared.vector_index.port import FramePayload
from shared.vision.retrieval_report import VISUAL

VOTERS = 10
"""Studies whose vote `similis evaluate retrieval` measures."""


@asynccontextmanager
async def in_time(parts: Parts) -> AsyncIterator[None]:
    """Let what is within take `search_timeout_s` at most; a worker that is not done then stays taken until it is.

    Raises:
        Problem: 504, it took longer.
    """
    try:
        with anyio.fail_after(parts.settings.search_timeout_s):
            yield
    except TimeoutError as error:
        raise Problem(504, "timeout", "The search took too long and was given up.") from error


def step_for(parts: Parts, options: SearchOptions) -> FindSimilar:
    """The search in the collection that the options name. May block.

    Raises:
        Problem: 404, there is no such collection.
    """
    levels: dict[str, Level] = {"frame": "frames", "series": "series", "study": "studies"}
    level: Level = "regions" if options.region is not None else levels[options.level]
    return replace(parts.find_similar, index=parts.collections.find(options.space, level))


def starting_point(request: SearchRequest, parts: Parts) -> Start:
    """The query vector of something indexed, or of a vector. May block; a region's frame is not encoded here.

    Raises:
        NotIndexedError: the index has nothing of it.
        Problem: 404, there is no such collection.
    """
    found = step_for(parts, request)
    # The means of series and studies lie apart; frames are averaged where the frames are.
    step = found if request.level == "frame" else parts.find_similar
    if request.vector is not None:
        return step.from_vector(request.vector)
    if request.sop_instance_uid is not None:
        return step.from_instance(request.sop_instance_uid, request.frame_number)
    if request.series_instance_uid is not None:
        start = step.from_series(request.series_instance_uid)
        return found.of_mean(start, request.series_instance_uid) if request.level == "series" else start
    study = request.study_instance_uid or ""
    file = parts.catalogue.study(study)
    start = step.from_study(study, file.record.diagnoses if file else ())
    return found.of_mean(start, study) if request.level == "study" else start


def indexed_frame(parts: Parts, sop_instance_uid: str, frame_number: int) -> tuple[Frame, FramePayload]:
    """An indexed frame, decoded, and its payload. May block.

    Raises:
        NotIndexedError: it is not indexed, or its study is gone.
        ArchiveObjectCorruptError: the bytes are not those that were received.
        UndecodablePixelsError: it cannot be decoded.
    """
    points = parts.find_similar.index.retrieve(
        [point_id(parts.find_similar.backbone_id, sop_instance_uid, frame_number)]
    )
    if not points:
        raise NotIndexedError("no such frame")
    payload = points[0].payload
    trail.asked_for(payload.study_instance_uid, (payload.patient_pseudonym,))
    file = parts.catalogue.study(payload.study_instance_uid)
    entry = file.instance(sop_instance_uid) if file else None
    if entry is None:
        raise NotIndexedError("the frame's study is not archived")
    instance = entry[1]
    data = parts.archive.get(instance.archive_key)
    frames = parts.frame_reader.read(data, [frame_number], key=instance.archive_key, sha256=instance.sha256)
    return frames[0], payload


async def answer(
    parts: Parts,
    start: Start,
    options: SearchOptions,
    started: float,
    *,
    asked: bytes = b"",
    preview: str | None = None,
) -> SearchResponse:
    """The page of neighbours that the options ask for. `asked` tells uploads apart for the cursor.

    Raises:
        Problem: 422, the cursor is not of this search.
    """
    step = await parts.readers.run(lambda: step_for(parts, options))
    by_frame, seen_max = options.group_by == "frame", parts.settings.search_pages_max
    print_ = fingerprint(parts.find_similar.backbone_id, options.model_dump_json(exclude={"cursor", "limit"}), asked)
    after = decode_search(options.cursor, expected=print_, seen_max=seen_max) if options.cursor else None
    given = after.seen if after else ()
    exclude = options.exclude_own_patient
    wish = Wish(
        limit=max(1, min(options.limit, parts.settings.search_limit_max, seen_max - len(given))),
        filters=options.filters,
        by_frame=by_frame,
        exclude_own_patient=parts.settings.exclude_own_patient if exclude is None else exclude,
        seen=frozenset(given),
        score_max=after.score if after else None,
    )
    page = await parts.readers.run(lambda: step.page(start, wish, fetch_max=4 * seen_max))
    metrics.SEARCHES.labels(start.kind).inc()
    seen = given + tuple(mark_of(hit, by_frame) for hit in page.hits)
    more = page.more and len(seen) < seen_max
    votes = tally(page.hits)
    if start.of_study is not None:
        trail.asked_for(start.of_study.study_instance_uid)
    trail.given(hit.payload.study_instance_uid for hit in page.hits)
    return SearchResponse(
        query=views.query_facts(start, options, own_patient_excluded=wish.exclude_own_patient, preview=preview),
        results=views.neighbours(page.hits, start, first_rank=len(given) + 1),
        vote=views.vote(votes, calibration(parts, start, options, wish, votes)),
        next_cursor=encode_search(SearchCursor(print_, page.hits[-1].score, seen)) if more else None,
        backbone_id=parts.find_similar.backbone_id,
        took_ms=round((time.perf_counter() - started) * 1000, 1),
    )


def calibration(parts: Parts, start: Start, options: SearchOptions, wish: Wish, votes: Tally) -> VoteCalibration | None:
    """What such a vote was worth when it was measured; None unless it is of just the kind that was measured.

    That is: the ten nearest studies of a whole study, compared by frames, without its patient, all on one page and
    without a filter.
    """
    own = start.of_study
    task = own.task if options.space == VISUAL and own else options.space
    space = parts.collections.spaces.get(task)
    if space is None or space.report is None or votes.label is None or options.filters != Filters():
        return None
    whole = start.kind == "study" and options.level == "frame" and options.group_by == "study"
    asked_ten = whole and wish.limit == VOTERS and votes.voters + votes.without_label == VOTERS and not wish.seen
    figures = space.report.spaces.get(options.space)
    if not asked_ten or not wish.exclude_own_patient or figures is None or votes.label not in space.report.labels:
        return None
    found = figures.vote(votes.votes / votes.voters)
    if found is None:
        return None
    images = "phantom images (simulated)" if space.report.phantom else "test images"
    source = f"{found.studies} of {space.report.studies} studies of {task}, {images}; research use only"
    return VoteCalibration(probability=found.right, low=found.low, high=found.high, source=source)
