"""The whole of an evaluation on small images, and its parts on made-up scores."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from labelled_images import DEFINITION, FINDING, LABELS, PlainEncoder, case_of, write_class_folders

from services.training.dataset.cases import Case, DatasetError
from services.training.dataset.folder_dataset import folder_dataset
from services.training.evaluation import evaluate_task as module
from services.training.evaluation.evaluate_task import Comparison, Evaluated, EvaluateOptions, evaluate_task
from services.training.evaluation.judged import Judged
from services.training.evaluation.markdown import report_markdown
from services.training.evaluation.page import evaluation_page
from services.training.evaluation.report import EvaluationReport
from services.training.evaluation.strange_images import StrangeSet, strange_sets
from services.training.evaluation.subgroups import subgroup_figures
from services.training.features.case_features import CaseEncoder
from services.training.train_task import TrainOptions, train_task
from shared.errors import OversizedPixelsError, WeightsError
from shared.pixels import Frame, PixelLimits
from shared.vision.curves import Curves
from shared.vision.tasks import Task


class OtherEncoder(PlainEncoder):
    """Sees nothing but the mean."""

    id = "mean@0"

    def encode(self, frames, /):
        features = super().encode(frames)
        return replace(
            features, cls=features.cls * 0 + 1e-3 * np.arange(len(frames))[:, None], middle=features.middle[:, :0]
        )


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = write_class_folders(tmp_path_factory.mktemp("images"), 20)
    trained = train_task(DEFINITION, folder_dataset(folder, DEFINITION), PlainEncoder(), TrainOptions())
    return Task(trained.definition, trained.head, {})


def fresh(count: int, first: int = 5000) -> list[Case]:
    traits = ({"sex": "F", "scanner": "A"}, {"sex": "M", "scanner": "A"})
    return [case_of(first + k, subgroup=traits[k % 2]) for k in range(count)]


def noise_set(*_: object, **__: object) -> list[StrangeSet]:
    noise = np.random.default_rng(0).random((12, 48, 48)).astype(np.float32)
    return [StrangeSet("noise", tuple(Frame(pixels, 1) for pixels in noise), is_required=True)]


@pytest.fixture(scope="module")
def evaluated(task: Task) -> Evaluated:
    patch = pytest.MonkeyPatch()
    patch.setattr(module, "strange_sets", noise_set)  # the phantoms of other tasks take seconds
    options = EvaluateOptions(draws=100, strange=12, command="similis evaluate shapes")
    comparison = Comparison(fresh(36, 7000), fresh(24, 8000), {"mean only": OtherEncoder})
    try:
        return evaluate_task(
            task, {"Fresh": fresh(60), "Others": fresh(30, 9000)}, PlainEncoder(), options, comparison=comparison
        )
    finally:
        patch.undo()


def test_the_report_tells_how_good_the_head_is(evaluated: Evaluated, task: Task) -> None:
    report = evaluated.report
    first = report.sets[0]
    assert [one.title for one in report.sets] == ["Fresh", "Others"]
    assert first.metrics.n == first.metrics.patients == 60
    assert first.metrics.accuracy.value > 0.7
    assert first.metrics.auroc_macro is not None
    assert first.metrics.auroc_macro.value > 0.85
    assert first.flagged is not None
    assert first.flagged.value < 0.2
    assert first.risk[-1].risk == pytest.approx(1 - first.metrics.accuracy.value, abs=1e-3)
    assert report.head_id == task.head.id
    assert report.abstain_below == task.definition.abstain_below


def test_noise_is_told_apart(evaluated: Evaluated) -> None:
    (noise,) = evaluated.report.strange
    assert noise.auroc > 0.95
    assert noise.flagged.value > 0.9


def test_subgroups_with_a_single_value_are_left_out(evaluated: Evaluated) -> None:
    assert [(one.trait, one.value, one.n) for one in evaluated.report.subgroups] == [("sex", "F", 30), ("sex", "M", 30)]


def test_features_that_see_shapes_beat_those_that_do_not(evaluated: Evaluated) -> None:
    found = {one.features: one.accuracy.value for one in evaluated.report.compared}
    assert set(found) == {
        "the backbone", "mean only", "raw pixels, 32 x 32", "histogram, 32 bins", "HOG, 32 x 32",
    }  # fmt: skip
    assert found["the backbone"] > 0.6 > found["mean only"]
    assert evaluated.report.compared_on == (36, 24)


def test_the_same_seed_gives_the_same_files(evaluated: Evaluated, task: Task, tmp_path: Path) -> None:
    options = EvaluateOptions(draws=100, strange=0, command="similis evaluate shapes")
    first, again = (evaluate_task(task, {"Fresh": fresh(60)}, PlainEncoder(), options) for _ in range(2))
    assert first.report == again.report
    assert first.page == again.page
    assert first.report.sets[0] == evaluated.report.sets[0]
    assert first.report.strange == ()
    assert first.report.compared == ()
    evaluated.write(tmp_path, report_markdown(evaluated.report, figure="figures.png"))
    kept = EvaluationReport.model_validate_json((tmp_path / "report.json").read_text())
    assert kept == evaluated.report
    assert (tmp_path / "figures.png").read_bytes().startswith(b"\x89PNG")
    curves = Curves.load(tmp_path, head_id=task.head.id)
    assert curves is not None
    assert curves.source == "Fresh"
    assert sum(one.count for one in curves.calibration) == 60
    assert {one.label for one in curves.roc} == set(task.head.labels)
    assert len(evaluated.page) < 200_000


def test_the_markdown_has_every_part_and_no_patient(evaluated: Evaluated) -> None:
    text = report_markdown(evaluated.report, figure="figures.png")
    for words in (
        "Research use only", "Accuracy", "Calibration", "Selective risk", "Subgroups", "Out of distribution",
        "Other features", "similis evaluate shapes", "figures.png", "by chance",
    ):  # fmt: skip
        assert words in text
    assert "p5000" not in text
    assert "p5000" not in evaluated.report.model_dump_json()
    lines = text.splitlines()
    rows = [line for line in lines if line.startswith("|")]
    for before, line in pairwise(lines):  # every row of a table has its header's columns
        if before.startswith("|") and line.startswith("|"):
            assert before.count("|") == line.count("|"), line
    assert len(rows) > 20


def test_a_head_of_another_backbone_is_refused(task: Task) -> None:
    with pytest.raises(WeightsError, match="the backbone is mean@0"):
        evaluate_task(task, {"Fresh": fresh(3)}, OtherEncoder(), EvaluateOptions())


def test_images_beyond_the_limits_are_refused_wherever_they_are_read(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = PixelLimits(max_frame_pixels=48 * 48 - 1)
    with pytest.raises(DatasetError, match="exceed the limit"):
        evaluate_task(task, {"Fresh": fresh(3)}, PlainEncoder(), EvaluateOptions(), limits=small)
    with pytest.raises(OversizedPixelsError):
        module._frames_of(fresh(3), 2, small)
    comparison = Comparison(fresh(3), fresh(3), {"mean only": OtherEncoder})
    seen = []
    monkeypatch.setattr(module, "CaseEncoder", lambda *given, **named: seen.append(given[2]) or CaseEncoder(*given))
    monkeypatch.setattr(module, "_compared", lambda task, comparison, encode, own, options, reader: reader(own) and ())
    evaluate_task(
        task,
        {"Fresh": fresh(12)},
        PlainEncoder(),
        EvaluateOptions(draws=100, strange=0),
        comparison=comparison,
        limits=PixelLimits(max_frames=7),
    )
    assert seen == [PixelLimits(max_frames=7)] * 2


def made_judged(traits: tuple[dict[str, str], ...]) -> Judged:
    count = len(traits)
    rng = np.random.default_rng(0)
    return Judged(
        LABELS,
        FINDING,
        rng.dirichlet(np.ones(3), count),
        np.arange(count) % 3,
        np.arange(count).astype(str),
        rng.normal(1, 0.1, count),
        traits,
    )


def test_small_subgroups_are_not_told() -> None:
    judged = made_judged(tuple({"scanner": "ABC"[min(k // 10, 2)]} if k < 29 else {} for k in range(34)))
    found = subgroup_figures(judged, draws=100, seed=0)
    assert [(one.value, one.n) for one in found] == [("A", 10), ("B", 10)]  # C has nine patients
    fewer = np.where(np.arange(34) == 11, "10", judged.patients)  # B has ten studies of nine patients
    assert subgroup_figures(replace(judged, patients=fewer), draws=100, seed=0) == ()


def test_a_page_is_drawn_without_distances_too() -> None:
    judged = replace(made_judged(({},) * 12), distances=None)
    assert evaluation_page({"x": judged}, title="t", abstain_below=0.99, ood_limit=None).startswith(b"\x89PNG")


def test_strange_images_follow_the_seed_and_leave_the_task_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.training.evaluation.strange_images.NAMES", ("retina-fundus", "shapes"))
    own = [Frame(np.random.default_rng(k).random((40, 56)).astype(np.float32), 1) for k in range(3)]
    first, again = (strange_sets("shapes", own, count=2, seed=1) for _ in range(2))
    kinds = {one.kind: one for one in first}
    assert {"noise", "photographs", "inverted", "real CT (pydicom's test files)", "retina-fundus phantoms"} <= set(
        kinds
    )
    assert "shapes phantoms" not in kinds
    for one, other in zip(first, again, strict=True):
        assert len(one.frames) == 2
        for left, right in zip(one.frames, other.frames, strict=True):
            assert left.pixels.dtype == np.float32
            assert np.array_equal(left.pixels, right.pixels)
            assert left.pixels.min() >= 0
            assert left.pixels.max() <= 1
    assert np.array_equal(kinds["inverted"].frames[0].pixels, 1 - own[0].pixels)
    assert kinds["inverted"].is_required
    assert not kinds["upside down"].is_required
