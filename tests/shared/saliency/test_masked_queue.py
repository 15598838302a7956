"""Many images in one queue: the same maps as alone, no dearer, and one failure does not spread."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain_saliency import blobs, explained_tiny, range_error, run_vit_cx, tiny_head, tiny_model

from shared.errors import NotExplainableError
from shared.saliency.forwards import ExplainedModel
from shared.saliency.maps import Request, SaliencyMap


@pytest.fixture(scope="module")
def model() -> ExplainedModel:
    return explained_tiny(tiny_model(layers=2))


@pytest.fixture(scope="module")
def requests(model) -> list[Request]:
    """Three images, two heads."""
    heads = [tiny_head(model.backbone, seed=seed) for seed in (5, 6)]
    return [Request(blobs(48, 48, seed=seed), heads[seed % 2], seed) for seed in (7, 8, 9)]


class Counting:
    """A forward that notes its batches, each run image by image: then a row cannot depend on its batch."""

    def __init__(self, model: ExplainedModel) -> None:
        self._model = model
        self.batches: list[int] = []

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(pixels))
        return torch.cat([self._model.clean(image[None]) for image in pixels])


@pytest.mark.parametrize("seconds", ["all", "needed", "none"])
def test_a_map_does_not_depend_on_the_images_beside_it_nor_on_the_batch_size(model, requests, seconds):
    alone = [run_vit_cx(model, request, seconds=seconds, forward=Counting(model))[0] for request in requests]

    for batch_size in (1, 7, 64):
        together = run_vit_cx(model, *requests, seconds=seconds, forward=Counting(model), batch_size=batch_size)
        for one, other in zip(alone, together, strict=True):
            assert np.array_equal(one.values, other.values)
            assert one.forwards == other.forwards


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_a_true_batch_changes_a_map_by_rounding_only(model, requests, batch_size):
    usual, other = (run_vit_cx(model, *requests, batch_size=size) for size in (8, batch_size))

    for one, two in zip(usual, other, strict=True):
        assert range_error(one.values, two.values) <= 1e-4


def test_batches_are_filled_across_images(model, requests):
    alone, together = Counting(model), Counting(model)
    for request in requests:
        run_vit_cx(model, request, forward=alone)
    outcomes = run_vit_cx(model, *requests, forward=together)

    assert sum(together.batches) == sum(alone.batches) == sum(outcome.forwards - 1 for outcome in outcomes)
    assert all(size == 8 for size in together.batches[:-1])
    assert len(together.batches) <= len(alone.batches)


def test_an_image_is_started_only_when_the_others_no_longer_fill_a_batch(model, requests):
    started, forward = [], Counting(model)

    class Watched:
        def __init__(self, head, number):
            self._head, self._number = head, number

        def logits(self, rows):
            return self._head.logits(rows)

        def __call__(self, rows):
            if self._number not in started:
                started.append(self._number)
                before.append(sum(forward.batches))
            return self._head(rows)

    before: list[int] = []
    watched = [
        Request(request.x, Watched(request.head, number), request.seed) for number, request in enumerate(requests)
    ]
    outcomes = run_vit_cx(model, *watched, forward=forward)

    assert started == [0, 1, 2]
    # What the images before it ask for, less than one batch.
    for number in (1, 2):
        asked = sum(outcome.forwards - 1 for outcome in outcomes[:number])
        assert asked - 8 < before[number] <= asked


def test_one_image_s_failure_leaves_the_others_alone(model, requests):
    class BrokenLater:
        def __init__(self, head):
            self._head, self._calls = head, 0

        def logits(self, rows):
            return self._head.logits(rows)

        def __call__(self, rows):
            self._calls += 1
            return self._head(rows) * (torch.nan if self._calls > 1 else 1.0)

    flat = Request(torch.full_like(requests[0].x, torch.nan), requests[0].head, 1)
    broken = Request(requests[1].x, BrokenLater(requests[1].head), 1)

    outcomes = run_vit_cx(model, flat, requests[0], broken, requests[2], forward=Counting(model))

    assert [isinstance(outcome, NotExplainableError) for outcome in outcomes] == [True, False, True, False]
    expected = run_vit_cx(model, requests[2], forward=Counting(model))[0]
    assert isinstance(outcomes[3], SaliencyMap)
    assert np.array_equal(outcomes[3].values, expected.values)
