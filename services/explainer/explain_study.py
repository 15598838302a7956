"""The step: a diagnosis becomes saliency maps in the archive and the event that tells of them.

diagnosis, or request ─▶ which frames ─▶ explain (shared queue) ─▶ measure ─▶ files ─▶ deliveries ─▶ event
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from services.explainer import metrics
from services.explainer.make_maps import MakeMaps, MapOrder
from services.explainer.ports import Outbox
from shared import events
from shared.archive import Archive, diagnosis_key, explanation_key, explanation_request_key
from shared.errors import (
    ArchiveObjectCorruptError,
    ArchiveObjectMissingError,
    MalformedEventError,
    ModelMismatchError,
    NotExplainableError,
    PermanentError,
    TransientError,
)
from shared.events import Decision, EvidenceFrame, ExplanationRequested, StudyDiagnosed, StudyExplained
from shared.explanation_failure import ExplanationFailure
from shared.vision.tasks import ExplainPolicy, Task

log = logging.getLogger(__name__)

SUMMARY: Final = "explained.json"


@dataclass(frozen=True, slots=True)
class ExplainStudy:
    """Explains frames of a diagnosis: the evidence, as its task's policy says, or what somebody asked for.

    Files first, then the summary, then the event: a crash between them repeats the work or the
    event, and leaves the same result.
    """

    archive: Archive
    tasks: Mapping[str, Task]
    make: MakeMaps
    outbox: Outbox

    def __call__(self, diagnosed: StudyDiagnosed) -> StudyExplained | None:
        """The event to publish, or None if the policy asks for no map. Takes seconds to minutes.

        Raises:
            ModelMismatchError: another backbone or head than the ones loaded here made the diagnosis.
            ArchiveObjectMissingError: an evidence frame's object is not in the archive.
            UndecodablePixelsError: no evidence frame can be decoded.
            NotExplainableError: no map can be made of any frame.
            ArchiveUnavailableError: the archive does not answer.
        """
        task = self._task_of(diagnosed, diagnosed.label)
        frames = wanted_frames(diagnosed, task.definition.explain)
        if diagnosed.label is None or not frames:
            metrics.STUDIES.labels(task.name, "skipped").inc()
            return None
        key = explanation_key(diagnosed.study_instance_uid, diagnosed.revision, diagnosed.task, SUMMARY)
        return self._fulfil(MapOrder(diagnosed, task, diagnosed.label, frames, key))

    def requested(self, asked: ExplanationRequested) -> StudyExplained:
        """The event to publish of what somebody asked for. Takes seconds to minutes.

        Raises:
            MalformedEventError: its id is not that of what it asks.
            PermanentError: as above, or another diagnosis has taken the place of the one that was meant. The archive
                then tells the one who asked, if it holds the question.
            TransientError: as above.
        """
        try:
            return self._fulfil(self._order_of(asked))
        except (TransientError, MalformedEventError):
            raise  # tried again; or a stranger's, of which nothing is told under somebody's request
        except Exception as error:
            self._tell(asked, error)
            raise

    def _tell(self, asked: ExplanationRequested, error: Exception) -> None:
        """Note why nothing came of a request, if it is one that the archive knows."""
        place = (asked.study_instance_uid, asked.revision, asked.task, asked.event_id)
        if self.archive.exists(explanation_request_key(*place, "asked")):
            failure = ExplanationFailure(request_id=asked.event_id, asked_at=asked.occurred_at, reason=_why(error))
            key = explanation_request_key(*place, "failed")
            self.archive.put(key, failure.model_dump_json(indent=2).encode())

    def _order_of(self, asked: ExplanationRequested) -> MapOrder:
        key = diagnosis_key(asked.study_instance_uid, asked.revision, asked.task)
        try:
            diagnosed = StudyDiagnosed.model_validate_json(self.archive.get(key))
        except ValidationError as error:
            raise ArchiveObjectCorruptError(f"{key} is not a diagnosis: {error.error_count()} errors") from error
        if diagnosed.event_id != asked.diagnosis_event_id:
            raise ModelMismatchError("another diagnosis has taken the place of the one that was to be explained")
        # Whoever may write to the topic must not put another answer under somebody's request.
        if asked.event_id != ExplanationRequested.identify(diagnosed, asked.label, asked.frames):
            raise MalformedEventError("the request's id is not that of what it asks")
        label = asked.label or diagnosed.label
        if label is None:
            raise NotExplainableError("the diagnosis names no class, and no other was asked for")
        task = self._task_of(diagnosed, label)
        frames = tuple(dict.fromkeys(asked.frames)) or diagnosed.evidence[: task.definition.explain.max_frames]
        if not frames:
            raise NotExplainableError("the diagnosis names no evidence frame, and no other was asked for")
        summary_key = explanation_request_key(
            asked.study_instance_uid, asked.revision, asked.task, asked.event_id, "explained"
        )
        return MapOrder(diagnosed, task, label, frames, summary_key, asked.event_id)

    def _task_of(self, diagnosed: StudyDiagnosed, label: str | None) -> Task:
        """The loaded task, if it made this diagnosis: a map must explain the decision that was taken."""
        task = self.tasks.get(diagnosed.task)
        if task is None:
            raise ModelMismatchError(f"the task {diagnosed.task} is not loaded with the backbone {self._backbone_id}")
        if (diagnosed.backbone_id, diagnosed.head_id) != (self._backbone_id, task.head.id):
            raise ModelMismatchError(
                f"the diagnosis was made by backbone {diagnosed.backbone_id} and head {diagnosed.head_id}; "
                f"loaded are backbone {self._backbone_id} and head {task.head.id}"
            )
        if label is not None and label not in task.head.labels:
            raise ModelMismatchError(f"the head {task.head.id} has no class {label!r}")
        return task

    def _fulfil(self, order: MapOrder) -> StudyExplained:
        event_id = StudyExplained.identify(order.diagnosed, self.make.variant(order.task), order.request_id)
        if (earlier := self._earlier(order.summary_key)) is not None and earlier.event_id == event_id:
            metrics.STUDIES.labels(order.task.name, "repeated").inc()
            return earlier
        started = time.perf_counter()
        made = self.make(order)
        explained = StudyExplained(
            event_id=event_id,
            occurred_at=events.now(),
            study_instance_uid=order.diagnosed.study_instance_uid,
            revision=order.diagnosed.revision,
            task=order.task.name,
            label=order.label,
            maps=made.maps,
            backbone_id=self._backbone_id,
            head_id=order.task.head.id,
            duration_s=time.perf_counter() - started,
            request_id=order.request_id,
            frames_failed=made.failed,
            objects=made.objects,
        )
        self.outbox.add(explained)
        self.archive.put(order.summary_key, explained.model_dump_json(indent=2).encode())
        metrics.STUDIES.labels(order.task.name, "explained").inc()
        return explained

    def _earlier(self, summary_key: str) -> StudyExplained | None:
        """What an earlier delivery stored, if all of it is there."""
        if not self.archive.exists(summary_key):
            return None
        try:
            earlier = StudyExplained.model_validate_json(self.archive.get(summary_key))
        except ValidationError as error:
            log.warning("%s is not readable and is made anew: %s", summary_key, error)
            return None
        objects = (*earlier.objects, *(found for made in earlier.maps for found in made.objects))
        keys = [key for made in earlier.maps for key in (made.map_key, made.overlay_key, made.record_key)]
        keys += [found.key for found in objects]
        return earlier if all(map(self.archive.exists, keys)) else None

    @property
    def _backbone_id(self) -> str:
        return self.make.explainer.backbone_id


def _why(error: Exception) -> str:
    """For the one who asked: no archive key, no text of a library."""
    if isinstance(error, ArchiveObjectMissingError):
        return "something that is needed is not in the archive"
    if isinstance(error, ArchiveObjectCorruptError):
        return "something that is needed is not as it was archived"
    return str(error) if isinstance(error, PermanentError) else "an error of the explainer; its log has it"


def wanted_frames(diagnosed: StudyDiagnosed, policy: ExplainPolicy) -> Sequence[EvidenceFrame]:
    """The evidence frames that the task's policy wants explained, the strongest first."""
    wanted = policy.policy == "all" or (policy.policy == "findings" and diagnosed.decision is Decision.FINDING)
    return diagnosed.evidence[: policy.max_frames] if wanted else ()
