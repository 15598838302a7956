"""An evaluation's report as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.training.evaluation.aims import (
    LARGEST_ECE,
    LEAST_AUROC,
    calibration_verdict,
    false_flag_verdict,
    misses,
    strange_verdict,
)
from services.training.evaluation.report import EvaluationReport
from shared.vision.familiarity import FALSE_FLAGS


def report_markdown(report: EvaluationReport, *, figure: str | None = None, heading: str = "#") -> str:
    """The report.

    Args:
        report: All figures.
        figure: Where the page of pictures lies, as a link.
        heading: The topmost heading's mark.
    """
    parts = (
        [f"{heading} {report.title}", "", f"**{report.notice}**", ""],
        [
            f"Head `{report.head_id}` on backbone `{report.backbone_id}`. Intervals: 95 % bootstrap over patients, "
            f"{report.bootstraps} draws; shares of flagged studies: exact (Clopper-Pearson). "
            f"Again: `{report.command}`.",
            "",
            f"Aims missed: {'; '.join(missed)}." if (missed := misses(report)) else "No aim is missed.",
            "",
        ],
        [f"![ROC, confusion, reliability, selective risk and distances]({figure})", ""] if figure else [],
        _sets(report, heading),
        _classes(report),
        _calibration(report, heading),
        _risk(report, heading),
        _subgroups(report, heading),
        _strange(report, heading),
        _compared(report, heading),
    )
    return "\n".join(line for part in parts for line in part)


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table."""
    return [
        f"| {' | '.join(map(str, header))} |",
        "|---" * len(header) + "|",
        *(f"| {' | '.join(map(str, row))} |" for row in rows),
    ]


def _sets(report: EvaluationReport, heading: str) -> list[str]:
    header = (
        "set", "studies", "patients", "accuracy", "balanced accuracy", "macro F1", "macro AUROC", "finding AUROC",
    )  # fmt: skip
    rows = [
        (
            one.title,
            one.metrics.n,
            one.metrics.patients,
            one.metrics.accuracy,
            one.metrics.balanced_accuracy,
            one.metrics.f1_macro or "-",
            one.metrics.auroc_macro or "-",
            one.metrics.auroc_finding or "-",
        )
        for one in report.sets
    ]
    return [
        f"{heading}# Accuracy",
        "",
        f"By chance: balanced accuracy {1 / len(report.labels):.3f} ({len(report.labels)} classes), AUROC 0.500. "
        "*Finding AUROC*: any finding against none. Every study counts, also one that the task would abstain from or "
        "call out of distribution.",
        "",
        *table(header, rows),
        "",
    ]


def _calibration(report: EvaluationReport, heading: str) -> list[str]:
    rows = [
        (
            one.title,
            one.metrics.ece_interval or f"{one.metrics.ece:.3f}",
            _plain(one.metrics.ece_if_calibrated),
            calibration_verdict(one).words,
            one.metrics.brier or "-",
            one.metrics.nll or "-",
        )
        for one in report.sets
    ]
    return [
        f"{heading}# Calibration",
        "",
        "ECE over ten bins is never negative: *by chance* is what a perfectly calibrated head shows on as many",
        "studies.",
        "",
        *table(("set", "ECE", "by chance", f"at most {LARGEST_ECE:g}", "Brier", "negative log-likelihood"), rows),
        "",
    ]


def _classes(report: EvaluationReport) -> list[str]:
    metrics = report.sets[0].metrics
    rows = [
        (
            label,
            sum(counts),
            *counts,
            _plain(metrics.recall.get(label)),
            _plain(metrics.f1.get(label)),
            _plain(metrics.auroc.get(label)),
        )
        for label, counts in zip(report.labels, metrics.confusion, strict=True)
    ]
    return [
        f"Classes of *{report.sets[0].title}*; predicted classes across.",
        "",
        *table(("true", "studies", *report.labels, "recall", "F1", "AUROC"), rows),
        "",
    ]


def _risk(report: EvaluationReport, heading: str) -> list[str]:
    coverages = [point.coverage for point in report.sets[0].risk]
    surest = (f"surest {100 * share:.0f} %" for share in coverages)
    header = ("set", *surest, "AURC", "answered", "accuracy of answers")
    rows = [
        (
            one.title,
            *(f"{point.risk:.3f}" for point in one.risk),
            one.metrics.aurc or "-",
            _percent(one.metrics.coverage),
            _plain(one.metrics.accuracy_answered),
        )
        for one in report.sets
    ]
    return [
        f"{heading}# Selective risk",
        "",
        "Share of wrong answers when only the surest part of the studies is answered; *answered* is the part at the",
        f"task's operating point, confidence {report.abstain_below:g} and more.",
        "",
        *table(header, rows),
        "",
    ]


def _subgroups(report: EvaluationReport, heading: str) -> list[str]:
    if not report.subgroups:
        return []
    rows = [
        (one.trait, one.value, one.n, one.patients, one.accuracy, one.auroc_finding or "-", f"{one.ece:.3f}")
        for one in report.subgroups
    ]
    return [
        f"{heading}# Subgroups",
        "",
        f"Of *{report.sets[0].title}*; with so few studies only wide gaps can be seen.",
        "",
        *table(("trait", "value", "studies", "patients", "accuracy", "finding AUROC", "ECE"), rows),
        "",
    ]


def _strange(report: EvaluationReport, heading: str) -> list[str]:
    if report.ood_limit is None:
        return []
    own = [(one.title, one.metrics.n, one.flagged or "-", false_flag_verdict(one).words) for one in report.sets]
    lines = [
        f"{heading}# Out of distribution",
        "",
        f"Distance: {report.ood_kind}; limit {report.ood_limit:.3f}, set for {100 * FALSE_FLAGS:g} % of studies like "
        "the training's. Studies of the task's own kind that were flagged all the same:",
        "",
        *table(("set", "studies", "falsely flagged", f"at most {FALSE_FLAGS:g}"), own),
        "",
        "The event of a flagged study says *out of distribution* instead of a finding: where most of a set is flagged,",
        "the accuracy above is of answers that are withheld.",
        "",
    ]
    if not report.strange:
        return lines
    rows = [
        (one.kind, one.n, f"{one.auroc:.3f}", strange_verdict(one).words, one.flagged, f"{one.distance:.2f}")
        for one in report.strange
    ]
    return [
        *lines,
        "Images that the head must not judge. AUROC: of the distance, against the studies of "
        f"*{report.sets[0].title}*. *No aim*: the same organ or modality, altered; shown for information.",
        "",
        *table(("images", "n", "AUROC", f"at least {LEAST_AUROC:g}", "flagged", "median distance"), rows),
        "",
    ]


def _compared(report: EvaluationReport, heading: str) -> list[str]:
    if not report.compared or report.compared_on is None:
        return []
    rows = [
        (one.features, one.dim or "-", one.accuracy, one.balanced_accuracy, one.auroc_macro or "-")
        for one in report.compared
    ]
    training, test = report.compared_on
    return [
        f"{heading}# Other features, same probe",
        "",
        f"Each probe is fitted on the same {training} studies and measured on the same {test}, fewer than the task's "
        f"head was given: only wide gaps can be seen. Chance is {1 / len(report.labels):.3f}.",
        "",
        *table(("features", "width", "accuracy", "balanced accuracy", "macro AUROC"), rows),
        "",
    ]


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
