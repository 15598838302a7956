"""Insertion and deletion on scorers whose reasons are known: a disc, and nothing else."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import ndimage

from shared.errors import NotExplainableError
from shared.saliency.faithfulness import FaithfulnessParameters, PixelGames, faithfulness_of, measure_faithfulness
from shared.saliency.faithfulness_games import equal_shares, gaussian_blurred, ranked
from shared.vision.transform import Letterbox

SIDE = 56
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
DISTANCE = np.hypot(ROWS - 20, COLUMNS - 33)
DISC = DISTANCE < 5
SMALL = {"cell_px": 7, "blur": 0.25}  # the default blur leaves a disc as large as this one in place
PERFECT = np.where(DISC, 1.0, -DISTANCE / 100).astype(np.float32)


def image() -> torch.Tensor:
    noise = np.random.default_rng(0).normal(0, 0.05, (3, SIDE, SIDE))
    return torch.from_numpy((noise + 2.0 * DISC).astype(np.float32))


def by_disc(pixels: torch.Tensor) -> torch.Tensor:
    """Two classes; the second is as probable as the disc is bright."""
    brightness = (pixels[:, :, torch.from_numpy(DISC)].mean(dim=(1, 2)) / 2.0).clamp(0, 1)
    return torch.stack([1 - brightness, brightness], dim=1)


def measured(values: np.ndarray, **parameters: object):
    return measure_faithfulness(
        by_disc, image(), values, 1, seed=3, parameters=FaithfulnessParameters(**{**SMALL, **parameters})
    )


def test_a_perfect_map_has_insertion_near_one_and_deletion_near_none() -> None:
    found = measured(PERFECT)
    assert found.insertion > 0.95
    assert found.deletion < 0.05
    assert found.is_better_than_chance
    assert found.p_original > 0.95
    assert found.p_filled < 0.01
    assert found.p_blurred < 0.3


def test_a_random_map_is_no_better_than_chance() -> None:
    random = np.random.default_rng(11).random((SIDE, SIDE)).astype(np.float32)
    found = measured(random, random_orders=20)
    assert found.insertion == pytest.approx(found.insertion_by_chance, abs=0.12)
    assert found.deletion == pytest.approx(found.deletion_by_chance, abs=0.12)
    assert 0.3 < found.deletion_by_chance < 0.7


def test_a_reversed_map_is_worse_than_chance() -> None:
    found = measured(-PERFECT, random_orders=10)
    assert found.insertion < found.insertion_by_chance - 0.2
    assert found.deletion > found.deletion_by_chance + 0.2
    assert not found.is_better_than_chance


def test_the_lead_over_chance_adds_both_figures_and_is_signed() -> None:
    good, none, bad = (
        measured(values, random_orders=10).lead for values in (PERFECT, np.zeros_like(PERFECT), -PERFECT)
    )
    assert 0.4 < good <= 2
    assert none == pytest.approx(0, abs=0.2)
    assert bad < -0.4


def test_a_map_that_is_the_same_everywhere_is_a_random_order_not_one_by_rows() -> None:
    x = image()
    games = PixelGames(by_disc, x, 1)
    order = games.order_of(np.zeros((SIDE, SIDE), np.float32), 5)
    assert sorted(order.ravel()) == list(range(SIDE * SIDE))
    assert abs(np.corrcoef(order.ravel(), np.arange(SIDE * SIDE))[0, 1]) < 0.1


def test_equal_steps_give_what_the_definition_gives() -> None:
    """A plain transcription of the authors' evaluation: one image at a time, one step after another."""
    step, pixels = 98, SIDE * SIDE
    values = np.random.default_rng(2).normal(size=(SIDE, SIDE)).astype(np.float32) + PERFECT
    x = image()
    blurred = gaussian_blurred(x, 0.05 * SIDE)

    def by_definition(start: np.ndarray, finish: np.ndarray) -> float:
        order = np.argsort(values.ravel())[::-1]
        current, scores = start.reshape(3, pixels).copy(), []
        for i in range(pixels // step + 1):
            scores.append(float(by_disc(torch.from_numpy(current.reshape(1, 3, SIDE, SIDE)))[0, 1]))
            at = order[step * i : step * (i + 1)]
            current[:, at] = finish.reshape(3, pixels)[:, at]
        found = np.array(scores)
        return float((found.sum() - found[0] / 2 - found[-1] / 2) / (len(found) - 1))

    parameters = FaithfulnessParameters(shares=equal_shares(pixels, step), random_orders=1)
    assert len(parameters.shares) == pixels // step + 1
    found = measure_faithfulness(by_disc, x, values, 1, seed=0, parameters=parameters)
    assert found.deletion == pytest.approx(by_definition(x.numpy(), np.zeros_like(x.numpy())), abs=1e-6)
    assert found.insertion == pytest.approx(by_definition(blurred.numpy(), x.numpy()), abs=1e-6)


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_the_cheap_steps_come_near_the_fine_ones(noise: float) -> None:
    values = PERFECT + np.random.default_rng(4).normal(0, noise, (SIDE, SIDE)).astype(np.float32)
    cheap, fine = measured(values), measured(values, shares=equal_shares(SIDE * SIDE, 14))
    assert cheap.insertion == pytest.approx(fine.insertion, abs=0.05)
    assert cheap.deletion == pytest.approx(fine.deletion, abs=0.05)
    assert cheap.parameters.forwards == 39


def test_only_the_frames_pixels_count_and_the_bars_stay_as_they_are() -> None:
    x, box = image(), Letterbox(7, 0, 35, SIDE)
    x[:, :7], x[:, 42:] = -2.0, -2.0
    seen = []

    def scorer(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(pixels.clone())
        return by_disc(pixels)

    values = PERFECT.copy()
    values[:7] = values[42:] = 9.0  # what a map says of the bars must not count
    found = measure_faithfulness(scorer, x, values, 1, seed=0, content=box)
    images = torch.cat(seen)
    assert (images[:, :, :7] == -2.0).all()
    assert (images[:, :, 42:] == -2.0).all()
    assert found.deletion < 0.05
    whole = measure_faithfulness(by_disc, x, values, 1, seed=0)
    assert whole.deletion > found.deletion + 0.1
    assert (images[:, :, 7:42] == 0).all(dim=(1, 2, 3)).sum() == 1  # everything filled, once
    # Next to the bars the blur has seen no black.
    assert images[1, :, 7].min() > -0.5


def test_the_same_seed_gives_the_same_figures_whatever_the_batch() -> None:
    values = np.round(PERFECT, 1)  # ties
    first, again = measured(values, batch_size=1), measured(values, batch_size=32)
    assert first.facts() == {**again.facts(), "batch_size": 1}
    x = image()
    other = measure_faithfulness(by_disc, x, values, 1, seed=4, parameters=first.parameters)
    assert other.insertion_by_chance != first.insertion_by_chance


def test_as_many_images_are_run_as_told_and_no_batch_is_larger() -> None:
    sizes = []

    def scorer(pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        return by_disc(pixels)

    parameters = FaithfulnessParameters(batch_size=5)
    measure_faithfulness(scorer, image(), PERFECT, 1, seed=0, parameters=parameters)
    assert sum(sizes) == parameters.forwards
    assert max(sizes) == 5


def test_maps_of_one_image_share_its_chance() -> None:
    games = PixelGames(by_disc, image(), 1, parameters=FaithfulnessParameters(**SMALL))
    chance = games.play(games.random_orders(3))
    assert faithfulness_of(games, PERFECT, 3, chance).facts() == measured(PERFECT).facts()


def test_random_orders_move_whole_cells() -> None:
    games = PixelGames(by_disc, image(), 1, parameters=FaithfulnessParameters(cell_px=14))
    first, second = games.random_orders(0)
    assert not np.array_equal(first, second)
    for order in (first, second):
        cells = order.reshape(4, 14, 4, 14).transpose(0, 2, 1, 3).reshape(16, 196)
        assert (np.ptp(cells, axis=1) == 195).all()


def test_the_blur_is_a_gaussian_that_keeps_edges() -> None:
    found = gaussian_blurred(image(), 2.0).numpy()
    expected = [ndimage.gaussian_filter(channel, 2.0, mode="nearest", truncate=3.0) for channel in image().numpy()]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_figures_are_ready_for_json() -> None:
    told = json.loads(json.dumps(measured(PERFECT).facts()))
    assert told["insertion"] > told["insertion_by_chance"]
    assert told["shares"][-1] == 1.0
    assert told["forwards"] == 39


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(NotExplainableError, match="not finite"):
        measure_faithfulness(lambda pixels: by_disc(pixels) * torch.nan, image(), PERFECT, 1, seed=0)


@pytest.mark.parametrize("values", [PERFECT[:-1], np.where(DISC, np.nan, PERFECT)])
def test_a_map_that_does_not_fit_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        measured(values)


@pytest.mark.parametrize(
    "wrong",
    [{"shares": (0.0, 0.5)}, {"shares": (0.0, 0.5, 0.5, 1.0)}, {"random_orders": 0}, {"blur": 0.0}, {"cell_px": 0}],
)
def test_senseless_parameters_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        FaithfulnessParameters(**wrong)


def test_ranks_start_at_the_highest_value() -> None:
    values = np.array([[0.1, 0.9], [-0.5, 0.3]], np.float32)
    assert ranked(values, np.random.default_rng(0)).tolist() == [[2, 0], [3, 1]]
