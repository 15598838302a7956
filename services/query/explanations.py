"""Explanations on demand: a request goes into the archive, then to the explainer; its answer is found in the archive.

waiting    asked, and no answer yet: maps take seconds to minutes, and wait for their turn
explained  the maps are there
failed     no map can be made, and why; the request's event is on the dead-letter topic
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal, Protocol
from uuid import UUID

from pydantic import ValidationError

from services.query.catalogue import StudyFile
from shared import events
from shared.archive import Archive, explanation_request_key
from shared.errors import ArchiveObjectMissingError, BrokerUnavailableError, SimilisError
from shared.events import Event, ExplanationRequested, FrameReference, StudyDiagnosed, StudyExplained
from shared.explanation_failure import ExplanationFailure
from shared.topics import EXPLANATION_REQUESTED

log = logging.getLogger(__name__)


class TooManyRequestsError(SimilisError):
    """A study has as many requests for maps as it may have."""


class Publisher(Protocol):
    """Where events go out."""

    async def publish(self, topic: str, event: Event) -> None:
        """Return once `event` is acknowledged; raise BrokerUnavailableError otherwise."""


class NoPublisher:
    """There is no broker."""

    async def publish(self, topic: str, event: Event) -> None:
        """Always fail."""
        raise BrokerUnavailableError(f"no broker is set, so no {event.event_type} goes out on {topic}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of a request."""

    asked: ExplanationRequested
    state: Literal["waiting", "explained", "failed"]
    explained: StudyExplained | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Explanations:
    """Requests for maps. Methods that are not coroutines may block; call them from a thread."""

    archive: Archive
    publisher: Publisher
    requests_max: int

    @property
    def offered(self) -> bool:
        """Whether requests can reach an explainer at all: a broker is set."""
        return not isinstance(self.publisher, NoPublisher)

    async def publish(self, asked: ExplanationRequested) -> None:
        """Send a request that `keep` keeps to the explainer; a repeat makes no second map.

        Raises:
            BrokerUnavailableError: it was not acknowledged; ask again.
        """
        await self.publisher.publish(EXPLANATION_REQUESTED.name, asked)

    def keep(self, diagnosed: StudyDiagnosed, label: str, frames: tuple[FrameReference, ...]) -> Answer:
        """Note a request durably, and tell what is known of it already. Asked again after a failure, it is new.

        Raises:
            TooManyRequestsError: the study has as many as it may have.
            ArchiveUnavailableError: the archive does not answer.
        """
        asked = ExplanationRequested(
            event_id=ExplanationRequested.identify(diagnosed, label, frames),
            occurred_at=events.now(),
            study_instance_uid=diagnosed.study_instance_uid,
            revision=diagnosed.revision,
            task=diagnosed.task,
            diagnosis_event_id=diagnosed.event_id,
            label=label,
            frames=frames,
        )
        key = _key(asked, "asked")
        earlier = self._asked(key)
        if earlier is not None and (known := self._answer(earlier)).state != "failed":
            return known
        if earlier is None and self._count(diagnosed.study_instance_uid) >= self.requests_max:
            raise TooManyRequestsError(f"at most {self.requests_max} requests are taken for one study")
        self.archive.put(key, asked.model_dump_json(indent=2).encode())
        return self._answer(asked)

    def answer(self, file: StudyFile, request_id: UUID) -> Answer | None:
        """What came of a request for maps of a study's present diagnoses; None if nobody asked.

        Raises:
            ArchiveUnavailableError: the archive does not answer.
        """
        for diagnosed in file.record.diagnoses:
            key = explanation_request_key(
                diagnosed.study_instance_uid, diagnosed.revision, diagnosed.task, request_id, "asked"
            )
            if (asked := self._asked(key)) is not None:
                return self._answer(asked)
        return None

    def _asked(self, key: str) -> ExplanationRequested | None:
        try:
            return ExplanationRequested.model_validate_json(self.archive.get(key))
        except (ArchiveObjectMissingError, ValidationError):
            return None

    def _count(self, study: str) -> int:
        return sum(key.endswith(".asked.json") for key in self.archive.list(f"explanations/{study}"))

    def _answer(self, asked: ExplanationRequested) -> Answer:
        try:
            found = StudyExplained.model_validate_json(self.archive.get(_key(asked, "explained")))
            if found.label == asked.label:
                return Answer(asked, "explained", explained=found)
        except (ArchiveObjectMissingError, ValidationError):
            pass  # not yet
        try:
            failed = ExplanationFailure.model_validate_json(self.archive.get(_key(asked, "failed")))
        except (ArchiveObjectMissingError, ValidationError):
            return Answer(asked, "waiting")
        if failed.asked_at != asked.occurred_at:
            return Answer(asked, "waiting")  # that was another asking
        return Answer(asked, "failed", reason=failed.reason)


def _key(asked: ExplanationRequested, state: Literal["asked", "explained", "failed"]) -> str:
    return explanation_request_key(asked.study_instance_uid, asked.revision, asked.task, asked.event_id, state)
