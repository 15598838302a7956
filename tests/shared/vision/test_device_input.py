"""What the device prepares is what the CPU prepares."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shared.pixels.frame import Frame
from shared.vision.device_input import DeviceInput
from shared.vision.transform import letterboxed


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("shape", "aspect"), [((64, 64), 1.0), ((90, 40), 1.0), ((30, 80), 1.5), ((20, 20), 0.4)])
def test_it_is_the_cpu_transform_to_rounding(dtype, shape, aspect):
    stored = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (3, *shape), endpoint=True).astype(dtype)
    top = float(np.iinfo(dtype).max)
    windows = [(0.0, top), (0.2 * top, 0.7 * top), (10.0, 200.0)]
    found = DeviceInput(torch.device("cpu"), 56)(stored, windows, aspect).numpy()
    assert found.shape == (3, 1, 56, 56)
    for square, values, (low, high) in zip(found[:, 0], stored, windows, strict=True):
        shown = np.clip((values.astype(np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
        assert np.abs(square - letterboxed(Frame(shown, 1, aspect), 56)).max() < 2e-6
