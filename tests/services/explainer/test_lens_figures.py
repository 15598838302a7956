from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from shared.saliency.forwards import encoder_forward, hugging_face_rows
from shared.saliency.heads import TorchHead, lens_figures
from shared.vision.patch_lens import PatchLens


def random_lens(dim: int) -> PatchLens:
    rng = np.random.default_rng(2)
    return PatchLens(rng.normal(size=(3, dim)).astype(np.float32), rng.normal(size=3).astype(np.float32))


def test_torch_gives_the_lens_s_own_figures() -> None:
    patches = np.random.default_rng(3).normal(size=(4, 36, 32)).astype(np.float32)
    lens = random_lens(32)
    np.testing.assert_allclose(lens_figures(lens, torch.from_numpy(patches)).numpy(), lens(patches), atol=1e-5)


def test_the_torch_scorer_equals_a_head_with_a_lens(backbone, head):
    lens = random_lens(backbone.dim)
    more = np.random.default_rng(4).normal(size=(len(head.labels), lens.columns)).astype(np.float32)
    with_lens = replace(
        head,
        lens=lens,
        weight=np.concatenate([head.weight, 0.1 * more], axis=1),
        feature_mean=np.append(head.feature_mean, np.ones(lens.columns)).astype(np.float32),
        feature_scale=np.append(head.feature_scale, np.ones(lens.columns)).astype(np.float32),
    )
    pixels = np.random.default_rng(1).normal(size=(5, 3, 48, 48)).astype(np.float32)

    with torch.inference_mode():
        rows = hugging_face_rows(backbone, torch.from_numpy(pixels))
        ours = TorchHead(with_lens, backbone.device)(rows).numpy()

    features = backbone.encode_inputs(pixels)
    expected = with_lens.probabilities(with_lens.logits(with_lens.read(features)))
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert not np.allclose(ours, head.probabilities(head.logits(features.joined())), atol=1e-3)


def test_torch_gives_a_plain_head_s_own_probabilities(backbone, head):
    pixels = np.random.default_rng(1).normal(size=(5, 3, 48, 48)).astype(np.float32)
    expected = head.probabilities(head.logits(backbone.encode_inputs(pixels).joined()))

    with torch.inference_mode():
        for rows in (
            hugging_face_rows(backbone, torch.from_numpy(pixels)),
            encoder_forward(backbone)(torch.from_numpy(pixels)),
        ):
            np.testing.assert_allclose(TorchHead(head, backbone.device)(rows).numpy(), expected, atol=1e-5)
