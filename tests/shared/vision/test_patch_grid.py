"""Where patches lie on a frame, and which of them are background."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.pixels.frame import Frame
from shared.vector_index.port import Region
from shared.vision.patch_grid import PatchGrid
from shared.vision.transform import Letterbox, letterboxed

SIDES = st.integers(1, 300)
SHARE = st.floats(0, 1)


def grey(pixels: np.ndarray) -> Frame:
    return Frame(pixels.astype(np.float32), 1)


def shown(frame: Frame) -> tuple[PatchGrid, np.ndarray]:
    grid = PatchGrid.of(frame, patches=64, size_px=64)
    return grid, np.flatnonzero(grid.foreground(letterboxed(frame, 64)))


def test_letterbox_and_dark_even_patches_are_background():
    pixels = np.zeros((32, 64))
    pixels[8:16, 16:24] = 0.8
    grid, found = shown(grey(pixels))
    # Content 64 x 32 lies 16 below the top: rows 2 to 5 of 8.
    assert grid.inside().reshape(8, 8).all(axis=1).tolist() == [False, False, True, True, True, True, False, False]
    assert found.tolist() == [3 * 8 + 2]


def test_the_noise_around_a_head_is_background_and_a_faint_edge_is_not():
    pixels = np.abs(np.random.default_rng(0).normal(0.03, 0.02, (64, 64)))
    pixels[8:16, 16:20] += 0.15
    assert shown(grey(pixels))[1].tolist() == [1 * 8 + 2]


def test_a_dark_coloured_patch_is_background_and_a_strong_colour_is_not():
    pixels = np.full((64, 64, 3), 0.02)
    pixels[:8, :8, 2] = 0.6
    assert shown(grey(pixels))[1].tolist() == [0]


@settings(deadline=None)
@given(height=SIDES, width=SIDES, side=st.integers(1, 24), x=SHARE, y=SHARE, w=SHARE, h=SHARE)
def test_any_region_has_a_patch_on_the_frame_and_no_patch_beyond_its_box(height, width, side, x, y, w, h):
    grid = PatchGrid.of(grey(np.zeros((height, width))), patches=side * side, size_px=side * 14)
    region = Region(left=min(x, 0.99), top=min(y, 0.99), width=max(w * (1 - x), 0.01), height=max(h * (1 - y), 0.01))
    cells = grid.within(region)
    assert cells.size
    centres = grid.centres()[cells]
    if cells.size > 1:
        assert (centres >= [region.left, region.top]).all()
        assert (centres <= [region.left + region.width, region.top + region.height]).all()
    if grid.inside().any():
        assert grid.inside()[cells].all()
        box = grid.box(cells)
        assert (centres >= np.array([box.left, box.top]) - 1e-9).all()
        assert (centres <= np.array([box.left + box.width, box.top + box.height]) + 1e-9).all()


@pytest.mark.parametrize(("patches", "size_px"), [(63, 64), (0, 64), (49, 64)])
def test_patches_that_are_no_square_of_whole_pixels_are_refused(patches, size_px):
    with pytest.raises(ValueError, match="no "):
        PatchGrid.of(grey(np.zeros((4, 4))), patches=patches, size_px=size_px)


@pytest.mark.parametrize("edges", [(-1, 0, 4, 4), (0, 0, 0, 4), (0, 2, 4, 27)])
def test_content_beyond_the_square_is_refused(edges):
    with pytest.raises(ValueError, match="28 px"):
        Letterbox(*edges).checked(28)
