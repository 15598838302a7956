"""Figures of a search against cases worked by hand, and the whole command's step on small images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from labelled_images import DEFINITION, LABELS, PlainEncoder, case_of, write_class_folders
from sklearn.metrics import average_precision_score

from bench import retrieval as page_module
from services.training.dataset.cases import DatasetError
from services.training.dataset.folder_dataset import folder_dataset
from services.training.dataset.phantom_dataset import FIRST_TRAINING_SEED
from services.training.evaluation.request import FIRST_SEED as FIRST_EVALUATION_SEED
from services.training.explain_evaluation.request import FIRST_SEED as FIRST_EXPLAINED_SEED
from services.training.features.case_features import CaseEncoder, frame_choice
from services.training.retrieval_evaluation.evaluate_retrieval import (
    RetrievalOptions,
    RetrievalSets,
    evaluate_retrieval,
    report_of,
)
from services.training.retrieval_evaluation.figures import (
    MAP,
    MMV,
    NAMES,
    average_precision,
    query_figures,
    random_figures,
    winners,
)
from services.training.retrieval_evaluation.markdown import retrieval_markdown
from services.training.retrieval_evaluation.page import retrieval_page
from services.training.retrieval_evaluation.ranking import allowed_pairs, rank, rank_by
from services.training.retrieval_evaluation.request import FIRST_SEED, RetrievalRequest, sets_of
from services.training.retrieval_evaluation.studies import NO_LABEL, Studies, studies_of
from services.training.retrieval_evaluation.votes import shortcut_audits, vote_bins
from services.training.train_task import TrainOptions, train_task
from shared.errors import ConfigurationError, WeightsError
from shared.vision.aggregate import aggregate
from shared.vision.retrieval_report import VISUAL, RetrievalReport
from shared.vision.tasks import BUILT_IN, Task, load_task

OPTIONS = RetrievalOptions(draws=100, contrast=4.0, command="similis evaluate retrieval shapes")


def drawn_studies(
    count: int = 60, *, classes: int = 3, spread: float = 0.0, seed: int = 0, of: str = "class"
) -> Studies:
    """Studies of two frames, two of each patient, on three sources; their vectors point to the class or the source."""
    rng = np.random.default_rng(seed)
    numbers = np.arange(count)
    labels, source = numbers // 2 % classes, numbers // 7 % 3
    towards = np.eye(12)[labels if of == "class" else source]
    rows = np.repeat(towards, 2, axis=0) + spread * rng.normal(size=(2 * count, 12))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    starts = rows.reshape(count, 2, 12).mean(axis=1)
    starts /= np.linalg.norm(starts, axis=1, keepdims=True)
    return Studies(
        vectors={VISUAL: rows, "shapes": rows},
        starts={VISUAL: starts, "shapes": starts},
        study=np.repeat(numbers, 2),
        strongest=2 * numbers,
        classes=labels,
        frame_classes=np.repeat(labels, 2),
        labels=labels,
        patients=np.array([f"p{number // 2}" for number in numbers]),
        sources=np.array([f"source {number}" for number in source]),
    )


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = write_class_folders(tmp_path_factory.mktemp("images"), 20)
    trained = train_task(DEFINITION, folder_dataset(folder, DEFINITION), PlainEncoder(), TrainOptions())
    return Task(trained.definition, trained.head, {})


@pytest.fixture(scope="module")
def sets() -> RetrievalSets:
    def cases(first: int, source: str) -> list:
        return [case_of(first + k, source=f"{source} {k // 3 % 2}") for k in range(30)]

    return RetrievalSets(cases(0, "seen"), cases(5000, "seen"), cases(6000, "new"))


@pytest.fixture(scope="module")
def report(task: Task, sets: RetrievalSets) -> RetrievalReport:
    return evaluate_retrieval(task, sets, PlainEncoder(), OPTIONS)


def test_precision_average_precision_and_majority_are_those_worked_by_hand() -> None:
    # One query of class 1; its neighbours from the nearest on: 1 0 1 1 0 2 1 0 0 2.
    gallery = np.array([1, 0, 1, 1, 0, 2, 1, 0, 0, 2, 1, 1])
    likeness = -np.arange(12.0)[None, :]
    ranked = rank_by(likeness, np.ones((1, 12), bool), np.array([1]), gallery)
    figures = {name: values[0] for name, values in query_figures(ranked).items()}
    assert figures == pytest.approx(
        {"P@1": 1, "P@3": 2 / 3, "P@5": 3 / 5, "P@10": 4 / 10, MAP: (1 + 2 / 3 + 3 / 4) / 5, MMV: 1}
    )
    assert ranked.chance == 6 / 12


def test_average_precision_over_the_whole_gallery_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    hits = rng.random((40, 25)) < 0.3
    hits[:, 4] = True  # scikit-learn defines it for queries with a hit only
    ours = average_precision(hits, hits.sum(axis=1))
    assert ours == pytest.approx([average_precision_score(row, -np.arange(25)) for row in hits])


def test_a_majority_needs_more_votes_than_any_other_and_the_unlabelled_do_not_vote() -> None:
    votes = np.array([[1, 1, 0, 2, 2], [1, 1, 2, NO_LABEL, NO_LABEL], [NO_LABEL] * 5])
    label, share = winners(votes)
    assert label.tolist() == [NO_LABEL, 1, NO_LABEL]
    assert share[1] == pytest.approx(2 / 3)


@pytest.mark.parametrize("level", ["study", "frame"])
def test_a_space_that_knows_the_class_gives_one_for_every_figure(level: str) -> None:
    studies = drawn_studies()
    figures = query_figures(rank(studies, studies, VISUAL, disjoint="source", level=level))
    assert {name: values.min() for name, values in figures.items()} == dict.fromkeys(NAMES, 1.0)


def test_a_space_that_knows_nothing_gives_what_random_orders_give() -> None:
    studies = drawn_studies(450, spread=1e6)
    ranked = rank(studies, studies, VISUAL, disjoint="patient", level="study")
    found = {name: float(values.mean()) for name, values in query_figures(ranked).items()}
    by_chance = random_figures(ranked, seed=1)
    assert found == pytest.approx(by_chance, abs=0.06)
    assert by_chance["P@5"] == pytest.approx(ranked.chance, abs=0.01)


@pytest.mark.parametrize("disjoint", ["patient", "source"])
def test_no_neighbour_is_of_the_querys_patient_nor_of_its_source_where_that_is_asked(disjoint: str) -> None:
    studies = drawn_studies(90, spread=0.3, seed=5)
    ranked = rank(studies, studies, VISUAL, disjoint=disjoint, level="study")
    frames = rank(studies, studies, VISUAL, disjoint=disjoint, level="frame")
    for nearest in (ranked.nearest, studies.study[frames.nearest]):
        assert (studies.patients[nearest] != studies.patients[:, None]).all()
        same_source = studies.sources[nearest] == studies.sources[:, None]
        assert not same_source.any() if disjoint == "source" else same_source.any()


def test_a_study_is_found_by_its_best_frame() -> None:
    studies = drawn_studies(24, spread=0.5, seed=2)
    ranked = rank(studies, studies, VISUAL, disjoint="patient", level="study")
    likeness = studies.starts[VISUAL] @ studies.vectors[VISUAL].T
    best = np.where(allowed_pairs(studies, studies, "patient"), likeness.reshape(24, 24, 2).max(axis=2), -np.inf)
    assert (ranked.nearest[:, 0] == best.argmax(axis=1)).all()


def test_a_gallery_with_fewer_than_ten_others_is_refused() -> None:
    with pytest.raises(DatasetError, match="take more studies"):
        rank(few := drawn_studies(8), few, VISUAL, disjoint="patient", level="study")


def test_a_choice_of_studies_keeps_their_frames_and_their_strongest() -> None:
    studies = drawn_studies(20, spread=1.0)
    chosen = np.arange(20) % 3 == 1
    kept = studies.only(chosen)
    assert kept.study.tolist() == [number for number in range(7) for _ in range(2)]
    assert np.array_equal(kept.vectors[VISUAL][kept.strongest], studies.vectors[VISUAL][studies.strongest[chosen]])
    assert kept.patients.tolist() == studies.patients[chosen].tolist()


def test_a_search_starts_with_the_mean_of_the_evidence_frames(task: Task, sets: RetrievalSets) -> None:
    encoded = CaseEncoder(PlainEncoder(), None, lens=task.head.lens).encode(
        sets.fresh[:8], choose=frame_choice(task.definition)
    )
    # Eight pictures as one study: a quarter of them is evidence.
    rows = {name: np.concatenate([getattr(one, name) for one in encoded]) for name in ("cls", "joined")}
    whole = replace(encoded[0], **rows, frame_labels=None)
    study = studies_of([whole], task)
    evidence = aggregate(task.head.logits(whole.joined), task.finding, task.head.temperature).evidence
    assert len(evidence) == 2
    for space, vectors in ((VISUAL, whole.cls), (task.name, task.head.project(whole.cls))):
        shown = vectors[list(evidence)]
        mean = (shown / np.linalg.norm(shown, axis=1, keepdims=True)).mean(axis=0)
        assert study.starts[space][0] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)
    assert study.strongest.tolist() == [evidence[0]]


def test_vote_bins_count_each_query_once_and_their_intervals_are_wilsons() -> None:
    studies = drawn_studies(120, spread=0.55, seed=4)
    labels = studies.labels.copy()
    labels[::4] = NO_LABEL
    bins, ties = vote_bins(rank(studies, studies, VISUAL, disjoint="patient", level="study"), labels)
    assert ties + sum(one.studies for one in bins) == 120
    z = 1.959964
    for one in bins:
        centre = (one.right + z**2 / (2 * one.studies)) / (1 + z**2 / one.studies)
        half = z * np.sqrt(one.right * (1 - one.right) / one.studies + z**2 / (4 * one.studies**2))
        half /= 1 + z**2 / one.studies
        assert (one.low, one.high) == pytest.approx((centre - half, centre + half), abs=2e-4)
    assert bins[-1].right > bins[0].right


def test_the_audit_finds_a_space_that_knows_the_source_only() -> None:
    studies = drawn_studies(180, spread=0.05, of="source")
    ranked = rank(studies, studies, VISUAL, disjoint="patient", level="study")
    audit = shortcut_audits(ranked, studies, studies, draws=100, seed=0)[-1]
    assert audit.at == 5
    assert audit.same_source.found.value == 1.0
    assert audit.same_source.chance == pytest.approx(1 / 3, abs=0.03)
    assert audit.same_class.found.value == pytest.approx(audit.same_class.chance, abs=0.1)
    assert audit.same_class_other_source.found.value == 0.0
    one_source = replace(studies, sources=np.full(180, "the only"))
    assert shortcut_audits(ranked, one_source, one_source, draws=100, seed=0) == ()


def test_the_whole_on_small_images_has_all_protocols_and_is_read_back(report: RetrievalReport, tmp_path: Path) -> None:
    kinds = [(one.gallery, one.disjoint, one.level) for one in report.spaces[VISUAL].protocols]
    assert len(kinds) == len(set(kinds)) == 8
    assert (report.studies, report.training_studies) == (60, 30)
    assert report.sources_never_seen == ("new 0", "new 1")
    own, visual = report.spaces["shapes"], report.spaces[VISUAL]
    assert own.p_at["5"] == own.headline.measures.p_at["5"]
    assert (own.headline.disjoint, own.headline.queries) == ("source", 30)
    means = own.headline.p_at_5_of
    assert tuple(means) == LABELS
    assert own.p_at["5"].macro.value == pytest.approx(np.mean(list(means.values())), abs=2e-4)
    gain = own.p_at["5"].macro.value - visual.p_at["5"].macro.value
    assert report.gain_p_at_5.value == pytest.approx(gain, abs=2e-4)
    assert own.p_at["5"].macro.value > own.headline.chance.p_at
    assert own.vote(1.0) == own.votes[-1]
    report.write(tmp_path)
    ids = {"head_id": report.head_id, "backbone_id": report.backbone_id}
    assert RetrievalReport.load(tmp_path, **ids) == report
    assert RetrievalReport.load(tmp_path, **ids | {"head_id": "shapes@000000000000"}) is None
    assert RetrievalReport.load(tmp_path, **ids | {"backbone_id": "other"}) is None
    assert RetrievalReport.load(tmp_path / "nothing", **ids) is None
    (tmp_path / "retrieval.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"retrieval\.json"):
        RetrievalReport.load(tmp_path, **ids)


def test_the_page_and_the_tables_say_what_the_report_says(report: RetrievalReport) -> None:
    text = retrieval_markdown([report])
    assert "Research use only" in text
    assert f"| shapes | shapes | {report.spaces['shapes'].p_at['1'].macro} |" in text
    assert "Shortcut audit" in text
    assert report.command in text
    assert retrieval_page([report]) == retrieval_page([report])
    page = page_module.with_tables(f"before\n{page_module.BEGIN}\nold\n{page_module.END}\nafter", text)
    assert "old" not in page
    assert (page[:6], page[-5:]) == ("before", "after")
    assert text in page


def test_without_unseen_sources_the_headline_is_patient_disjoint(task: Task) -> None:
    report = report_of(task, drawn_studies(40, seed=8), drawn_studies(60), np.zeros(60, bool), OPTIONS)
    assert {one.disjoint for one in report.spaces[VISUAL].protocols} == {"patient"}
    assert "sources never seen" not in report.headline


def test_sets_that_would_flatter_and_another_backbones_head_are_refused(task: Task, sets: RetrievalSets) -> None:
    with pytest.raises(DatasetError, match="among the queries"):
        replace(sets, fresh=[*sets.fresh, sets.training[0]]).check()
    with pytest.raises(DatasetError, match="training has seen seen 0"):
        replace(sets, unseen=[case_of(9000, source="seen 0")]).check()
    other = replace(task, head=replace(task.head, backbone_id="other@0"))
    with pytest.raises(WeightsError, match="other@0"):
        evaluate_retrieval(other, sets, PlainEncoder(), OPTIONS)


def test_phantoms_are_those_of_the_card_and_of_seeds_that_nothing_else_uses() -> None:
    kept = load_task(BUILT_IN / "blood-smear")
    made = sets_of(RetrievalRequest("blood-smear", studies=20, unseen_studies=20), kept)
    made.check()
    assert (len(made.training), len(made.fresh), len(made.unseen)) == (240, 20, 20)
    assert {case.source for case in made.unseen} == {"drawn-lab-5"}
    numbers = [int(case.patient.removeprefix("phantom-")) for case in (*made.fresh, *made.unseen)]
    assert max(FIRST_TRAINING_SEED, FIRST_EVALUATION_SEED, FIRST_EXPLAINED_SEED) + 10**12 <= FIRST_SEED <= min(numbers)
    other = replace(kept, card={**kept.card, "rebuild": kept.card["rebuild"].replace("400", "300")})
    with pytest.raises(DatasetError, match="240 training studies"):
        sets_of(RetrievalRequest("blood-smear"), other)


def test_options_without_effect_and_out_of_range_are_refused(tmp_path: Path) -> None:
    for request in (
        RetrievalRequest("brain-mr", studies=5),
        RetrievalRequest("brain-mr", layout="c-nmc"),
        RetrievalRequest("brain-mr", folder=tmp_path, contrast=2.0),
    ):
        with pytest.raises(ConfigurationError):
            request.options()
    assert str(tmp_path) not in RetrievalRequest("brain-mr", folder=tmp_path).options().command


def test_a_folders_queries_are_its_test_split_without_what_trained_the_head(task: Task, tmp_path: Path) -> None:
    folder = write_class_folders(tmp_path, 20)
    dataset = folder_dataset(folder, DEFINITION)
    made = sets_of(RetrievalRequest("shapes", folder=folder), task)
    made.check()
    assert made.unseen == ()
    assert len(made.training) > len(made.fresh) > 0
    assert {case.study for case in (*made.training, *made.fresh)} < {case.study for case in dataset.cases}
    assert {LABELS.index(case.label) for case in made.fresh} == {0, 1, 2}
