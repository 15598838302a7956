"""Which second images the adaptive mode runs, and that what it leaves out changes little."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain_saliency import blobs, explained_tiny, run_vit_cx, tiny_head, tiny_model

from shared.saliency.maps import Request
from shared.saliency.second_passes import TOLERANCE, filled, next_seconds

NAN = float("nan")


def masks(count: int, seed: int = 0) -> torch.Tensor:
    """Blurred random masks (count, 8, 8), of very different extents."""
    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(random.random((count, 1, 3, 3))) ** torch.from_numpy(
        random.choice([0.5, 2.0, 8.0], (count, 1, 1, 1))
    )
    return torch.nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear")[:, 0]


def weights(grid: torch.Tensor) -> torch.Tensor:
    return (grid / (len(grid) * grid.sum(dim=0))).flatten(1)


def test_the_weightiest_masks_come_first():
    grid = masks(30)
    wanted = next_seconds(grid, torch.rand(30), torch.full((30,), NAN))

    spread = weights(grid).var(dim=1)
    assert wanted.tolist() == spread.argsort(descending=True)[:8].tolist()


def test_those_that_were_run_are_not_asked_for_again():
    grid, differences = masks(30), torch.full((30,), NAN)
    first = next_seconds(grid, torch.rand(30), differences)
    differences[first] = torch.linspace(-0.5, 0.5, 8)

    assert not set(first.tolist()) & set(next_seconds(grid, 0.5 + 0.01 * torch.rand(30), differences).tolist())


def test_it_ends_early_where_noise_changes_nothing_and_late_where_it_changes_much():
    grid, random = masks(40), torch.Generator().manual_seed(1)
    first = torch.rand(40, generator=random)

    def runs(size: float) -> int:
        truth = 0.1 + size * torch.randn(40, generator=random)
        differences = torch.full((40,), NAN)
        while len(wanted := next_seconds(grid, first, differences)):
            differences[wanted] = truth[wanted]
        return int((~differences.isnan()).sum())

    assert runs(1e-4) == 8
    assert runs(0.5) > 25
    assert runs(0.0) == 8


@pytest.mark.parametrize("seed", range(5))
def test_what_is_left_out_costs_less_correlation_than_the_tolerance(seed):
    grid, random = masks(40, seed), torch.Generator().manual_seed(seed)
    first, truth = torch.rand(40, generator=random), 0.01 * torch.randn(40, generator=random)
    differences = torch.full((40,), NAN)
    while len(wanted := next_seconds(grid, first, differences)):
        differences[wanted] = truth[wanted]

    left_out = int(differences.isnan().sum())
    found, exact = ((first + d).double() @ weights(grid) for d in (filled(differences), truth))
    loss = 1 - float(np.corrcoef(found, exact)[0, 1])
    assert left_out > 0
    assert loss <= TOLERANCE


def test_a_map_of_nothing_but_noise_gets_all_second_images():
    grid, differences = masks(12), torch.full((12,), NAN)
    truth = torch.randn(12, generator=torch.Generator().manual_seed(2))
    while len(wanted := next_seconds(grid, torch.full((12,), 0.5), differences)):
        differences[wanted] = truth[wanted]

    assert not differences.isnan().any()


def test_fewer_masks_than_a_round_are_all_run():
    assert len(next_seconds(masks(3), torch.rand(3), torch.full((3,), NAN))) == 3
    assert len(next_seconds(masks(1), torch.rand(1), torch.zeros(1))) == 0


def test_what_was_not_run_gets_the_mean_of_what_was():
    assert filled(torch.tensor([1.0, NAN, 3.0])).tolist() == [1.0, 2.0, 3.0]
    assert filled(torch.tensor([NAN, NAN])).tolist() == [0.0, 0.0]


def test_the_adaptive_map_follows_the_exact_one_with_fewer_passes():
    model = explained_tiny(tiny_model())
    request = Request(blobs(48, 48), tiny_head(model.backbone), 3)

    (exact,), (adaptive,) = (run_vit_cx(model, request, seconds=seconds) for seconds in ("all", "needed"))

    assert adaptive.mask_count == exact.mask_count
    assert adaptive.forwards == 1 + adaptive.mask_count + adaptive.facts["second_passes"]
    assert np.corrcoef(adaptive.values.ravel(), exact.values.ravel())[0, 1] > 0.999
