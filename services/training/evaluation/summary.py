"""Several tasks' reports side by side, as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from services.training.evaluation.aims import LARGEST_ECE, LEAST_AUROC, calibration_verdict, misses
from services.training.evaluation.markdown import table
from services.training.evaluation.report import EvaluationReport, StrangeFigures


def summary(reports: Sequence[EvaluationReport], heading: str = "##") -> list[str]:
    """Accuracy, calibration and strange images of all tasks, and which aims are missed."""
    return [
        f"{heading} All tasks",
        "",
        "Phantom results, with 95 % intervals over patients. *Chance* is of accuracy; of AUROC it is 0.500. *Flagged*: "
        "called out of distribution, though of the task's own kind; such a study gets no finding, but counts in the "
        "other columns all the same.",
        "",
        *_accuracy(reports),
        "",
        f"{heading}# Calibration of all tasks",
        "",
        "*By chance*: the ECE that a perfectly calibrated head shows on as many studies.",
        "",
        *_calibration(reports),
        "",
        *_strange(reports, heading),
        f"{heading}# Aims that are missed",
        "",
        f"The aims: ECE at most {LARGEST_ECE:g} on every set; AUROC of the out-of-distribution distance at least "
        f"{LEAST_AUROC:g} for every kind of image that must be told apart; no more false flags than the limit was set "
        "for. Half the contrast and sources never seen count too. An ECE that is above the aim, but no more than "
        "chance may give on so few studies, stands in the table above and not here; the model cards have more studies.",
        "",
        *(f"- {report.task}: {'; '.join(misses(report)) or 'none'}." for report in reports),
        "",
    ]


def _accuracy(reports: Sequence[EvaluationReport]) -> list[str]:
    header = ("task", "set", "studies", "chance", "accuracy", "balanced accuracy", "macro F1", "macro AUROC", "flagged")
    rows = [
        (
            report.task,
            one.title,
            one.metrics.n,
            f"{1 / len(report.labels):.3f}",
            one.metrics.accuracy,
            one.metrics.balanced_accuracy,
            one.metrics.f1_macro or "-",
            one.metrics.auroc_macro or "-",
            "-" if one.flagged is None else f"{100 * one.flagged.value:.0f} %",
        )
        for report in reports
        for one in report.sets
    ]
    return table(header, rows)


def _calibration(reports: Sequence[EvaluationReport]) -> list[str]:
    header = ("task", "set", "studies", "ECE", "by chance", f"at most {LARGEST_ECE:g}")
    rows = [
        (
            report.task,
            one.title,
            one.metrics.n,
            one.metrics.ece_interval or f"{one.metrics.ece:.3f}",
            "-" if one.metrics.ece_if_calibrated is None else f"{one.metrics.ece_if_calibrated:.3f}",
            calibration_verdict(one).words,
        )
        for report in reports
        for one in report.sets
    ]
    return table(header, rows)


def _strange(reports: Sequence[EvaluationReport], heading: str) -> list[str]:
    kinds = list(dict.fromkeys(one.kind for report in reports for one in report.strange if one.is_required))
    if not kinds:
        return []
    found = [{one.kind: one for one in report.strange} for report in reports]
    rows = [(kind, *(_cell(of_task.get(kind)) for of_task in found)) for kind in sorted(kinds)]
    return [
        f"{heading}# Out of distribution: what each head is sent by mistake",
        "",
        "AUROC of the distance against fresh studies of the task's own kind, then the share that was flagged at the "
        "task's limit.",
        "",
        *table(("images", *(report.task for report in reports)), rows),
        "",
    ]


def _cell(one: StrangeFigures | None) -> str:
    if one is None:
        return "own kind, or not measured"
    below = "" if one.is_required else " (no aim)"
    return f"{one.auroc:.3f}, flagged {round(one.flagged.value * one.n)} of {one.n}{below}"
