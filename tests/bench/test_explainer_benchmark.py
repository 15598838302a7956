"""The explainer's benchmark: the published procedure is the algorithm, and the tables tell what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from bench.explainer import agreement, report
from bench.explainer.published import published_vit_cx
from bench.explainer.results import PUBLISHED, Results
from shared.saliency.forwards import ExplainedModel
from shared.saliency.heads import scorer
from shared.saliency.maps import Request
from shared.saliency.masked_queue import run_masked
from shared.saliency.vit_cx import Parameters, ViTCX

KEPT = Path(__file__).resolve().parents[2] / "bench" / "results"


class Head:
    def __init__(self, width: int) -> None:
        self._weight = 0.2 * torch.randn(width, 3, generator=torch.Generator().manual_seed(5))

    def logits(self, rows):
        return rows @ self._weight

    def __call__(self, rows):
        return torch.softmax(self.logits(rows), dim=1)


def test_without_noise_the_published_procedure_gives_the_same_masks_and_map():
    torch.manual_seed(3)
    model = Dinov2Model(
        Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, patch_size=8, image_size=48)
    ).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=0.15)
    model.requires_grad_(False)
    coarse = torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(7))
    x = torch.nn.functional.interpolate(coarse, size=(48, 48), mode="bicubic")[0]
    explained = ExplainedModel(
        model, clean=lambda pixels: model(pixels).last_hidden_state[:, 0], read=lambda tokens: tokens[:, 0]
    )
    head = Head(32)

    published, masks, _ = published_vit_cx(model, scorer(explained.clean, head), x, seed=1, noise_std=0.0)
    starts = iter([lambda: ViTCX(explained, Request(x, head, 1), Parameters(noise_std=0.0))])
    (ours,) = run_masked(lambda: next(starts, None), explained.clean, batch_size=8)

    assert masks == ours.mask_count > 1
    assert np.abs(published - ours.values).max() <= 1e-4 * np.ptp(published)


def test_the_kept_speed_results_can_be_read_and_shown(tmp_path):
    results = Results.model_validate_json((KEPT / "explainer.json").read_text())

    table = report.markdown(results)

    for model in results.plan.models:
        assert f"| {model}, {PUBLISHED} |" in table
        assert report.ratios(results, model, PUBLISHED) == [1.0] * results.plan.images[model]
    report.draw(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_the_default_mode_keeps_to_its_promise_on_the_kept_phantoms():
    from shared.saliency.modes import AUTO

    kept = agreement.Agreement.model_validate_json((KEPT / "explainer-agreement.json").read_text())
    pairs = [(frame, one) for frame in kept.frames for one in frame.modes if one.mode == f"{AUTO}-{kept.precision}"]

    assert len({frame.task for frame, _ in pairs}) == 4
    assert len(pairs) == len(kept.frames)
    assert min(one.pearson for _, one in pairs) >= 0.999
    assert all(one.masks == frame.masks for frame, one in pairs)
    assert "| all |" in agreement.markdown(kept)


@pytest.mark.parametrize("name", ["explainer.json", "explainer-agreement.json"])
def test_no_path_of_a_machine_is_kept(name):
    assert not any(text.startswith("/") for text in _strings(json.loads((KEPT / name).read_text())))


def _strings(value):
    if isinstance(value, dict):
        value = [*value.values()]
    return (
        [text for one in value for text in _strings(one)]
        if isinstance(value, list)
        else [value] * isinstance(value, str)
    )
