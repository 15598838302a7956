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


@pytest.mark.parametrize(("tokens", "is_batched"), [(257, True), (5000, False)])
def test_in_bfloat16_the_rule_is_fixed_so_that_services_do_not_differ(monkeypatch, tokens, is_batched):
    seen = timed(monkeypatch, lambda way: 1.0)
    found = fastest_ways(None, torch.bfloat16, CPU, tokens=tokens, batch_size=2)
    assert found == BlockWays(can_pack(torch.bfloat16), has_batched_attention=is_batched)
    assert not seen


@pytest.mark.skipif(not can_pack(torch.float32), reason="this torch has no packed layers")
@pytest.mark.parametrize(("gain", "is_taken"), [(1.01, False), (1.2, True)])
def test_in_float32_packed_layers_are_taken_for_a_clear_gain_only(tmp_path, monkeypatch, gain, is_taken):
    wanted = BlockWays(has_packed_layers=True)
    timed(monkeypatch, lambda way: 1.0 / gain if way == wanted else 1.0)
    checkpoint = read_checkpoint(save_small(tmp_path / "net"))
    found = fastest_ways(checkpoint, torch.float32, CPU, tokens=5, batch_size=2)
    assert found == (wanted if is_taken else PLAIN)


def test_a_gpu_is_not_timed():
    assert fastest_ways(None, torch.bfloat16, torch.device("cuda"), tokens=5, batch_size=2) == PLAIN


def test_every_way_runs_on_a_real_block(tmp_path):
    found = fastest_ways(read_checkpoint(save_small(tmp_path / "net")), torch.float32, CPU, tokens=5, batch_size=2)
    assert found.has_packed_layers <= can_pack(torch.float32)


def timed(monkeypatch, seconds):
    seen = []

    def measured(blocks, _x):
        seen.extend(blocks)
        return {way: seconds(way) for way in blocks}

    monkeypatch.setattr(block_ways, "_seconds", measured)
    return seen
