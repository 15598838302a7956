"""The overlay: the frame in its window, the map over it, and in words what the colours say.

Of ViT-CX is shown N times the map: at each pixel the mean score of the masks that let it through, in units of
the target's probability. Colours begin, transparent, at the frame's mean and span at least
`OverlayStyle.span`: a map that rises less above its mean stays pale, never stretched to full colour. The values of
rollout and LeGrad are no probabilities: there the span is a share of the map's greatest magnitude.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from services.explainer.ports import FrameExplanation, Trust
from shared.events import Faithfulness, Reliability
from shared.pixels.frame import Frame

NOTICE: Final = "Similis - RESEARCH USE ONLY - not for diagnosis"
COLOUR_MAP: Final = "plasma"  # even in lightness, so it reads with colour-vision deficiency too
MAX_OPACITY: Final = 0.7
FLAGGED_STRETCH: Final = 2.0  # the colours of a map that is not reliable end half-way

_MARGIN_PX: Final = 12
_BAR_PX: Final = 24
_SIDE_PX: Final = 132
_MIN_WIDTH_PX: Final = 560
_TEXT_PX: Final = 17
_LINE_PX: Final = 24
_BACKGROUND: Final = (12, 12, 14)
_INK: Final = (235, 235, 235)
_WARNING_INK: Final = (255, 214, 90)
_SCORED: Final = ("vit-cx", "rise")  # methods whose colours are probabilities
_PROBABILITY: Final = "probability"  # as the scale's caption
_LEAST_MAGNITUDE: Final = 1e-12  # of a map that is 0 everywhere

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class OverlayStyle:
    """How overlays look.

    Attributes:
        size_px: Longer side of the frame in the picture.
        span: Least span of the colour scale, above the frame's mean: a probability, or a share of the greatest
            magnitude of a map whose values are none.
    """

    size_px: int = 768
    span: float = 0.05


@dataclass(frozen=True, slots=True)
class Overlay:
    """A finished picture.

    Attributes:
        png: The PNG file.
        scale: `low` (the frame's mean) and `high`, the ends of the colour scale; `frame_min` and `frame_max`,
            the range of N times the map within the frame.
    """

    png: bytes
    scale: dict[str, float]


def draw_overlay(
    frame: Frame,
    explanation: FrameExplanation,
    label: str,
    task: str,
    style: OverlayStyle,
    trust: Trust | None = None,
) -> Overlay:
    """Draw a frame with the map that explains it. A map that is not reliable gets a warning and faint colours."""
    shown = _display_size(frame, style.size_px)
    influence = influence_on_frame(explanation)
    least, low, most = (float(value) for value in (influence.min(), influence.mean(), influence.max()))
    is_probability = explanation.method in _SCORED
    span = style.span if is_probability else style.span * max(abs(least), abs(most), _LEAST_MAGNITUDE)
    flagged = trust is not None and trust.reliability is Reliability.NOT_RELIABLE
    # What random weights reach is not stretched to full colour either.
    high = max(most, low + span, low + (FLAGGED_STRETCH * (most - low) if flagged else 0.0))
    strength = (_resized(influence, shown) - low) / (high - low)
    picture = _blend(_grey_or_rgb(frame, shown), strength)
    scale = {"low": low, "high": high, "frame_min": least, "frame_max": most}
    above = [NOTICE, f"{task}: {label}, probability {explanation.probability:.3f} on this frame"]
    below = [_about(explanation, label, least, most)]
    if most < low + span:
        below.append(f"The map rises by less than {span:.3g} above its mean: it hardly tells places apart.")
    if trust is not None:
        if trust.reliability is not Reliability.CHECKED:
            above.append(f"{'NOT RELIABLE' if flagged else 'RELIABILITY UNKNOWN'}: {trust.reason}")
        if trust.faithfulness is not None:
            below.append(_faithfulness(trust.faithfulness))
    warned = trust is not None and trust.reliability is not Reliability.CHECKED
    caption = _PROBABILITY if is_probability else "own units"
    return Overlay(_png(_page(picture, above, below, scale, caption, warned=warned)), scale)


def _about(explanation: FrameExplanation, label: str, least: float, most: float) -> str:
    if explanation.method in _SCORED:
        return (
            f"{explanation.method}, {explanation.mode}, {explanation.mask_count} masks. Colour: mean score of the "
            f"masks that show a pixel, in units of the probability of {label}, from the frame's mean upwards; in this "
            f"frame {least:.3f} to {most:.3f}."
        )
    return (
        f"{explanation.method}, {explanation.mode}. Colour: its own values, which are no probabilities, from the "
        f"frame's mean upwards; in this frame {least:.3g} to {most:.3g}."
    )


def _faithfulness(measured: Faithfulness) -> str:
    return (
        f"Insertion {measured.insertion_auc:.2f} (random order {measured.random_insertion_auc:.2f}, more is better), "
        f"deletion {measured.deletion_auc:.2f} (random order {measured.random_deletion_auc:.2f}, less is better)."
    )


def influence_on_frame(explanation: FrameExplanation) -> Floats:
    """ViT-CX's map times N, others as they are, cut to the frame: the letterbox's bars are left out."""
    box = explanation.letterbox
    content = explanation.values[box.top : box.top + box.height, box.left : box.left + box.width]
    scaled: Floats = content * np.float32(explanation.scale)
    return scaled


def _display_size(frame: Frame, size_px: int) -> tuple[int, int]:
    """(height, width) with square pixels."""
    height, width = frame.pixels.shape[0] * frame.pixel_aspect, float(frame.pixels.shape[1])
    zoom = size_px / max(height, width)
    return max(1, round(height * zoom)), max(1, round(width * zoom))


def _resized(values: Floats, size: tuple[int, int]) -> Floats:
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR), np.float32)


def _grey_or_rgb(frame: Frame, size: tuple[int, int]) -> Floats:
    """The frame as (H, W, 3) in [0, 1] at the display's size."""
    pixels = frame.pixels if frame.pixels.ndim == 3 else frame.pixels[..., None]
    channels = [_resized(pixels[..., channel], size) for channel in range(pixels.shape[2])]
    return np.stack(channels if len(channels) == 3 else channels * 3, axis=2)


def _blend(base: Floats, strength: Floats) -> Bytes:
    """Colours over `base` (H, W, 3): the stronger, the more opaque."""
    strength = np.clip(strength, 0.0, 1.0)
    colours = mpl.colormaps[COLOUR_MAP](strength)[..., :3].astype(np.float32)
    opacity = MAX_OPACITY * strength[..., None] ** 2  # what stands out shows; what is common stays anatomy
    blended: Bytes = np.rint(255 * np.clip(base * (1 - opacity) + colours * opacity, 0, 1)).astype(np.uint8)
    return blended


def _page(
    picture: Bytes, above: list[str], below: list[str], scale: dict[str, float], caption: str, *, warned: bool = False
) -> Image.Image:
    """The picture with its words around and its scale, which measures `caption`, beside it.

    `warned`: the whole head is a warning.
    """
    height, width = picture.shape[:2]
    page_width = max(width + _SIDE_PX, _MIN_WIDTH_PX) + 2 * _MARGIN_PX
    font = ImageFont.load_default(_TEXT_PX)
    head, foot = (_wrapped(lines, font, page_width - 2 * _MARGIN_PX) for lines in (above, below))
    top = 2 * _MARGIN_PX + _LINE_PX * len(head)
    page = Image.new("RGB", (page_width, top + height + 2 * _MARGIN_PX + _LINE_PX * len(foot)), _BACKGROUND)
    draw = ImageDraw.Draw(page)
    _write(draw, font, head, _MARGIN_PX, first_ink=_WARNING_INK, ink=_WARNING_INK if warned else _INK)
    page.paste(Image.fromarray(picture), (_MARGIN_PX, top))
    _draw_scale(page, draw, font, (width + 2 * _MARGIN_PX, top), height, scale, caption)
    _write(draw, font, foot, top + height + _MARGIN_PX, first_ink=_INK)
    return page


def _draw_scale(
    page: Image.Image,
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    corner: tuple[int, int],
    height: int,
    scale: dict[str, float],
    caption: str,
) -> None:
    """The value scale under its caption, as its colours look over a mid-grey, with five values beside it."""
    left, top = corner
    draw.text((left, top), caption, font=font, fill=_INK)
    top += _LINE_PX
    height = max(height - _LINE_PX, 4 * _LINE_PX)
    strength = np.linspace(1.0, 0.0, height, dtype=np.float32)[:, None].repeat(_BAR_PX, axis=1)
    grey = np.full((height, _BAR_PX, 3), 0.5, np.float32)
    page.paste(Image.fromarray(_blend(grey, strength)), (left, top))
    draw.rectangle((left, top, left + _BAR_PX, top + height - 1), outline=_INK)
    for share in np.linspace(0.0, 1.0, 5):
        y = top + round((1 - share) * (height - 1))
        draw.line((left + _BAR_PX, y, left + _BAR_PX + 5, y), fill=_INK)
        value = scale["low"] + share * (scale["high"] - scale["low"])
        text_y = min(max(y - _TEXT_PX // 2 - 2, top), top + height - _LINE_PX + 2)
        text = f"{value:.3f}" if caption == _PROBABILITY else f"{value:.3g}"
        draw.text((left + _BAR_PX + 10, text_y), text, font=font, fill=_INK)


def _wrapped(lines: list[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    wrapped: list[str] = []
    for line in lines:
        current = ""
        for word in line.split():
            longer = f"{current} {word}".strip()
            if current and font.getlength(longer) > width:
                wrapped.append(current)
                longer = word
            current = longer
        wrapped.append(current)
    return wrapped


def _write(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    lines: list[str],
    top: int,
    *,
    first_ink: tuple[int, int, int],
    ink: tuple[int, int, int] = _INK,
) -> None:
    for number, line in enumerate(lines):
        place = (_MARGIN_PX, top + number * _LINE_PX)
        draw.text(place, line, font=font, fill=first_ink if number == 0 else ink)


def _png(page: Image.Image) -> bytes:
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return buffer.getvalue()
