"""Batches in few shapes, and what happens where memory runs out."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from shared.vision.batch_encoder import BatchEncoder, is_out_of_memory

CPU = torch.device("cpu")


class Forward:
    """Sums of frames; as if memory sufficed for `room` frames, and as if small batches rounded otherwise."""

    def __init__(self, room=100, *, rounds_below=0):
        self.room, self.rounds_below = room, rounds_below
        self.shapes = []

    def __call__(self, pixels):
        count = len(pixels)
        self.shapes.append(count)
        if count > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        wrong = 1e-7 if count < self.rounds_below else 0.0
        return pixels.flatten(1).sum(dim=1, keepdim=True, dtype=torch.float64) + wrong


def encoder(forward, batch_size=8, **more):
    return BatchEncoder(forward, size_px=4, batch_size=batch_size, device=CPU, **more)


def frames(count):
    return np.random.default_rng(0).random((count, 1, 4, 4), np.float32)


def sums(pixels):
    return pixels.reshape(len(pixels), -1).sum(axis=1, dtype=np.float64).astype(np.float32)


@pytest.mark.parametrize("count", [1, 3, 8, 9, 17])
def test_every_frame_gets_its_own_features_in_order(count):
    pixels = frames(count)
    np.testing.assert_allclose(encoder(Forward())(pixels)[:, 0], sums(pixels), rtol=1e-6)


def test_only_sizes_that_give_the_same_bits_are_used():
    exact = Forward()
    assert encoder(exact).shapes(1) == (1, 2, 4, 8)

    class Otherwise(Forward):
        def __call__(self, pixels):
            return super().__call__(pixels) + (0.5 if len(pixels) in (1, 4) else 0.0)

    forward = Otherwise()
    ours = encoder(forward)
    assert ours.shapes(1) == (2, 8)
    forward.shapes.clear()
    ours(frames(1))
    ours(frames(3))
    assert forward.shapes == [2, 8]


def test_a_compiled_forward_sees_one_shape():
    forward = Forward()
    encoder(forward, one_shape=True)(frames(11))
    assert set(forward.shapes) == {8}


def test_without_memory_the_batch_is_halved_and_nothing_is_lost(caplog):
    forward = Forward(room=3)
    ours = encoder(forward)
    pixels = frames(13)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(ours(pixels)[:, 0], sums(pixels), rtol=1e-6)
    assert ours.batch_size == 2
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [
        "from now on 4 frames in one forward pass",
        "from now on 2 frames in one forward pass",
    ]
    forward.shapes.clear()
    ours(frames(4))
    assert max(forward.shapes) == 2


def test_memory_for_not_even_one_frame_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        encoder(Forward(room=0))(frames(2))


def test_another_error_is_not_taken_for_missing_memory():
    def broken(_pixels):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        encoder(broken)(frames(2))
    assert not is_out_of_memory(RuntimeError("anything"))


def test_warming_up_tells_frames_a_second():
    assert encoder(Forward()).warm_up() > 0


LIMITED = """
import resource, sys, logging
import numpy as np, torch
from shared.vision.batch_encoder import BatchEncoder
torch.set_num_threads(1)
def forward(pixels):
    # 256 MB a frame
    big = torch.empty((len(pixels), 64_000_000), dtype=torch.float32)
    return pixels.flatten(1).sum(dim=1, keepdim=True)
encoder = BatchEncoder(forward, size_px=4, batch_size=8, device=torch.device("cpu"))
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 700_000_000,) * 2)
found = encoder(np.ones((5, 1, 4, 4), np.float32))
assert (found == 16).all() and found.shape == (5, 1), found
print(encoder.batch_size)
"""


def test_a_real_refusal_of_the_cpu_allocator_halves_the_batch():
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "2"


def test_two_threads_take_turns_batch_by_batch():
    under_way, most = 0, 0
    counting = threading.Lock()

    def forward(pixels):
        nonlocal under_way, most
        with counting:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.005)
        with counting:
            under_way -= 1
        return pixels.flatten(1).sum(dim=1, keepdim=True)

    encode, pixels = encoder(forward, batch_size=2), frames(6)
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(encode, [pixels] * 4))

    assert most == 1
    for result in results:
        np.testing.assert_allclose(result[:, 0], sums(pixels), rtol=1e-6)
