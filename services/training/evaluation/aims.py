"""What the figures of a task are meant to reach, and whether they do: said in words, misses as plainly as hits.

An aim is a goal of this project on phantoms, no proof of use on patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from services.training.evaluation.report import EvaluationReport, SetFigures, StrangeFigures
from shared.vision.familiarity import FALSE_FLAGS

LARGEST_ECE: Final = 0.05
LEAST_AUROC: Final = 0.95  # of the distance, for each kind of image that must be told apart


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a figure reaches its aim; `words` stand in a table's cell.

    Attributes:
        met: None: so few studies cannot tell.
    """

    met: bool | None
    words: str


def calibration_verdict(one: SetFigures) -> Verdict:
    """Whether the calibration error is small enough; not told where chance alone gives as much on so few studies.

    What counts against the head is the lower end of the error's interval, above the aim and above what chance gives.
    """
    chance, interval = one.metrics.ece_if_calibrated, one.metrics.ece_interval
    if one.metrics.ece <= LARGEST_ECE:
        return Verdict(True, "met")
    surely = one.metrics.ece if interval is None else interval.low
    if surely > max(LARGEST_ECE, chance or 0.0):
        return Verdict(False, "**missed**")
    return Verdict(None, "not met, but too few studies to tell")


def strange_verdict(kind: StrangeFigures) -> Verdict:
    """Whether a kind of strange image is told apart from the task's own."""
    if not kind.is_required:
        return Verdict(None, "no aim")
    return Verdict(True, "met") if kind.auroc >= LEAST_AUROC else Verdict(False, "**missed**")


def false_flag_verdict(one: SetFigures) -> Verdict:
    """Whether no more studies of the task's own kind are called out of distribution than the limit was set for."""
    if one.flagged is None:
        return Verdict(None, "not measured")
    if one.flagged.value <= FALSE_FLAGS:
        return Verdict(True, "met")
    if one.flagged.low <= FALSE_FLAGS:
        return Verdict(None, "too few studies to tell")
    return Verdict(False, "**missed**")


def misses(report: EvaluationReport) -> list[str]:
    """Each aim that the task misses, in words; empty: none."""
    found = [
        f"ECE {one.metrics.ece:.3f} on *{one.title}*" + _chance(one)
        for one in report.sets
        if calibration_verdict(one).met is False
    ]
    found += [
        f"{kind.kind} not told apart (AUROC {kind.auroc:.3f})"
        for kind in report.strange
        if strange_verdict(kind).met is False
    ]
    found += [
        f"{100 * one.flagged.value:.0f} % of *{one.title}* called out of distribution"
        for one in report.sets
        if one.flagged is not None and false_flag_verdict(one).met is False
    ]
    return found


def _chance(one: SetFigures) -> str:
    chance = one.metrics.ece_if_calibrated
    return "" if chance is None else f" (a calibrated head would show {chance:.3f})"
