"""The model card as a page of Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.training.card.model_card import Evaluation, ModelCard


def card_markdown(card: ModelCard) -> str:
    """The card as Markdown."""
    parts = (
        _facts(card),
        ["## Intended use", "", card.intended_use, ""],
        _data(card),
        _results(card),
        _search(card),
        _shortcuts(card),
        ["## Limits", "", *(f"- {limit}" for limit in card.limits), ""],
    )
    return "\n".join(line for part in parts for line in part)


def _facts(card: ModelCard) -> list[str]:
    chosen, calibration, point = card.choices, card.calibration, card.operating_point
    calibrated = (
        "none: this head must not go live"
        if calibration is None
        else f"temperature {calibration.temperature:.3f}, offset {calibration.offset:.3f}, on {calibration.cases} "
        f"{calibration.fitted_on}; negative log-likelihood {calibration.nll_before:.3f}, then "
        f"{calibration.nll_after:.3f}"
        + ("" if calibration.nll_prior is None else f"; {calibration.nll_prior:.3f} by the classes' frequencies alone")
        + ("; it ended at a limit: this head must not go live" if calibration.at_bound else "")
    )
    far = "" if point.ood_distance_above is None else f", or above distance {point.ood_distance_above:.3f}"
    reached = "" if point.is_reached else " (not reached: half are left to a person)"
    rows = {
        "head": f"`{card.head_id}`, file sha256 `{card.head_sha256}`",
        "backbone": f"`{card.backbone_id}`, frozen",
        "fit": f"logistic regression on {chosen.reads}, C = {chosen.regularisation:g}, chosen by "
        f"{chosen.folds}-fold cross-validation grouped by {chosen.grouped_by}; seed {chosen.seed}",
        "calibration": calibrated,
        "abstains": f"below confidence {point.abstain_below:g}, for {point.aim} {point.target:g} of the answered"
        f"{reached}: answers {_percent(point.coverage)}, right in {_percent(point.accuracy_answered)} of these"
        f"{far}",
        "licence": card.licence,
        "rebuild": f"`{card.rebuild}`",
        "made with": ", ".join(f"{name} {version}" for name, version in card.software.items()),
    }
    return [
        f"# Model card: {card.name}",
        "",
        f"**{card.notice}**",
        "",
        f"{card.title}. Classes: {', '.join(card.labels)}.",
        "",
        *_table(("", ""), rows.items()),
        "",
    ]


def _data(card: ModelCard) -> list[str]:
    data = card.data
    rows = [
        (name, part.cases, part.patients, part.frames, *(part.labels.get(label, 0) for label in card.labels))
        for name, part in data.splits.items()
    ]
    leaks = ", ".join(f"{count} x {kind}" for kind, count in data.leaks_found.items()) or "none"
    return [
        "## Data",
        "",
        f"From {data.description}. Split {data.split}. sha256 of splits, labels and files `{data.sha256}`.",
        "",
        *_table(("split", "cases", "patients", "frames", *card.labels), rows),
        "",
        "Leakage between splits (same patient, file or pixels, near duplicates): "
        + (leaks + (f"; {data.cases_moved} cases were moved." if data.cases_moved else ".")),
        *([] if data.patients_known else ["", "Patients are not known: each study counts as a patient of its own."]),
        "",
    ]


def _results(card: ModelCard) -> list[str]:
    return [
        f"## {'Phantom results' if card.data.kind == 'phantom' else 'Results'}",
        "",
        "With 95 % bootstrap intervals over patients. *Answered* are the studies that the task does not abstain",
        "from for low confidence.",
        "",
        *evaluation_table(card.evaluations),
        "",
        f"Nearest neighbours instead of the probe (k = {card.choices.neighbours}, test): study accuracy "
        f"{card.neighbours.accuracy}.",
        "",
        "![ROC](figures/roc.png) ![Confusion](figures/confusion.png) ![Reliability](figures/reliability.png)",
        "",
        *(line for evaluation in card.evaluations for line in _confusion(evaluation, card.labels)),
        *_subgroups(card),
    ]


def _subgroups(card: ModelCard) -> list[str]:
    if not card.subgroups:
        return []
    rows = [(group.trait, group.value, group.cases, group.accuracy) for group in card.subgroups]
    return ["### Subgroups (test)", "", *_table(("trait", "value", "cases", "study accuracy"), rows), ""]


def _search(card: ModelCard) -> list[str]:
    search = card.search
    return [
        "## Search",
        "",
        f"Share of the {search.at} nearest cases of other patients that are of the query's class ({search.cases} "
        f"test cases, one frame each): {search.task_space:.3f} in the task's own space of {search.dimensions} "
        f"dimensions, {search.raw:.3f} by plain cosine, {search.chance:.3f} by chance.",
        "",
    ]


def _shortcuts(card: ModelCard) -> list[str]:
    if not card.shortcut_baselines:
        return []
    rows = [(name, metrics.accuracy) for name, metrics in card.shortcut_baselines.items()]
    return [
        "## Shortcut check",
        "",
        "The same probe on features that see no lesion shape; chance is "
        f"{1 / len(card.labels):.2f}. Far above chance would mean that the images give their class away.",
        "",
        *_table(("features", "study accuracy"), rows),
        "",
    ]


def evaluation_table(evaluations: tuple[Evaluation, ...]) -> list[str]:
    """One line of figures per evaluation, as a Markdown table."""
    header = (
        "set", "studies", "study accuracy", "balanced", "macro AUROC", "ECE", "Brier", "answered",
        "accuracy of answers", "frame accuracy", "called unfamiliar",
    )  # fmt: skip
    rows = [
        (
            e.title,
            e.study.n,
            e.study.accuracy,
            e.study.balanced_accuracy,
            e.study.auroc_macro or "-",
            f"{e.study.ece:.3f}",
            e.study.brier or "-",
            _percent(e.study.coverage),
            _percent(e.study.accuracy_answered),
            e.frame.accuracy if e.frame else "-",
            _percent(e.flagged_unfamiliar),
        )
        for e in evaluations
    ]
    return _table(header, rows)


def _confusion(evaluation: Evaluation, labels: tuple[str, ...]) -> list[str]:
    study = evaluation.study
    rows = [(label, *row, _percent(study.recall[label])) for label, row in zip(labels, study.confusion, strict=True)]
    return [f"### {evaluation.title}", "", *_table(("true \\ predicted", *labels, "recall"), rows), ""]


def _table(header: tuple[Any, ...], rows: Any) -> list[str]:
    return [
        f"| {' | '.join(map(str, header))} |",
        "|---" * len(header) + "|",
        *(f"| {' | '.join(map(str, row))} |" for row in rows),
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
