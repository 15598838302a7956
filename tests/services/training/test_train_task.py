"""The whole of training on small folders: from images to a candidate that can be promoted."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from labelled_images import DEFINITION, FINDING, LABELS, PlainEncoder, jpeg, picture, write_class_folders

from services.training.card.model_card import ModelCard
from services.training.dataset.cases import DatasetError
from services.training.dataset.folder_dataset import folder_dataset
from services.training.dataset.training_objects import read_objects
from services.training.train_task import Trained, TrainOptions, train_task
from services.training.versions import keep_candidate, promote
from shared.errors import ConfigurationError
from shared.vision.heads import LinearHead
from shared.vision.tasks import load_task


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("images"), 40)


@pytest.fixture(scope="module")
def trained(folder: Path) -> Trained:
    return train_task(DEFINITION, folder_dataset(folder, DEFINITION), PlainEncoder(), TrainOptions(shortcuts=True))


def test_the_head_learns_and_the_card_says_how_well(trained: Trained):
    study = trained.card.evaluations[0].study
    assert study.n == 24
    assert study.accuracy.value > 0.8
    assert study.accuracy.low < study.accuracy.value
    assert trained.card.neighbours.accuracy.value > 0.5
    assert 0 < trained.card.search.chance < 0.4 < trained.card.search.task_space
    assert set(trained.card.shortcut_baselines) == {"raw pixels, 32 x 32", "histogram, 32 bins"}
    calibration = trained.card.calibration
    assert calibration is not None
    # These shapes are told apart almost without a fault; few such cases must not make the head certain.
    assert calibration.nll_before < calibration.nll_after < 0.1
    assert calibration.temperature == pytest.approx(trained.head.temperature, abs=1e-6)
    assert calibration.cases == 72 + 24
    assert calibration.nll_prior == pytest.approx(np.log(3), abs=1e-4)  # three classes, equally frequent
    assert f"{calibration.nll_prior:.3f} by the classes' frequencies alone" in trained.card.markdown()


def test_the_files_are_a_task_that_can_be_promoted(trained: Trained, tmp_path: Path):
    folder = tmp_path / "shapes"
    folder.mkdir()
    version = keep_candidate(folder, trained.write)
    promote(folder, version, backbone=PlainEncoder.id)
    task = load_task(folder)
    assert task.head.id == trained.head.id == trained.card.head_id
    assert task.definition.abstain_below == trained.card.operating_point.abstain_below
    assert task.definition.ood_distance_above == trained.card.operating_point.ood_distance_above
    kept = folder / "versions" / version
    assert trained.card.head_sha256 == hashlib.sha256((kept / "head.safetensors").read_bytes()).hexdigest()
    assert trained.card.definition_sha256 == hashlib.sha256((kept / "task.yaml").read_bytes()).hexdigest()
    assert ModelCard.model_validate(task.card) == trained.card
    assert read_objects(kept, task.card) == set(trained.training_objects)
    assert (kept / "model-card.md").read_text() == trained.card.markdown()
    vectors = task.head.project(np.ones((2, 16), np.float32))
    assert vectors is not None
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_hashes_of_training_and_calibration_are_kept_and_no_others(trained: Trained, folder: Path):
    hashes = {hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in folder.glob("*/*.png")}
    assert len(hashes) == 120
    assert list(trained.training_objects) == sorted(trained.training_objects)
    assert set(trained.training_objects) < hashes
    assert len(trained.training_objects) == 72 + 24


def test_a_list_of_hashes_that_is_missing_or_anothers_is_an_error(trained: Trained, tmp_path: Path):
    trained.write(tmp_path)
    card = json.loads(trained.card.model_dump_json())
    listed = tmp_path / "training-objects.txt"
    listed.write_text(listed.read_text()[17:])
    with pytest.raises(ConfigurationError, match="missing or another's"):
        read_objects(tmp_path, card)
    listed.unlink()
    with pytest.raises(ConfigurationError, match="train it again"):
        read_objects(tmp_path, card)
    assert read_objects(tmp_path, {**card, "data": {"kind": "phantom"}}) == frozenset()


def test_the_card_of_phantoms_tells_their_sources_and_no_hashes(folder: Path):
    dataset = folder_dataset(folder, DEFINITION)
    cases = tuple(replace(case, source="ab"[at % 2]) for at, case in enumerate(dataset.cases))
    apart = tuple(replace(case, study=f"c {case.study}", source="c") for case in dataset.cases[:3])
    phantom = replace(dataset, cases=cases, kind="phantom")
    trained = train_task(DEFINITION, phantom, PlainEncoder(), TrainOptions(), held_out={"Elsewhere": apart})
    data = trained.card.data
    assert (data.sources, data.held_out, data.training_objects_sha256) == (("a", "b"), ("c",), None)
    assert trained.training_objects == ()
    # Anything but a recipe's word may name a place.
    elsewhere = train_task(DEFINITION, replace(dataset, cases=cases), PlainEncoder(), TrainOptions())
    assert elsewhere.card.data.sources is None


def test_a_reloaded_head_answers_and_projects_alike(trained: Trained, tmp_path: Path):
    trained.head.save(tmp_path / "head.safetensors")
    loaded = LinearHead.load(tmp_path / "head.safetensors")
    cls = np.random.default_rng(0).normal(size=(3, 16))
    assert loaded.id == trained.head.id
    np.testing.assert_array_equal(loaded.project(cls), trained.head.project(cls))
    assert replace(loaded, projection=None).project(cls) is None
    assert replace(loaded, projection=None).id != loaded.id


def test_the_figures_are_small_and_always_the_same(trained: Trained, folder: Path):
    assert set(trained.figures) == {"roc.png", "confusion.png", "reliability.png"}
    for name, data in trained.figures.items():
        assert data.startswith(b"\x89PNG"), name
        assert len(data) < 60_000, name
        assert f"figures/{name}" in trained.card.markdown()
    again = train_task(DEFINITION, folder_dataset(folder, DEFINITION), PlainEncoder(), TrainOptions(shortcuts=True))
    assert again.figures == trained.figures
    assert again.head.id == trained.head.id
    assert again.card == trained.card


def test_another_seed_is_another_split_and_head(trained: Trained, folder: Path):
    other = train_task(DEFINITION, folder_dataset(folder, DEFINITION), PlainEncoder(), TrainOptions(seed=1))
    assert other.card.data.sha256 != trained.card.data.sha256
    assert other.head.id != trained.head.id


def test_the_card_names_no_file_and_no_patient(folder: Path, trained: Trained):
    text = trained.card.model_dump_json() + trained.card.markdown()
    assert ".png" not in text.replace("roc.png", "").replace("confusion.png", "").replace("reliability.png", "")
    assert str(folder) not in text
    assert "Patients are not known" in text
    assert "research use only" in text.lower()


def test_a_copy_in_another_split_is_refused_or_moved_and_said(tmp_path: Path):
    folder = write_class_folders(tmp_path / "images", 20)
    (folder / "spot" / "copy.jpg").write_bytes(jpeg(picture(1, "spot")))
    lines = ["path,label,split"]
    lines += [
        f"{path.relative_to(folder)},{path.parent.name},{('training', 'training', 'calibration', 'test')[at % 4]}"
        for at, path in enumerate(sorted(folder.glob("*/[0-9]*.png")))
    ]
    splits = {line.split(",")[0]: line.split(",")[2] for line in lines[1:]}
    lines.append(f"spot/copy.jpg,spot,{'test' if splits['spot/0001.png'] != 'test' else 'training'}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    dataset = folder_dataset(folder, DEFINITION)
    with pytest.raises(DatasetError, match=r"1 x near duplicate.*spot/copy\.jpg"):
        train_task(DEFINITION, dataset, PlainEncoder(), TrainOptions())
    card = train_task(DEFINITION, dataset, PlainEncoder(), TrainOptions(drop_duplicates=True)).card
    assert card.data.leaks_found == {"near duplicate": 1}
    assert card.data.cases_moved == 1
    assert "1 cases were moved" in card.markdown()


def test_held_out_cases_are_measured_apart_and_subgroups_are_told(folder: Path):
    dataset = folder_dataset(folder, DEFINITION)
    cases = tuple(
        replace(case, subgroup={"sex": "FM"[at % 2], "scanner": f"rare {at}"}) for at, case in enumerate(dataset.cases)
    )
    other = tuple(replace(case, study=f"other {case.study}") for case in dataset.cases[:30])
    told: list[tuple[str, int, int]] = []
    trained = train_task(
        DEFINITION,
        replace(dataset, cases=cases),
        PlainEncoder(),
        TrainOptions(aim="sensitivity", target=0.95),
        held_out={"Elsewhere": other},
        progress=lambda *at: told.append(at),
    )
    assert [evaluation.title for evaluation in trained.card.evaluations] == ["Test: new patients", "Elsewhere"]
    assert trained.card.evaluations[1].study.n == 30
    assert {group.value for group in trained.card.subgroups} <= {"F", "M"}
    assert trained.card.operating_point.aim == "sensitivity"
    assert ("training", 72, 72) in told
    assert ("fitting and measuring", 4, 4) in told


def test_too_few_cases_are_an_error(tmp_path: Path):
    folder = write_class_folders(tmp_path, 2)
    with pytest.raises(DatasetError, match="training split has 0 cases"):
        train_task(DEFINITION, folder_dataset(folder, DEFINITION), PlainEncoder(), TrainOptions())


def test_findings_are_those_of_the_definition(trained: Trained):
    assert [entry.is_finding for entry in trained.definition.classes] == FINDING.tolist()
    assert trained.head.labels == LABELS
    assert json.loads(trained.card.model_dump_json())["labels"] == list(LABELS)
