"""The adapter between settings, frames and heads, and the saliency maps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from services.explainer.frame_explainer import SaliencyExplainer
from services.explainer.ports import FrameExplanation, FrameRequest
from services.explainer.settings import ExplainerSection
from shared.errors import NotExplainableError
from shared.pixels import PixelLimits, read_frames
from shared.saliency.forwards import (
    encoder_forward,
    fastest_forward,
    hugging_face_forward,
    hugging_face_rows,
)
from shared.saliency.seeds import standard_normal
from tests.services.explainer.conftest import mr_slice


@pytest.fixture(scope="module")
def frames():
    return read_frames(mr_slice(frames=3), limits=PixelLimits())


def section(**values) -> ExplainerSection:
    return ExplainerSection(**{"delta": 0.02, **values})


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("auto", "adaptive-float32"),
        ("exact", "exact-float32"),
        ("two-pass", "two-pass-float32"),
        ("adaptive", "adaptive-float32"),
        ("one-pass", "one-pass-float32"),
    ],
)
def test_every_mode_says_which_it_is_and_keeps_the_masks(backbone, head, frames, mode, name):
    explainer = SaliencyExplainer(backbone, section(mode=mode))
    exact = SaliencyExplainer(backbone, section(mode="exact")).explain(frames[0], head, "normal", 3)

    found = explainer.explain(frames[0], head, "normal", 3)

    assert (explainer.mode, found.mode, found.method) == (name, name, "vit-cx")
    assert found.mask_count == exact.mask_count
    assert found.probability == exact.probability
    least = {"one-pass": 0.9, "adaptive": 0.999, "auto": 0.999}.get(mode, 0.999999)
    assert np.corrcoef(found.values.ravel(), exact.values.ravel())[0, 1] > least


def test_bf16_says_so_and_keeps_the_masks(backbone, head, frames, tmp_path):
    from shared.settings import VisionSettings
    from shared.vision.backbone import load_backbone

    backbone.model.save_pretrained(tmp_path / "tiny")
    settings = VisionSettings(backbone=str(tmp_path / "tiny"), input_size_px=48, device="cpu", precision="bf16")
    in_bf16 = replace(load_backbone(settings), id=backbone.id)
    exact = SaliencyExplainer(backbone, section(mode="exact")).explain(frames[0], head, "normal", 3)

    found = SaliencyExplainer(in_bf16, section(mode="two-pass")).explain(frames[0], head, "normal", 3)

    assert found.mode == "two-pass-bf16"
    assert found.mask_count == exact.mask_count
    assert found.probability == exact.probability
    assert 0.99 < np.corrcoef(found.values.ravel(), exact.values.ravel())[0, 1] < 1


@pytest.mark.parametrize("method", ["rollout", "legrad", "rise"])
def test_every_other_method_gives_a_map_of_the_frame(backbone, head, frames, method):
    explainer = SaliencyExplainer(backbone, section(method=method, rise_masks=20))

    found, again = (explainer.explain(frames[0], head, "glioma-like", 3) for _ in range(2))

    assert (explainer.method, found.method) == (method, method)
    assert found.values.shape == (48, 48)
    assert found.values.min() >= 0
    assert found.values.max() > 0
    assert found.mask_count == (20 if method == "rise" else 0)
    assert found.scale == 1.0
    assert np.array_equal(found.values, again.values)


@pytest.mark.parametrize("mode", ["exact", "auto"])
def test_frames_together_give_the_maps_that_they_give_alone(backbone, head, frames, mode):
    explainer = SaliencyExplainer(backbone, section(mode=mode))
    requests = [
        FrameRequest(frame, head, label, frame.number) for frame in frames for label in ("normal", "glioma-like")
    ]

    together = explainer.explain_all(requests)

    for request, found in zip(requests, together, strict=True):
        alone = explainer.explain(request.frame, request.head, request.label, request.seed)
        assert isinstance(found, FrameExplanation)
        assert np.array_equal(found.values, alone.values)
        assert found.parameters == alone.parameters


def test_a_frame_that_cannot_be_explained_leaves_the_others_alone(backbone, head, frames):
    broken = replace(frames[1], pixels=np.full_like(frames[1].pixels, np.nan))
    explainer = SaliencyExplainer(backbone, section())

    outcomes = explainer.explain_all(
        [FrameRequest(frame, head, "normal", 1) for frame in (frames[0], broken, frames[2])]
    )

    assert [isinstance(outcome, NotExplainableError) for outcome in outcomes] == [False, True, False]
    with pytest.raises(NotExplainableError):
        explainer.explain(broken, head, "normal", 1)


def test_a_limit_on_masks_is_kept_and_recorded(backbone, head, frames):
    found = SaliencyExplainer(backbone, section(max_masks=3)).explain(frames[0], head, "normal", 1)

    assert found.mask_count <= 3
    assert found.parameters["max_masks"] == 3


def test_the_scorer_gives_the_head_s_probabilities(backbone, head, frames):
    explainer = SaliencyExplainer(backbone, section())
    x = explainer.model_input(frames[0])

    with torch.inference_mode():
        found = explainer.scorer(head)(x[None])[0, head.labels.index("normal")]

    assert float(found) == pytest.approx(explainer.explain(frames[0], head, "normal", 1).probability, abs=1e-5)


def test_all_forwards_give_the_same_rows_whatever_the_batch(backbone):
    pixels = torch.randn((5, 3, 48, 48), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = hugging_face_rows(backbone, pixels)
        chosen, precision = fastest_forward(backbone)
        for forward in (encoder_forward(backbone), hugging_face_forward(backbone), chosen):
            rows = forward(pixels)
            torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-4)
            assert torch.equal(torch.cat([forward(image[None]) for image in pixels]), rows)
    assert precision == backbone.precision == "float32"


def test_noise_of_a_number_is_the_same_whatever_was_drawn_before():
    shape, cpu = (3, 4, 5), torch.device("cpu")
    first, third = (standard_normal(7, number, shape, cpu) for number in (0, 2))

    assert torch.equal(standard_normal(7, 2, shape, cpu), third)
    assert not torch.equal(first, third)
    assert not torch.equal(standard_normal(8, 0, shape, cpu), first)
    draws = torch.stack([standard_normal(7, number, (3, 64, 64), cpu) for number in range(8)])
    assert abs(float(draws.mean())) < 0.02
    assert abs(float(draws.std()) - 1) < 0.02


def test_what_does_not_change_a_map_does_not_make_it_another_variant(backbone, head):
    def variant(**changes):
        explainer = SaliencyExplainer(backbone, section(**changes))
        return explainer.variant

    assert variant(rise_masks=7) == variant(rise_masks=8)
    assert variant(delta=0.2) != variant(delta=0.1)
    assert variant(method="rise", rise_masks=7) != variant(method="rise", rise_masks=8)
