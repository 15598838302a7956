"""Overlays of up to ten frames on one page, each with the lesion's outline: for a person to look at.

Colours begin, transparent, at the frame's mean, as in the explainer's overlays. The colours of a map that is not
reliable end half-way.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from services.training.explain_evaluation.measured_maps import MeasuredFrame
from shared.saliency.reliability import Verdict
from shared.vision.transform import letterboxed

COLOUR_MAP: Final = "plasma"  # even in lightness, so it reads with colour-vision deficiency too
LEAST_SPAN: Final = 0.05  # of the colours, as a probability
FLAGGED_STRETCH: Final = 2.0
_COLUMNS: Final = 5
_OPACITY: Final = 0.7
_DOTS_PER_INCH: Final = 80


def contact_sheet(frames: Sequence[MeasuredFrame], method: str, judged: Sequence[Verdict], *, title: str) -> bytes:
    """PNG bytes. The same maps always give the same file.

    Args:
        frames: At least one; ten fit well.
        method: Whose maps are drawn.
        judged: Of each frame's map.
        title: Stands above.
    """
    columns = min(_COLUMNS, len(frames))
    rows = -(-len(frames) // columns)
    figure = Figure(figsize=(3.0 * columns, 3.55 * rows + 0.7), dpi=_DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"{title}, phantoms: {method}, in colour; the true lesion, outlined. RESEARCH USE ONLY - not for diagnosis",
        fontsize=9,
    )
    for axes in figure.subplots(rows, columns, squeeze=False).ravel():
        axes.axis("off")
    for axes, frame, one in zip(figure.axes, frames, judged, strict=False):
        _draw(axes, frame, method, one)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw(axes: Any, frame: MeasuredFrame, method: str, judged: Verdict) -> None:
    box, measured = frame.lesion.content, frame.maps[method]
    at = np.s_[box.top : box.top + box.height, box.left : box.left + box.width]
    shown = letterboxed(frame.lesion.frame, frame.lesion.mask.shape[0])[at]
    influence = measured.made.values[at] * np.float32(measured.made.mask_count)
    rise = float(influence.max() - influence.mean())
    span = max(rise * (FLAGGED_STRETCH if judged.is_flagged else 1.0), LEAST_SPAN)
    strength = np.clip((influence - influence.mean()) / span, 0, 1)
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1)
    axes.imshow(strength, cmap=COLOUR_MAP, vmin=0, vmax=1, alpha=_OPACITY * strength**2)
    axes.contour(frame.lesion.mask[at], levels=[0.5], colors="#56b4e9", linewidths=0.9)
    game = measured.faithfulness
    told = "NOT RELIABLE" if judged.is_flagged else f"range {measured.range:.2f}"
    told += ", not compared" if judged.limit is None else ""
    axes.set_title(
        f"{frame.lesion.label}, p {frame.probability:.2f}; {told}\n"
        f"ins {game.insertion:.2f} (chance {game.insertion_by_chance:.2f}), "
        f"del {game.deletion:.2f} ({game.deletion_by_chance:.2f})",
        fontsize=7,
    )
