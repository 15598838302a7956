"""Labels that people give to studies, for training. Research use only."""

from __future__ import annotations

import itertools
import logging
import re
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Response
from pydantic import PositiveInt

from services.query import cursors, metrics
from services.query.audit import trail
from services.query.label_schema import LabelRequest, StudyLabel, StudyLabels, TaskLabels
from services.query.parameters import StudyUid, Task
from services.query.parts import Parts, Ready
from services.query.principal import Principal
from services.query.problems import READ_ONLY, Problem, described
from shared.ids import UID_PATTERN, Uid
from shared.labels import LabelRecord, LabelTarget, checked_target, place_of
from shared.vision.tasks import TaskDefinition

Responses = dict[int | str, dict[str, Any]]

log = logging.getLogger(__name__)
router = APIRouter(tags=["labels"])

PUT_ANSWERS: Final[Responses] = {
    **READ_ONLY,
    409: described("The study mixes patients, or has all the labels that it may have."),
    200: {"description": "The label that counts: changed, or as it was if the same was said again."},
    201: {"description": "There was no label before.", "model": StudyLabel},
}
_PLACE: Final = re.compile(rf"{UID_PATTERN.strip('^$')}/[a-z0-9-]{{1,64}}/[a-z0-9.-]{{1,100}}/")


@router.put("/v1/studies/{study_instance_uid}/labels/{task}", summary="Give a study a label", responses=PUT_ANSWERS)
async def put_label(
    study_instance_uid: StudyUid, task: Task, request: LabelRequest, parts: Ready, who: Principal, response: Response
) -> StudyLabel:
    """Say what a study, or a series, object or frame of it, shows. The narrower label counts where both are given.

    Durable once it is answered. Nothing is written over: a new label supersedes the one before, which stays in the
    history. Saying the same again changes nothing.
    """
    parts.check_writable()
    definition = _definition(parts, task)
    manifest = (await parts.study(study_instance_uid)).manifest
    target = checked_target(definition, manifest, request.target, request.label)
    record, is_first = await parts.readers.run(
        lambda: parts.labels.give(
            study_instance_uid,
            task,
            target,
            request.label,
            study_revision=manifest.revision,
            by=who,
            comment=request.comment,
        )
    )
    _note(record, "given")
    response.status_code = 201 if is_first else 200
    return _label(record)


@router.delete("/v1/studies/{study_instance_uid}/labels/{task}", summary="Withdraw a label", responses=READ_ONLY)
async def delete_label(
    study_instance_uid: StudyUid,
    task: Task,
    parts: Ready,
    who: Principal,
    *,
    series_instance_uid: Annotated[Uid | None, Query(description="The label of this series.")] = None,
    sop_instance_uid: Annotated[Uid | None, Query(description="The label of this object.")] = None,
    frame_number: Annotated[PositiveInt | None, Query(description="With sop_instance_uid: of this frame.")] = None,
) -> StudyLabel:
    """Without parameters the study's own label, else the narrower one. What was said stays in the history.

    Withdrawing again changes nothing. A label may also be withdrawn when its study is no longer archived, or its task
    no longer installed.
    """
    parts.check_writable()
    if frame_number is not None and sop_instance_uid is None:
        raise Problem(422, "invalid-request", "frame_number goes with sop_instance_uid.")
    target = LabelTarget(
        series_instance_uid=series_instance_uid, sop_instance_uid=sop_instance_uid, frame_number=frame_number
    )
    record = await parts.readers.run(lambda: parts.labels.withdraw(study_instance_uid, task, target, by=who))
    if record is None:
        raise Problem(404, "unknown-label", "No such label was given to this.")
    _note(record, "withdrawn")
    return _label(record)


@router.get("/v1/studies/{study_instance_uid}/labels", summary="The labels of a study")
async def get_study_labels(
    study_instance_uid: StudyUid,
    parts: Ready,
    *,
    history: Annotated[bool, Query(description="Also every record that was ever written.")] = False,
) -> StudyLabels:
    """Of all tasks, read from the archive at this moment."""
    await parts.study(study_instance_uid)
    standing = await parts.readers.run(lambda: parts.labels.of_study(study_instance_uid))
    every = await parts.readers.run(lambda: parts.labels.history(study_instance_uid)) if history else None
    return StudyLabels(
        study_instance_uid=study_instance_uid,
        labels=tuple(_label(record) for record in standing),
        history=None if every is None else tuple(_label(record) for record in every),
    )


@router.get("/v1/labels/{task}", summary="All labels for a task")
async def list_task_labels(
    task: Task,
    parts: Ready,
    *,
    limit: Annotated[PositiveInt, Query(description="Most labels; the service caps it.")] = 50,
    cursor: Annotated[str | None, Query(max_length=512, description="`next_cursor` of the page before.")] = None,
) -> TaskLabels:
    """What `similis train TASK --archive` reads. The order is steady, so a page neither repeats nor skips a label."""
    definition = _definition(parts, task)
    after = _decode_cursor(cursor, task) if cursor else None
    most = min(limit, parts.settings.page_size_max)
    found = await parts.readers.run(lambda: list(itertools.islice(parts.labels.of_task(task, after=after), most + 1)))
    page = found[:most]
    trail.given(record.study_instance_uid for record in page)
    return TaskLabels(
        task=task,
        classes=tuple(entry.label for entry in definition.classes),
        labels=tuple(_label(record) for record in page),
        next_cursor=_encode_cursor(page[-1]) if len(found) > most else None,
    )


def _definition(parts: Parts, task: str) -> TaskDefinition:
    definition = parts.definitions.get(task)
    if definition is None:
        raise Problem(404, "unknown-task", "No task of this name can be labelled here.")
    return definition


def _note(record: LabelRecord, action: str) -> None:
    metrics.LABELS.labels(action).inc()
    # Never the comment: it is somebody's free text.
    log.info("label %s %s: %s of %s", record.label_id, action, record.task, record.study_instance_uid)


def _label(record: LabelRecord) -> StudyLabel:
    values = record.model_dump(exclude={"record_type", "target"})
    return StudyLabel.model_validate({**values, **record.target.model_dump()})


def _encode_cursor(record: LabelRecord) -> str:
    return cursors.encode(place_of(record).encode("ascii"))


def _decode_cursor(cursor: str, task: str) -> str:
    place = cursors.decode(cursor).decode("ascii", errors="replace")
    if _PLACE.fullmatch(place) is None or place.split("/")[1] != task:
        raise cursors.invalid_cursor()
    return place
