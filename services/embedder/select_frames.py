"""Which frames are decoded: the index's choice and each task's, together; each is decoded once.

The index takes frames of every series evenly, so that any part of a study can be found. A task takes those that its
`frames` policy (else the index's) names among the ones it judges (its modality, body part, SOP classes; no
localizer), series by series.
A task that asks for no more frames, evenly, than the index has of them judges the index's: two even choices that
differ by a slice would be decoded twice for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.embedder.survey import Image, TagValue
from shared.vision.frame_policy import FramesPolicy, evenly
from shared.vision.tasks import Task

FrameKey = tuple[str, int]
"""SOP Instance UID and frame number."""


@dataclass(frozen=True, slots=True)
class ChosenImage:
    """An image and its frames to use, from 1, ascending."""

    image: Image
    frame_numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """The frames to decode, in spatial order within each series; and which of them each task judges, by its name."""

    chosen: tuple[ChosenImage, ...]
    judged: Mapping[str, frozenset[FrameKey]]


@dataclass(frozen=True, slots=True)
class _Candidate:
    image: Image
    number: int

    @property
    def key(self) -> FrameKey:
        return self.image.instance.sop_instance_uid, self.number


def select_frames(series: Sequence[Sequence[Image]], tasks: Sequence[Task], indexed: FramesPolicy) -> Selection:
    """Choose the frames of a study.

    Args:
        series: The images of each series, in spatial order.
        tasks: The tasks that judge the study.
        indexed: The index's choice in each series.
    """
    wanted: set[FrameKey] = set()
    of_task: dict[str, list[FrameKey]] = {task.name: [] for task in tasks}
    every = [[_Candidate(image, n) for image in images for n in _numbers(image)] for images in series]
    for candidates in every:
        for_index = {candidates[at].key for at in _choose(indexed, candidates)}
        wanted |= for_index
        for task in tasks:
            of_task[task.name] += _judged(task, candidates, for_index, indexed)
    judged = {task.name: frozenset(_thinned(of_task[task.name], task.definition.max_frames)) for task in tasks}
    wanted = wanted.union(*judged.values())
    chosen = (
        ChosenImage(image, tuple(n for n in _numbers(image) if (image.instance.sop_instance_uid, n) in wanted))
        for images in series
        for image in images
    )
    return Selection(tuple(choice for choice in chosen if choice.frame_numbers), judged)


def tags_of(tasks: Sequence[Task]) -> frozenset[TagValue]:
    """The tag values that the tasks select by."""
    policies = (policy for task in tasks if (policy := task.definition.frames) is not None)
    return frozenset((policy.tag, policy.value) for policy in policies if policy.tag and policy.value)


def _judged(
    task: Task, candidates: Sequence[_Candidate], for_index: set[FrameKey], indexed: FramesPolicy
) -> list[FrameKey]:
    excluded = set(task.definition.excluded_image_types)
    taken = [
        candidate
        for candidate in candidates
        if task.takes(candidate.image.series, candidate.image.instance)
        and not excluded & set(candidate.image.header.image_type)
    ]
    policy = task.definition.frames or indexed
    at_hand = [candidate for candidate in taken if candidate.key in for_index]
    if policy.policy == "evenly" and len(at_hand) >= min(len(taken), policy.most or 0):
        taken = at_hand
    return [taken[at].key for at in _choose(policy, taken)]


def _choose(policy: FramesPolicy, candidates: Sequence[_Candidate]) -> list[int]:
    if policy.tag is None or policy.value is None:
        return policy.choose([True] * len(candidates))
    tag = policy.tag, policy.value
    return policy.choose([candidate.image.matches[tag][candidate.number - 1] for candidate in candidates])


def _thinned(keys: Sequence[FrameKey], most: int | None) -> list[FrameKey]:
    return list(keys) if most is None else [keys[at] for at in evenly(len(keys), most)]


def _numbers(image: Image) -> range:
    return range(1, image.header.number_of_frames + 1)
