from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from small_models import save_small, small_settings

from shared.vision.backbone import Backbone, load_backbone


def inputs(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3, 28, 28)).astype(np.float32)


def test_patches_are_the_model_s_own_after_two_thirds_of_its_blocks(small_backbone: Backbone) -> None:
    pixels = inputs()
    patches = small_backbone.encode_inputs(pixels).patches
    assert patches is not None
    assert patches.shape == (4, 4, 32)
    with torch.inference_mode():
        output = small_backbone.model(pixel_values=torch.from_numpy(pixels), output_hidden_states=True)
        expected = small_backbone.model.layernorm(output.hidden_states[1])[:, small_backbone.prefix_tokens :]
        kept = small_backbone.forward_with_patches(torch.from_numpy(pixels))[2]
    np.testing.assert_array_equal(kept, expected)
    np.testing.assert_allclose(patches, expected, atol=2e-5)


def test_keeping_patches_changes_no_other_feature(tmp_path: Path) -> None:
    settings = small_settings(save_small(tmp_path / "small"))
    without, with_patches = (
        load_backbone(settings, keep_patches=keep).encode_inputs(inputs()) for keep in (False, True)
    )
    assert without.patches is None
    np.testing.assert_array_equal(without.joined(), with_patches.joined())


def test_no_frame_has_no_patches(small_backbone: Backbone) -> None:
    patches = small_backbone.encode([]).patches
    assert patches is not None
    assert patches.shape == (0, 4, 32)
