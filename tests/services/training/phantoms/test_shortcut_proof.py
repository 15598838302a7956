"""The proof finds give-aways where there are some, and finds none in the recipes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from services.training.phantoms.blood_smear import BloodSmear
from services.training.phantoms.lung_ct import LungCt
from services.training.phantoms.recipe import LabelledStudy
from services.training.phantoms.retina_fundus import RetinaFundus
from services.training.phantoms.shortcut_proof import cross_validated_hits, main, prove, wilson_interval

RNG = np.random.default_rng(5)
CLASSES = np.arange(120) % 3


def test_a_give_away_is_found() -> None:
    features = RNG.normal(size=(120, 40)).astype(np.float32)
    assert cross_validated_hits(features, CLASSES, np.arange(120)).mean() < 0.55
    features[:, :3] += 6 * np.eye(3, dtype=np.float32)[CLASSES]
    assert cross_validated_hits(features, CLASSES, np.arange(120)).mean() > 0.9


def test_what_is_known_of_a_group_does_not_help_with_another() -> None:
    groups = np.arange(120) // 6
    classes = groups % 3  # each group has one class and a signature of its own
    features = (np.eye(20)[groups] * 9 + RNG.normal(size=(120, 20))).astype(np.float32)
    assert cross_validated_hits(features, classes, groups).mean() < 0.55
    assert cross_validated_hits(features, classes, np.arange(120)).mean() > 0.9


def test_the_interval_is_wilsons() -> None:
    low, high = wilson_interval(np.array([True] * 8 + [False] * 2))
    assert (low, high) == (pytest.approx(0.490, abs=0.001), pytest.approx(0.943, abs=0.001))


@pytest.mark.parametrize("phantom", [LungCt(), BloodSmear(), RetinaFundus()], ids=lambda phantom: phantom.task)
def test_trivial_features_stay_near_chance(phantom: LungCt | BloodSmear | RetinaFundus) -> None:
    """A small sample, so a wide margin: docs/data.md has the figures of 210 studies."""
    results = prove(phantom, 36)
    chance = 1 / len(phantom.labels)
    trivial = {name: result["accuracy"] for name, result in results.items() if name.endswith("new subjects")}
    assert len(trivial) == 3
    for name, accuracy in trivial.items():
        assert accuracy < chance + 0.27, name


class LeakyFundus(RetinaFundus):
    """A recipe with a fault: each class has an eye of its own."""

    def study(self, seed: int, label: str, *, contrast: float = 4.0, source: str | None = None) -> LabelledStudy:
        return super().study(seed, label, contrast=contrast, source=f"drawn-{1 + self.labels.index(label)}")


def test_a_faulty_recipe_is_caught() -> None:
    results = prove(LeakyFundus(), 24)
    assert max(result["accuracy"] for result in results.values()) > 0.75


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["lung-ct", "--studies", "12"])
    report = json.loads(capsys.readouterr().out)
    assert report["task"] == "lung-ct"
    assert report["chance"] == pytest.approx(1 / 3, abs=0.001)
    assert "HOG; new subjects" in report["results"]
