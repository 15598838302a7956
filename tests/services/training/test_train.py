"""Training in small: the whole recipe, from phantoms to a task folder that loads, on weak means."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.training.card import ModelCard, evaluation_table
from services.training.train import train_brain_mr
from shared.settings import VisionSettings
from shared.vision.tasks import load_task

# A quarter of the usual patches and plain lesions: a minute's training, not a useful head.
SMALL = VisionSettings(device="cpu", input_size_px=112)


@pytest.mark.slow
def test_a_reduced_training_writes_a_task_that_beats_chance(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    arguments = {
        "subjects": 40,
        "contrast": 8.0,
        "vision": SMALL,
        "feature_cache_dir": tmp_path / "cache",
        "progress": lambda *at: told.append(at),
    }
    card = train_brain_mr(tmp_path / "brain-mr", **arguments)  # type: ignore[arg-type]

    task = load_task(tmp_path / "brain-mr")
    assert task.head.id == card.head_id
    assert task.definition.abstain_below == card.operating_point.abstain_below
    assert ModelCard.model_validate(task.card) == card
    assert (tmp_path / "brain-mr" / "model-card.md").read_text() == card.markdown()
    assert "new subjects" in "\n".join(evaluation_table(card.evaluations)).lower()
    assert card.evaluations[0].frame.balanced_accuracy.value > 0.4  # chance is .25
    assert ("training", 24, 24) in told
