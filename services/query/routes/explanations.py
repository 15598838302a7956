"""Explanations on demand: maps that the task's policy does not make by itself. Research use only."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Response

from services.query import views
from services.query.catalogue import StudyFile
from services.query.explanation_schema import Explanation, ExplanationRequest
from services.query.explanations import Answer, TooManyRequestsError
from services.query.parameters import RequestId, StudyUid
from services.query.parts import Parts, Ready
from services.query.problems import READ_ONLY, Problem, described
from shared.events import FrameReference, StudyDiagnosed
from shared.manifest import InstanceEntry, SeriesEntry
from shared.own_results import is_own_result, may_be_own_result

Responses = dict[int | str, dict[str, Any]]

router = APIRouter(tags=["explanations"])

ASKED: Final[Responses] = {
    **READ_ONLY,
    200: {"description": "The maps are there already.", "model": Explanation},
    202: {"description": "The explainer was asked; see `url`.", "model": Explanation},
    409: described(
        "No task of this name has judged the study, the diagnosis has no class and none was named, the study mixes "
        "patients, or it has as many requests as it may have."
    ),
}


@router.post("/v1/explanations", summary="Ask for saliency maps", status_code=202, responses=ASKED)
async def ask_for_maps(request: ExplanationRequest, parts: Ready, response: Response) -> Explanation:
    """Maps of a diagnosis by a task, for any of its classes, on any frames of the study.

    Asking again for the same gives the same request: nothing is made twice. A map takes seconds to minutes and
    waits for its turn. One that failed is tried again when it is asked for again.
    """
    parts.check_writable()
    file = await parts.study(request.study_instance_uid)
    diagnosed = next((found for found in file.record.diagnoses if found.task == request.task), None)
    if diagnosed is None:
        raise Problem(409, "not-diagnosed", "No task of this name has judged the study.")
    if file.manifest.mixed_patients:
        raise Problem(409, "mixed-patients", "The study's objects name different patients.")
    label = _label(parts, diagnosed, request.label)
    frames = await parts.readers.run(lambda: _frames(parts, file, request))
    try:
        known = await parts.readers.run(lambda: parts.explanations.keep(diagnosed, label, frames))
    except TooManyRequestsError as error:
        raise Problem(409, "too-many-requests", "The study has as many requests for maps as it may have.") from error
    if known.state == "explained":
        response.status_code = 200
    else:
        await parts.explanations.publish(known.asked)
    return _view(known)


@router.get(
    "/v1/studies/{study_instance_uid}/explanation-requests/{request_id}", summary="What came of a request for maps"
)
async def get_explanation_request(study_instance_uid: StudyUid, request_id: RequestId, parts: Ready) -> Explanation:
    """Read from the archive at this moment."""
    file = await parts.study(study_instance_uid)
    known = await parts.readers.run(lambda: parts.explanations.answer(file, request_id))
    if known is None:
        raise Problem(404, "unknown-request", "Nobody asked for this of the study's present diagnoses.")
    return _view(known)


def _label(parts: Parts, diagnosed: StudyDiagnosed, asked: str | None) -> str:
    label = asked or diagnosed.label
    if label is None:
        raise Problem(409, "no-class", "The diagnosis names no class: say which one to explain.")
    task = next((task for task in parts.tasks if task.name == diagnosed.task), None)
    if task is None or label not in task.labels:
        raise Problem(422, "unknown-class", "The task has no class of this name.")
    return label


def _frames(parts: Parts, file: StudyFile, request: ExplanationRequest) -> tuple[FrameReference, ...]:
    most = parts.settings.explanation_frames_max
    if len(request.frames) > most:
        raise Problem(422, "too-many-frames", f"At most {most} frames can be explained in one request.")
    frames = []
    for choice in request.frames:
        found = file.instance(choice.sop_instance_uid)
        if found is None or choice.frame_number > found[1].number_of_frames:
            raise Problem(422, "unknown-frame", "The study has no such frame.")
        if not _is_judged(parts, request.task, *found):
            raise Problem(422, "not-taken", "The task judges no image like this.")
        frames.append(
            FrameReference(
                series_instance_uid=found[0].series_instance_uid,
                sop_instance_uid=choice.sop_instance_uid,
                frame_number=choice.frame_number,
            )
        )
    return tuple(dict.fromkeys(frames))


def _is_judged(parts: Parts, task: str, series: SeriesEntry, instance: InstanceEntry) -> bool:
    """Whether the task may be asked about an object: not about a scout, nor about a map that came back from a PACS."""
    definition = parts.definitions.get(task)
    if definition is not None and not definition.takes(series, instance):
        return False
    return not (may_be_own_result(instance.sop_class_uid) and is_own_result(parts.archive.get(instance.archive_key)))


def _view(known: Answer) -> Explanation:
    asked = known.asked
    maps = () if known.explained is None else known.explained.maps
    return Explanation(
        request_id=asked.event_id,
        study_instance_uid=asked.study_instance_uid,
        revision=asked.revision,
        task=asked.task,
        label=asked.label or "",
        state=known.state,
        reason=known.reason,
        maps=tuple(views.saliency_map(known.explained, made) for made in maps if known.explained is not None),
        url=f"/v1/studies/{asked.study_instance_uid}/explanation-requests/{asked.event_id}",
    )
