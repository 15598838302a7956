"""Every topic, declared in one place: its event, partitions and retention.

    similis.study.received.v1            StudyReceived      listener  -> embedder
    similis.diagnosis.<task>.v1          StudyDiagnosed     embedder  -> explainer, subscribers
    similis.diagnosis.none.v1            StudyDiagnosed     the studies that no task takes
    similis.explanation.requested.v1     ExplanationRequested   query -> explainer
    similis.study.explained.v1           StudyExplained     explainer -> subscribers
    <topic>.retry, <topic>.dlq           beside each of them

Automatic creation is off everywhere: a topic that is not declared here does not exist.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shared.events import NO_TASK, Event, ExplanationRequested, StudyDiagnosed, StudyExplained, StudyReceived

DAY_MS: Final = 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it is to be created. `retention_ms` -1 keeps records for ever."""

    name: str
    event: type[Event]
    partitions: int = 4
    retention_ms: int = 30 * DAY_MS

    @property
    def retry(self) -> str:
        """Where records wait for another try."""
        return f"{self.name}.retry"

    @property
    def dlq(self) -> str:
        """Where records end that can't be processed: the dead-letter queue."""
        return f"{self.name}.dlq"


STUDY_RECEIVED: Final = Topic("similis.study.received.v1", StudyReceived)
EXPLANATION_REQUESTED: Final = Topic("similis.explanation.requested.v1", ExplanationRequested)
STUDY_EXPLAINED: Final = Topic("similis.study.explained.v1", StudyExplained)


def diagnosis(task: str) -> Topic:
    """The diagnosis topic of `task`."""
    return Topic(f"similis.diagnosis.{task}.v1", StudyDiagnosed)


def declared(tasks: Iterable[str]) -> tuple[Topic, ...]:
    """All topics, given the names of the installed tasks."""
    return (
        STUDY_RECEIVED,
        *(diagnosis(task) for task in (*sorted(tasks), NO_TASK)),
        EXPLANATION_REQUESTED,
        STUDY_EXPLAINED,
    )
