"""Who needs no model must not pay for torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
from small_models import save_small


@pytest.mark.parametrize(
    "module", ["transform", "heads", "aggregate", "tasks", "features", "weights", "img_focus", "resample"]
)
def test_only_the_backbone_needs_torch(module):
    code = f"import shared.vision.{module}, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_encoding_needs_no_transformers(tmp_path):
    """Their import alone costs seconds of every start; the explainer pays them when it asks for the model."""
    folder = save_small(tmp_path / "net")
    code = (
        "import sys; from shared.settings import VisionSettings; from shared.vision.backbone import load_backbone; "
        f"load_backbone(VisionSettings(backbone={str(folder)!r}, input_size_px=28, device='cpu')).encode([]); "
        "sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
