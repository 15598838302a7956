"""The overlay: the map lies where it belongs, a flat one stays pale, and the words are there."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from services.explainer import overlay
from services.explainer.overlay import OverlayStyle, draw_overlay, influence_on_frame
from services.explainer.ports import FrameExplanation
from shared.pixels.frame import Frame
from shared.vision.transform import letterbox_box

SIZE = 56
MASKS = 10


def explanation(
    influence: np.ndarray, height: int, width: int, aspect: float = 1.0, method: str = "vit-cx"
) -> FrameExplanation:
    masks = MASKS if method == "vit-cx" else 0
    return FrameExplanation(
        values=(influence / (masks or 1)).astype(np.float32),
        mask_count=masks,
        probability=0.8125,
        letterbox=letterbox_box(height, width, aspect, SIZE),
        parameters={},
        method=method,
        mode="exact-float32",
        forwards=2 * MASKS + 1,
    )


def picture_of(drawn: overlay.Overlay, frame: Frame, style: OverlayStyle) -> np.ndarray:
    """The frame's part of the page, found by its known layout."""
    page = np.asarray(Image.open(io.BytesIO(drawn.png)).convert("RGB"), np.int32)
    height, width = overlay._display_size(frame, style.size_px)
    top = 2 * overlay._MARGIN_PX + 2 * overlay._LINE_PX
    return page[top : top + height, overlay._MARGIN_PX : overlay._MARGIN_PX + width]


def colourfulness(picture: np.ndarray) -> np.ndarray:
    return picture.max(axis=2) - picture.min(axis=2)


@pytest.mark.parametrize(
    ("height", "width", "aspect"), [(100, 100, 1.0), (60, 120, 1.0), (150, 50, 1.0), (40, 60, 3.0)]
)
def test_a_hot_spot_lies_on_its_source_pixels(height, width, aspect):
    frame = Frame(np.full((height, width), 0.4, np.float32), 1, aspect)
    box = letterbox_box(height, width, aspect, SIZE)
    row, column = 0.25, 0.7  # of the frame
    influence = np.zeros((SIZE, SIZE))
    influence[round(box.top + row * box.height), round(box.left + column * box.width)] = 0.9
    style = OverlayStyle(size_px=400)

    drawn = draw_overlay(frame, explanation(influence, height, width, aspect), "glioma-like", "brain-mr", style)

    picture = picture_of(drawn, frame, style)
    y, x = np.unravel_index(colourfulness(picture).argmax(), picture.shape[:2])
    assert y / picture.shape[0] == pytest.approx(row, abs=1.5 / box.height)
    assert x / picture.shape[1] == pytest.approx(column, abs=1.5 / box.width)


def test_what_lies_on_the_letterbox_bars_does_not_count():
    influence = np.full((SIZE, SIZE), 0.3)
    influence[0] = 99.0

    cut = influence_on_frame(explanation(influence, 50, 100))

    assert cut.shape == (SIZE // 2, SIZE)
    assert cut.max() == pytest.approx(0.3)


def test_a_flat_map_is_not_stretched_to_full_colour():
    frame = Frame(np.full((64, 64), 0.5, np.float32), 1)
    style = OverlayStyle(size_px=256, span=0.1)
    ramp = np.linspace(0, 1, SIZE)[None].repeat(SIZE, axis=0)

    strong = draw_overlay(frame, explanation(0.4 + 0.3 * ramp, 64, 64), "a", "t", style)
    flat = draw_overlay(frame, explanation(0.4 + 0.005 * ramp, 64, 64), "a", "t", style)

    assert colourfulness(picture_of(strong, frame, style)).max() > 80
    assert colourfulness(picture_of(flat, frame, style)).max() < 10
    assert flat.scale["high"] - flat.scale["low"] == pytest.approx(0.1)
    assert flat.scale["frame_max"] - flat.scale["frame_min"] == pytest.approx(0.005, abs=1e-5)
    assert strong.scale["high"] == pytest.approx(0.7, abs=1e-5)
    assert strong.scale["low"] == pytest.approx(0.55, abs=1e-5)


@pytest.mark.parametrize("size", [1e-4, 1.0, 300.0])
def test_values_that_are_no_probabilities_are_coloured_by_their_own_range(size):
    frame = Frame(np.full((64, 64), 0.5, np.float32), 1)
    style = OverlayStyle(size_px=256, span=0.1)
    ramp = np.linspace(0, 1, SIZE)[None].repeat(SIZE, axis=0)

    strong = draw_overlay(frame, explanation(size * ramp, 64, 64, method="rollout"), "a", "t", style)
    flat = draw_overlay(frame, explanation(size * (1 + 0.005 * ramp), 64, 64, method="rollout"), "a", "t", style)

    assert strong.scale["high"] == pytest.approx(size)
    assert colourfulness(picture_of(strong, frame, style)).max() > 80
    assert flat.scale["high"] - flat.scale["low"] == pytest.approx(0.1 * 1.005 * size, rel=1e-3)
    assert colourfulness(picture_of(flat, frame, style)).max() < 10


def test_a_map_of_zeros_is_drawn_without_colour():
    frame, style = Frame(np.full((64, 64), 0.5, np.float32), 1), OverlayStyle(size_px=256)
    for method in ("legrad", "vit-cx"):
        drawn = draw_overlay(frame, explanation(np.zeros((SIZE, SIZE)), 64, 64, method=method), "a", "t", style)
        assert colourfulness(picture_of(drawn, frame, style)).max() == 0


def test_the_words_say_research_use_only_label_probability_and_range(monkeypatch):
    written: list[str] = []
    wrapped = overlay._wrapped

    def listening(lines, font, width):
        written.extend(lines)
        return wrapped(lines, font, width)

    monkeypatch.setattr(overlay, "_wrapped", listening)
    frame = Frame(np.zeros((64, 64), np.float32), 1)
    flat = explanation(np.linspace(0.2, 0.22, SIZE)[None].repeat(SIZE, axis=0), 64, 64)

    draw_overlay(frame, flat, "glioma-like", "brain-mr", OverlayStyle())

    text = "\n".join(written)
    for part in ("RESEARCH USE ONLY", "brain-mr: glioma-like", "0.812", "0.200 to 0.220", "10 masks", "less than 0.05"):
        assert part in text


def test_colour_frames_keep_their_colours():
    pixels = np.zeros((64, 64, 3), np.float32)
    pixels[..., 0] = 1.0
    frame, style = Frame(pixels, 1), OverlayStyle(size_px=256)

    drawn = draw_overlay(frame, explanation(np.zeros((SIZE, SIZE)), 64, 64), "a", "t", style)

    assert (picture_of(drawn, frame, style)[128, 128] == (255, 0, 0)).all()


@pytest.mark.parametrize("shape", [(2000, 3), (3, 2000), (1, 1)])
def test_extreme_frames_are_drawn(shape):
    frame = Frame(np.full(shape, 0.5, np.float32), 1)

    drawn = draw_overlay(frame, explanation(np.zeros((SIZE, SIZE)), *shape), "label " * 30, "t", OverlayStyle())

    page = Image.open(io.BytesIO(drawn.png))
    assert max(page.size) < 1500
