"""The precision follows what is measured, or what is set."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from small_models import save_small, small_settings

from shared.errors import WeightsError
from shared.pixels.frame import Frame
from shared.vision import precision
from shared.vision.backbone import load_backbone
from shared.vision.compiled import compiled_if_faster
from shared.vision.precision import choose_precision, matmul_gain

CPU = torch.device("cpu")


def test_what_is_set_is_not_measured(monkeypatch):
    monkeypatch.setattr(precision, "matmul_gain", None)
    assert choose_precision("float32", CPU).dtype == torch.float32
    assert choose_precision("bf16", CPU).dtype == torch.bfloat16
    with pytest.raises(WeightsError, match="none of auto, float32, bf16"):
        choose_precision("half", CPU)


@pytest.mark.parametrize(("gain", "name"), [(0.1, "float32"), (1.2, "float32"), (2.0, "bfloat16"), (7.0, "bfloat16")])
def test_bfloat16_is_chosen_where_it_pays(monkeypatch, gain, name):
    monkeypatch.setattr(precision, "matmul_gain", lambda _device: gain)
    chosen = choose_precision("auto", CPU)
    assert chosen.name == name
    assert f"{gain:.1f} times" in chosen.reason


def test_the_gain_of_this_machine_can_be_measured():
    assert matmul_gain(CPU) > 0


def test_the_choice_and_the_speed_are_logged(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="shared.vision.backbone"):
        load_backbone(small_settings(save_small(tmp_path / "net"), precision="auto"))
    (line,) = [record.getMessage() for record in caplog.records if record.name == "shared.vision.backbone"]
    assert "times as fast as float32 here" in line
    assert "frames/s in batches of 3" in line


def test_a_forward_that_cannot_be_compiled_goes_on_plain(monkeypatch, caplog):
    def refuse(*_args, **_kwargs):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", refuse)
    plain = torch.nn.Identity()
    forward, is_compiled = compiled_if_faster(torch.nn.Identity(), plain, torch.zeros(1))
    assert forward is plain
    assert not is_compiled
    assert "cannot be compiled" in caplog.text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler's own imports
def test_a_compiled_backbone_gives_the_same_features(tmp_path):
    folder = save_small(tmp_path / "net", num_hidden_layers=1)
    pictures = [Frame(np.random.default_rng(n).random((30, 50), np.float32), 1) for n in range(5)]
    plain = load_backbone(small_settings(folder)).encode(pictures).joined()
    compiled = load_backbone(small_settings(folder, compile=True)).encode(pictures).joined()
    np.testing.assert_allclose(compiled, plain, atol=1e-4)
