"""One lesion frame among healthy ones: the rule names it, a plain mean does not, and the shares are counted right."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bench.one_lesion_frame import FrameLogits, frame_logits, measure
from services.training.dataset.cases import Case, CaseImages
from services.training.features.case_features import CaseFeatures
from shared.vision.tasks import BUILT_IN, Task, load_task


@pytest.fixture(scope="module")
def task() -> Task:
    task = load_task(BUILT_IN / "brain-mr")
    return replace(task, head=replace(task.head, temperature=1.0))


def logits(margin: float, at: int, count: int) -> np.ndarray:
    """(count, 4): class `at` above the others by about `margin`."""
    rows = np.zeros((count, 4))
    rows[:, at] = margin
    return rows


def test_a_clear_frame_is_named_and_a_mean_loses_it(task: Task) -> None:
    frames = FrameLogits(logits(6.0, 0, 50), logits(9.0, 2, 10), np.full(10, 2))
    result = measure(task, frames, studies=40, seed=0)
    assert [size["healthy_frames"] for size in result["sizes"]] == [8, 64, 200]
    for size in result["sizes"]:
        assert size["clear_named"] == size["any_named"] == 1.0
        assert size["clear_named_by_plain_mean"] == size["healthy_called_ill"] == 0.0
    assert result["frames"] == {"healthy": 50, "lesion": 10, "clear": 10}
    assert result["clear_share_of_lesion_frames"] == {"meningioma-like": 1.0}
    assert result["head"] == task.head.id


def test_frames_that_are_not_clear_are_counted_apart(task: Task) -> None:
    lesion = np.concatenate([logits(9.0, 2, 5), logits(5.0, 0, 5)])
    result = measure(
        task, FrameLogits(logits(6.0, 0, 50), lesion, np.array([2] * 5 + [3] * 5)), studies=200, seed=0
    )  # fmt: skip
    assert result["clear_share_of_lesion_frames"] == {"meningioma-like": 1.0, "metastasis-like": 0.0}
    for size in result["sizes"]:
        assert size["clear_named"] == 1.0
        assert 0.35 < size["any_named"] < 0.65


def test_healthy_frames_that_look_ill_are_told(task: Task) -> None:
    frames = FrameLogits(logits(7.0, 3, 5), logits(9.0, 2, 5), np.full(5, 2))
    assert all(size["healthy_called_ill"] == 1.0 for size in measure(task, frames, studies=20, seed=0)["sizes"])


def test_without_a_clear_frame_there_is_nothing_to_say(task: Task) -> None:
    with pytest.raises(ValueError, match="0 clear frames"):
        measure(task, FrameLogits(logits(6.0, 0, 5), logits(1.0, 2, 5), np.full(5, 2)), studies=5, seed=0)


def test_healthy_frames_are_those_of_healthy_studies() -> None:
    labels = ("normal", "spot")
    head = SimpleNamespace(labels=labels, logits=lambda joined: joined)
    task = SimpleNamespace(head=head, finding=np.array([False, True]))

    def case(label: str, shown: tuple[str, ...], value: float) -> CaseFeatures:
        rows = np.full((len(shown), 2), value, np.float32)
        one = Case(label, label, label, lambda: CaseImages((), ()))
        empty = np.zeros((len(shown), 32, 32, 3), np.float32)
        names = ("",) * len(shown)
        return CaseFeatures(one, rows, rows, empty, shown, names, names, names, {})

    ill = case("spot", ("normal", "spot", "normal"), 7.0)
    frames = frame_logits(task, [case("normal", ("normal",) * 2, 1.0), ill])  # type: ignore[arg-type]
    assert frames.healthy.tolist() == [[1.0, 1.0]] * 2
    assert frames.lesion.tolist() == [[7.0, 7.0]]
    assert frames.classes.tolist() == [1]
