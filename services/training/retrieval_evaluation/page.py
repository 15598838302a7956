"""P@k of both spaces, a panel for each task. The same numbers always give the same file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from services.training.retrieval_evaluation.figures import DEPTHS
from shared.vision.retrieval_report import VISUAL, RetrievalReport

# Okabe and Ito's blue and vermilion, told apart by most colour-blind people.
_COLOURS: Final = ("#0072b2", "#d55e00")
_DOTS_PER_INCH: Final = 80


def retrieval_page(reports: Sequence[RetrievalReport]) -> bytes:
    """PNG bytes: macro P@k of the headline protocol with 95 % intervals, and chance."""
    figure = Figure(figsize=(3.1 * len(reports), 3.4), dpi=_DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(reports), squeeze=False, sharey=True)[0]
    for axes, report in zip(panels, reports, strict=True):
        for shift, (space, colour) in enumerate(zip((report.task, VISUAL), _COLOURS, strict=True)):
            macro = [report.spaces[space].p_at[str(k)].macro for k in DEPTHS]
            at = [place + (shift - 0.5) * 0.12 for place in range(len(DEPTHS))]
            values = [one.value for one in macro]
            # A bootstrap's interval may leave out the value itself by a hair.
            below = [max(0.0, one.value - one.low) for one in macro]
            above = [max(0.0, one.high - one.value) for one in macro]
            name = "visual (raw class token)" if space == VISUAL else "task's own"
            axes.errorbar(
                at, values, yerr=(below, above), color=colour, marker="o", markersize=4, capsize=3, linewidth=1.3,
                label=name,
            )  # fmt: skip
        chance = report.spaces[VISUAL].headline.chance.p_at
        axes.axhline(chance, color="#999999", linewidth=0.9, linestyle="--", label="by chance")
        axes.set_xticks(range(len(DEPTHS)), [f"P@{k}" for k in DEPTHS])
        axes.set(title=report.task, ylim=(0, 1.02))
    panels[0].set_ylabel("share of the query's class")
    panels[0].legend(loc="upper left", frameon=False, fontsize=8)
    words = "phantom results" if any(one.phantom for one in reports) else "results on labelled images"
    headlines = dict.fromkeys(one.headline for one in reports)
    figure.suptitle(f"{'; '.join(headlines)}\nResearch use only, {words}", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
