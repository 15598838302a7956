"""ViT-CX against a plain transcription of the published algorithm, and its guards."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from plain_saliency import blobs, explained_tiny, plain_vit_cx, range_error, run_vit_cx, tiny_head, tiny_model

from shared.errors import NotExplainableError
from shared.saliency.forwards import ExplainedModel
from shared.saliency.heads import scorer
from shared.saliency.maps import Request, SaliencyMap
from shared.saliency.methods import made
from shared.saliency.seeds import standard_normal
from shared.saliency.vit_cx import Parameters


def noise(seed: int, x: torch.Tensor):
    return lambda number: standard_normal(seed, number, tuple(x.shape), x.device)


def vit_cx(model, head, x, *, seed=1, target=None, **how) -> SaliencyMap:
    (outcome,) = run_vit_cx(explained_tiny(model), Request(x, head, seed, target), **how)
    if isinstance(outcome, NotExplainableError):
        raise outcome
    return outcome


def plain(model, head, x, *, seed=1, target=None, **how):
    return plain_vit_cx(model, scorer(explained_tiny(model).clean, head), x, target, noise(seed, x), **how)


def partition(result: SaliencyMap) -> list[list[int]]:
    return sorted(np.flatnonzero(result.clusters == label).tolist() for label in range(result.mask_count))


@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize(("height", "width"), [(48, 48), (40, 64), (64, 24)])
def test_map_agrees_with_the_plain_transcription(registers, height, width):
    model = tiny_model(registers=registers)
    head, x = tiny_head(model), blobs(height, width)

    ours = vit_cx(model, head, x, seed=11)
    reference, groups, scores = plain(model, head, x, seed=11)

    assert partition(ours) == groups
    assert 1 < ours.mask_count < 32
    assert ours.forwards == 1 + 2 * ours.mask_count
    np.testing.assert_allclose(ours.scores, scores, atol=2e-6)
    assert range_error(ours.values, reference) <= 1e-4
    assert ours.values.dtype == np.float32
    assert ours.values.shape == (height, width)


@pytest.mark.parametrize(("size", "registers"), [(224, False), (518, True)])
def test_map_agrees_at_the_sizes_that_dinov2_is_used_at(size, registers):
    model = tiny_model(registers=registers, patch=14, image_px=518, layers=1)
    head, x = tiny_head(model), blobs(size, size)

    ours = vit_cx(model, head, x, seed=3, parameters=Parameters(delta=0.2))
    reference, groups, _ = plain(model, head, x, seed=3, delta=0.2)

    assert partition(ours) == groups
    assert 1 < ours.mask_count < 32
    assert range_error(ours.values, reference) <= 1e-4


@pytest.mark.parametrize("delta", [0.02, 0.3])
def test_other_thresholds_fills_and_targets_agree_too(delta):
    model = tiny_model()
    head, x = tiny_head(model), blobs(48, 48)

    ours = vit_cx(model, head, x, target=1, parameters=Parameters(delta=delta, fill=(-2.0, -2.0, -2.0)))
    reference, groups, _ = plain(model, head, x, target=1, delta=delta, fill=-2.0)

    assert ours.target == 1
    assert partition(ours) == groups
    assert range_error(ours.values, reference) <= 1e-4


def test_a_sigmoid_head_agrees_too():
    model = tiny_model()
    head, x = tiny_head(model, is_sigmoid=True), blobs(48, 48)

    ours, (reference, _, _) = vit_cx(model, head, x), plain(model, head, x)

    assert range_error(ours.values, reference) <= 1e-4
    assert float(head(explained_tiny(model).clean(x[None])).sum()) != pytest.approx(1.0, abs=0.05)


def test_without_second_images_the_scores_are_those_of_the_first():
    model = tiny_model()
    head, x = tiny_head(model), blobs(48, 48)

    ours = vit_cx(model, head, x, seconds="none")
    reference, groups, scores = plain(model, head, x, first_only=True)

    assert partition(ours) == groups
    assert ours.forwards == 1 + ours.mask_count
    np.testing.assert_allclose(ours.scores, scores, atol=2e-6)
    assert range_error(ours.values, reference) <= 1e-4
    assert range_error(vit_cx(model, head, x).values, reference) > 1e-3


def test_a_limit_on_masks_merges_on():
    model = tiny_model()
    head, x = tiny_head(model), blobs(48, 48)

    free = vit_cx(model, head, x)
    limited = vit_cx(model, head, x, parameters=Parameters(max_masks=free.mask_count - 2))

    assert 1 <= limited.mask_count <= free.mask_count - 2
    # Clusters are only ever joined.
    for cluster in partition(free):
        assert len({int(limited.clusters[member]) for member in cluster}) == 1
    unbound = vit_cx(model, head, x, parameters=Parameters(max_masks=free.mask_count))
    assert np.array_equal(unbound.values, free.values)


def test_one_cluster_gives_a_flat_map_of_its_score():
    model = tiny_model()

    ours = vit_cx(model, tiny_head(model), blobs(48, 48), parameters=Parameters(delta=1.0))

    assert ours.mask_count == 1
    assert set(ours.clusters) == {0}
    covered = ours.values != 0
    assert covered.mean() > 0.99
    np.testing.assert_allclose(ours.values[covered], ours.scores[0], rtol=1e-6)


def test_a_constant_channel_is_dropped_and_the_map_stays_finite():
    model = tiny_model()
    norm = model.encoder.layer[-1].norm1
    norm.weight[4] = 0.0
    norm.bias[4] = 0.7
    head, x = tiny_head(model), blobs(48, 48)

    ours, (reference, groups, _) = vit_cx(model, head, x), plain(model, head, x)

    assert np.flatnonzero(ours.clusters == -1).tolist() == [4]
    assert ours.facts["feature_maps_dropped"] == 1
    assert partition(ours) == groups
    assert np.isfinite(ours.values).all()
    assert range_error(ours.values, reference) <= 1e-4


def test_a_channel_that_varies_only_by_rounding_is_dropped():
    model = tiny_model()
    norm = model.encoder.layer[-1].norm1
    norm.weight[4] = 1e-9
    norm.bias[4] = 0.7

    assert vit_cx(model, tiny_head(model), blobs(48, 48)).clusters[4] == -1


def test_features_without_variation_are_refused():
    model = tiny_model()
    model.encoder.layer[-1].norm1.weight.zero_()

    with pytest.raises(NotExplainableError, match="no feature map"):
        vit_cx(model, tiny_head(model), blobs(48, 48))


@pytest.mark.parametrize("broken_at", ["clean", "masked"])
def test_a_score_that_is_not_finite_is_refused(broken_at):
    model = tiny_model()
    head, calls = tiny_head(model), itertools.count()

    class BrokenHead:
        def logits(self, rows):
            return head.logits(rows)

        def __call__(self, rows):
            is_broken = (next(calls) == 0) == (broken_at == "clean")
            return torch.full_like(head(rows), math.nan) if is_broken else head(rows)

    with pytest.raises(NotExplainableError, match="not finite"):
        vit_cx(model, BrokenHead(), blobs(48, 48))


def test_same_seed_gives_the_same_map_and_another_seed_a_similar_one():
    model = tiny_model()
    make = partial(vit_cx, model, tiny_head(model), blobs(48, 48))

    first, again, other = (make(seed=seed).values for seed in (4, 4, 5))

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.corrcoef(first.ravel(), other.ravel())[0, 1] > 0.9


def test_map_is_signed_and_keeps_its_scale():
    model = tiny_model()
    head, x = tiny_head(model), blobs(48, 48)

    ours = vit_cx(model, head, x)

    # N times the map is a mean of the scores, weighted by the masks.
    scaled = ours.values * ours.mask_count
    assert ours.scores.min() - 1e-6 <= scaled.min()
    assert scaled.max() <= ours.scores.max() + 1e-6
    assert ours.probability == pytest.approx(float(head(explained_tiny(model).clean(x[None])).max()), abs=1e-6)


def test_the_hook_is_removed_and_the_global_noise_left_alone():
    model = tiny_model()
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)

    vit_cx(model, tiny_head(model), blobs(48, 48))

    assert torch.rand(1) == expected
    assert not model.encoder.layer[-1].norm1._forward_hooks
    assert not torch.is_inference_mode_enabled()


def test_a_forward_pass_of_another_backbone_is_noticed():
    model, stranger = tiny_model(), tiny_model(seed=8)
    crossed = ExplainedModel(model, explained_tiny(stranger).clean, explained_tiny(stranger).read)

    with pytest.raises(ValueError, match="0 times"):
        made(*run_vit_cx(crossed, Request(blobs(48, 48), tiny_head(model), 1)))
