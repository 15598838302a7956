"""An evaluation of maps as a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.training.explain_evaluation.infidelity import SQUARES
from services.training.explain_evaluation.localisation import FIGURES as PLACES
from services.training.explain_evaluation.report import FIGURES, LOWER_IS_BETTER, ExplainReport, figure_name
from services.training.measures.bootstrap import Estimate

FEW_PATIENTS: Final = 10
_FEW: Final = (
    f"**Fewer than {FEW_PATIENTS} patients**: the intervals are too narrow, and nothing below says more than that the "
    "measurement works."
)


def explain_markdown(report: ExplainReport, *, figure: str | None = None) -> str:
    """The page; `figure` is the name of the picture beside it."""
    first = report.methods[0].method
    parts = [
        f"# Explanations of {report.title}",
        report.notice,
        f"{report.frames} frames of {report.patients} virtual patients, one for each study: the one that shows most of "
        f"its lesion. {report.left_out} more were left out, since the head does not give them their true class. Median "
        f"share of a frame that is lesion: {report.area:.2%}. Head `{report.head_id}`, ViT-CX run as "
        f"`{report.mode}`. Intervals are 95 %, by bootstrap over patients ({report.bootstraps:,} draws).",
        *([_FEW] if report.patients < FEW_PATIENTS else []),
        *([f"![Figures of all methods]({figure})"] if figure else []),
        "## Figures",
        table(report),
        "\n".join(
            [
                *(f"- **{figure_name(figure)}**: {told}." for figure, told in PLACES.items()),
                "- **insertion, deletion**: area under the probability as pixels come into a blurred frame, or go from "
                "the frame, in the map's order; beside them stands what random orders give.",
                f"- **infidelity** (after Yeh et al. 2019): {SQUARES} squares, a fifth of the frame's shorter side, "
                "are removed one at a time; share of the variance of what that does to the probability that the "
                "map's sum over the square, at the best scale and offset, does not tell. 0: it tells all; 1: nothing.",
                "- **seed stability**: correlation of two maps of the same frame that differ by their seed.",
                "- **passes**: images through the model for one map.",
            ]
        ),
        f"Mean probability of the true class: {report.ends['p_original']:.3f} as the frames are, "
        f"{report.ends['p_blurred']:.3f} blurred, {report.ends['p_filled']:.3f} filled.",
        f"## Where {first} is not the best",
        _better(report, first),
        "## Beside random weights",
        _beside_random(report),
        f"Made by `{report.command}`.",
    ]
    return "\n\n".join(parts) + "\n"


def table(report: ExplainReport) -> str:
    """Methods down, figures across."""
    rows = [_row(["method", *map(_title, FIGURES), "passes"]), _row(["---"] * (len(FIGURES) + 2))]
    for method in report.methods:
        cells = [_cell(method.figures[figure]) for figure in FIGURES]
        rows.append(_row([method.method, *cells, f"{method.forwards:g}"]))
    chance = [_cell(report.chance.get(figure)) for figure in FIGURES]
    return "\n".join([*rows, _row(["random orders", *chance, "-"])])


def _better(report: ExplainReport, first: str) -> str:
    if not report.better:
        return f"{first} has the best mean of all figures on these frames."
    return "\n".join(
        f"- {figure_name(one.figure)}: {one.method} is better by {one.by}"
        + ("." if one.is_clear else "; the interval holds 0, so this may be chance.")
        for one in report.better
    )


def _beside_random(report: ExplainReport) -> str:
    found = report.beside_random
    leads, ranges = found.leads, found.ranges
    told = (
        f"The maps of {report.methods[0].method} lead chance by {leads[0]:.2f} to {leads[-1]:.2f}, "
        f"{leads[len(leads) // 2]:.2f} in the middle (insertion above that of random orders plus deletion below "
        f"theirs), and span {ranges[0]:.3f} to {ranges[-1]:.3f} in probability. "
    )
    if found.limit is None:
        return told + f"Whether that is more than random weights give is unknown: {found.reference}."
    counts = ", ".join(f"{count} {status.replace('-', ' ')}" for status, count in sorted(found.statuses.items()))
    return told + f"A map must lead by more than {found.limit:.3f}, {found.reference}: {counts}."


def _title(figure: str) -> str:
    return f"{figure_name(figure)} ↓" if figure in LOWER_IS_BETTER else f"{figure_name(figure)} ↑"


def _cell(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.value:.3f} ({estimate.low:.2f} to {estimate.high:.2f})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
