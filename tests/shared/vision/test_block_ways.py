"""The kernels of the blocks are chosen by their speed, and only for a clear gain."""

from __future__ import annotations

import pytest
import torch
from small_models import save_small

from shared.vision import block_ways
from shared.vision.block_ways import fastest_ways
from shared.vision.checkpoint import read_checkpoint
from shared.vision.fast_forward import PLAIN, BlockWays, batched_attention
from shared.vision.packed_linear import can_pack

CPU = torch.device("cpu")


def test_batched_attention_is_the_fused_one_to_rounding():
    query, key, value = torch.randn((3, 2, 4, 9, 8), generator=torch.Generator().manual_seed(0))
    fused = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=1.0)
    torch.testing.assert_close(batched_attention(query, key, value), fused)


@pytest.mark.parametrize(("dtype", "tokens"), [(torch.float32, 5), (torch.bfloat16, 5000)])
def test_attention_stays_fused_in_float32_and_for_large_images(tmp_path, dtype, tokens, monkeypatch):
    seen = timed(monkeypatch, lambda way: 1.0)
    fastest_ways(read_checkpoint(save_small(tmp_path / "net")), dtype, CPU, tokens=tokens, batch_size=2)
    assert not any(way.has_batched_attention for way in seen)


@pytest.mark.parametrize(("gain", "is_taken"), [(1.01, False), (1.2, True)])
def test_another_way_is_taken_for_a_clear_gain_only(tmp_path, monkeypatch, gain, is_taken):
    wanted = BlockWays(has_batched_attention=True)
    timed(monkeypatch, lambda way: 1.0 / gain if way == wanted else 1.0)
    checkpoint = read_checkpoint(save_small(tmp_path / "net"))
    found = fastest_ways(checkpoint, torch.bfloat16, CPU, tokens=5, batch_size=2)
    assert found == (wanted if is_taken else PLAIN)


def test_a_gpu_is_not_timed():
    assert fastest_ways(None, torch.bfloat16, torch.device("cuda"), tokens=5, batch_size=2) == PLAIN


def test_every_way_runs_on_a_real_block(tmp_path):
    found = fastest_ways(read_checkpoint(save_small(tmp_path / "net")), torch.bfloat16, CPU, tokens=5, batch_size=2)
    assert found.has_packed_layers <= can_pack(torch.bfloat16)


def timed(monkeypatch, seconds):
    seen = []

    def measured(blocks, _x):
        seen.extend(blocks)
        return {way: seconds(way) for way in blocks}

    monkeypatch.setattr(block_ways, "_seconds", measured)
    return seen
