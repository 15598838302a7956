"""Each source left out once: judged by heads that have not seen it, and only by those."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from labelled_images import DEFINITION, LABELS, PlainEncoder, made_up
from rich.console import Console

from services.training.dataset.cases import DatasetError
from services.training.dataset.phantom_dataset import phantom_dataset
from services.training.evaluation.leave_one_source_out import _command, _parser, main, measure_left_out
from services.training.evaluation.left_out_sources import LeftOutReport, leave_one_source_out, left_out_table
from services.training.features.case_features import CaseEncoder, CaseFeatures
from services.training.phantoms import recipe
from services.training.train_options import TrainOptions
from shared.errors import ConfigurationError
from shared.pixels import Frame

OPTIONS = TrainOptions(grouped_by="source")


def on(source: str, first: int, *, signal: float = 4.0) -> list[CaseFeatures]:
    """24 cases on a source; a negative signal shows the classes the other way round."""
    cases = (made_up(seed, signal=signal) for seed in range(first, first + 24))
    return [replace(case, case=replace(case.case, source=source)) for case in cases]


def measured(cases: list[CaseFeatures], **values: object) -> LeftOutReport:
    return leave_one_source_out(cases, DEFINITION, "plain@0", OPTIONS, draws=50, **values)


@pytest.fixture(scope="module")
def cases() -> list[CaseFeatures]:
    return [*on("one", 0), *on("two", 100), *on("odd", 200, signal=-4.0)]


@pytest.fixture(scope="module")
def report(cases: list[CaseFeatures]) -> LeftOutReport:
    return measured(cases)


def test_a_source_is_judged_by_a_head_of_the_others(report: LeftOutReport) -> None:
    assert [fold.sources for fold in report.folds] == [("one",), ("two",), ("odd",)]
    assert [set(fold.trained_on) for fold in report.folds] == [{"two", "odd"}, {"one", "odd"}, {"one", "two"}]
    # What shows a class on "odd" speaks against it elsewhere: whoever had trained on it would have learnt that.
    odd = report.folds[2].metrics
    assert odd.recall["spot"] is not None
    assert odd.recall["bar"] is not None
    assert max(odd.recall["spot"], odd.recall["bar"]) < 0.3
    plain = measured([*on("one", 0), *on("two", 100), *on("three", 200)])
    assert min(fold.metrics.accuracy.value for fold in plain.folds) > 0.85


def test_every_case_counts_once_in_the_pooled_figures(report: LeftOutReport) -> None:
    assert [fold.metrics.n for fold in report.folds] == [24, 24, 24]
    assert report.pooled.n == report.pooled.patients == 72
    confusions = np.sum([fold.metrics.confusion for fold in report.folds], axis=0)
    assert np.array_equal(confusions, report.pooled.confusion)
    assert report.pooled.ece_if_calibrated is not None
    assert all(fold.training + fold.calibration == 48 for fold in report.folds)
    assert all(fold.calibration == 9 for fold in report.folds)  # a fifth of the 16 patients of each class


def test_what_other_calibrations_would_have_given_stands_beside(report: LeftOutReport) -> None:
    by_recipe, left_out, apart = report.calibrations
    assert by_recipe.cases == "left-out training cases and the calibration split"
    assert by_recipe.ece == pytest.approx(report.pooled.ece, abs=1e-4)
    assert report.pooled.nll is not None
    assert by_recipe.nll == pytest.approx(report.pooled.nll.value, abs=1e-4)
    assert [one.cases for one in (left_out, apart)] == ["left-out training cases", "the calibration split"]
    assert len({one.nll for one in report.calibrations}) == 3
    for one in report.calibrations:
        assert abs(one.too_sure) <= one.ece + 1e-4  # the gaps of ten bins, each taken as positive, hold the whole one


def test_sources_of_one_person_are_left_out_together(cases: list[CaseFeatures]) -> None:
    with_two = [*cases, *on("one, other side", 300)]
    folds = measured(with_two, together=[("one", "one, other side")]).folds
    assert [fold.sources for fold in folds] == [("one", "one, other side"), ("two",), ("odd",)]
    assert folds[0].metrics.n == 48
    assert set(folds[0].trained_on) == {"two", "odd"}
    with pytest.raises(DatasetError, match="no source three"):
        measured(cases, together=[("one", "three")])


def test_the_table_has_a_row_for_each_fold_and_one_for_all(report: LeftOutReport) -> None:
    lines = left_out_table(report)
    assert len(lines) == 2 + 3 + 1
    assert lines[0].endswith("recall, normal | recall, spot | recall, bar |")
    assert lines[2].startswith("| one | two, odd | 24 | ")
    assert f"| 72 | {report.pooled.accuracy} |" in lines[-1]


def test_what_cannot_be_left_out_is_refused(cases: list[CaseFeatures]) -> None:
    with pytest.raises(DatasetError, match="only source"):
        measured(cases[:24])
    with pytest.raises(DatasetError, match="has no source"):
        measured([*cases, made_up(999)])


def test_a_patient_on_two_sources_is_a_leak(cases: list[CaseFeatures]) -> None:
    twin = replace(cases[0], case=replace(cases[0].case, study="again", source="two"))
    with pytest.raises(DatasetError, match="same patient"):
        measured([*cases, twin])


class Glance(PlainEncoder):
    """Looks at every eighth row and column, to be quick."""

    def _row(self, frame: Frame) -> np.ndarray:
        return super()._row(Frame(np.ascontiguousarray(frame.pixels[::8, ::8]), frame.number))


def test_the_command_reads_what_training_has_encoded(tmp_path: Path) -> None:
    given = ["blood-smear", "--subjects", "20", "--bootstraps", "20", "--without", "drawn-lab-3"]
    given += ["--hold-out", "drawn-lab-5", "--held-out-subjects", "4", "--group-by", "patient"]
    encoder, options = Glance(), _parser().parse_args(given)
    report = measure_left_out(options, Console(quiet=True), encoder, tmp_path)
    encoded = encoder.frames_encoded
    assert encoded == 2 * 24
    assert {source for fold in report.folds for source in fold.sources} == {f"drawn-lab-{n}" for n in (1, 2, 4, 5)}
    assert report.folds[-1].metrics.n == 4
    assert report.command.endswith(_command(options))
    assert "blood-smear --subjects 20 --contrast 4 --hold-out drawn-lab-5 --held-out-subjects 4" in report.command
    assert LeftOutReport.model_validate_json(report.model_dump_json()) == report
    trained_on = phantom_dataset(recipe("blood-smear"), subjects=20, seed=0, hold_out=["drawn-lab-5", "drawn-lab-3"])
    CaseEncoder(encoder, tmp_path, keep_patches=trained_on.has_masks).encode(trained_on.cases, choose=range)
    assert encoder.frames_encoded == encoded


def test_a_source_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["blood-smear", "--without", "nowhere"]) == 2
    assert "no source nowhere" in capsys.readouterr().err
    with pytest.raises(ConfigurationError, match="at least 20"):
        measure_left_out(_parser().parse_args(["blood-smear", "--subjects", "3"]), Console(quiet=True))


def test_labels_are_those_of_the_definition(report: LeftOutReport) -> None:
    assert report.labels == LABELS
    assert "research use only" in report.notice.lower()
