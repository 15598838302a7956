"""Who needs no model must not pay for torch."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["transform", "heads", "aggregate", "tasks", "features", "weights", "img_focus"])
def test_only_the_backbone_needs_torch(module):
    code = f"import shared.vision.{module}, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
