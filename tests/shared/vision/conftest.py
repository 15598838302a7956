"""Backbones to test with."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_models import save_small, small_settings

from shared.settings import VisionSettings
from shared.vision.backbone import Backbone, load_backbone


@pytest.fixture(params=[False, True], ids=["plain", "registers"])
def small_backbone(tmp_path: Path, request: pytest.FixtureRequest) -> Backbone:
    return load_backbone(small_settings(save_small(tmp_path / "small", registers=request.param)))


@pytest.fixture(scope="session")
def default_settings() -> VisionSettings:
    """The default backbone, converted into the user's cache as in use."""
    return VisionSettings(device="cpu", batch_size=4, precision="float32")


@pytest.fixture(scope="session")
def default_backbone(default_settings: VisionSettings) -> Backbone:
    return load_backbone(default_settings)
