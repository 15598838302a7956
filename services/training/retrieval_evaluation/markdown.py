"""Reports of retrieval as Markdown tables, one or several tasks."""

from __future__ import annotations

from collections.abc import Sequence

from services.training.evaluation.markdown import table
from shared.vision.retrieval_report import VISUAL, Likeness, RetrievalReport

_GALLERIES = {"training": "training studies", "others": "other test studies"}
_DISJOINT = {"patient": "patient", "source": "patient and source"}


def retrieval_markdown(reports: Sequence[RetrievalReport]) -> str:
    """All tables, each with a row for each task and space."""
    parts = (
        _commands(reports),
        _headline(reports),
        _classes(reports),
        _protocols(reports),
        _shortcuts(reports),
        _votes(reports),
    )
    return "\n".join(line for part in parts for line in part).rstrip() + "\n"


def _commands(reports: Sequence[RetrievalReport]) -> list[str]:
    lines = [f"**{reports[0].notice}**", ""]
    for one in reports:
        unseen = f"; on sources never seen: {', '.join(one.sources_never_seen)}" if one.sources_never_seen else ""
        lines += [
            f"- `{one.task}`: head `{one.head_id}` on `{one.backbone_id}`, {one.precision}, {len(one.labels)} classes; "
            f"{one.studies} test studies{unseen}; {one.training_studies} training studies. Again: `{one.command}`",
        ]
    return [*lines, ""]


def _headline(reports: Sequence[RetrievalReport]) -> list[str]:
    header = ("task", "space", "P@1", "P@3", "P@5", "P@10", "mAP@5", "MMV@5")
    rows = []
    for report in reports:
        for space, figures in report.spaces.items():
            averages = [*figures.p_at.values(), figures.map_at_5, figures.mmv_at_5]
            rows.append((report.task, space, *(one.macro for one in averages)))
        chance = report.spaces[VISUAL].headline.chance
        rows.append(
            (
                report.task,
                "*by chance*",
                *[f"{chance.p_at:.2f}"] * 4,
                f"{chance.map_at_5:.2f}",
                f"{chance.mmv_at_5:.2f}",
            )
        )
    gains = "; ".join(f"{one.task} {one.gain_p_at_5}" for one in reports)
    which = "; ".join(f"{one.task}: {one.headline}" for one in reports)
    return [
        "### Strictest protocol",
        "",
        *(
            ["Queries: " + reports[0].headline + "."]
            if len({one.headline for one in reports}) == 1
            else ["Queries: " + which + "."]
        ),
        "Means over the classes (macro), 95 % intervals over patients.",
        "",
        *table(header, rows),
        "",
        f"Macro P@5 of the task's own space less that of the visual one, on the same queries: {gains}.",
        "",
    ]


def _classes(reports: Sequence[RetrievalReport]) -> list[str]:
    header = ("task", "class", "visual", "task's own")
    rows = [
        (
            report.task,
            label,
            f"{visual:.2f}",
            f"{report.spaces[report.task].headline.p_at_5_of[label]:.2f}",
        )
        for report in reports
        for label, visual in report.spaces[VISUAL].headline.p_at_5_of.items()
    ]
    return ["### P@5 of each class", "", "The same queries and gallery.", "", *table(header, rows), ""]


def _protocols(reports: Sequence[RetrievalReport]) -> list[str]:
    header = ("task", "gallery", "never on both sides", "level", "queries", "by chance", "visual", "task's own")
    rows = []
    for report in reports:
        own = report.spaces[report.task].protocols
        for visual, task in zip(report.spaces[VISUAL].protocols, own, strict=True):
            rows.append(
                (
                    report.task,
                    f"{visual.gallery_studies} {_GALLERIES[visual.gallery]}",
                    _DISJOINT[visual.disjoint],
                    visual.level,
                    visual.queries,
                    f"{visual.chance.p_at:.2f}",
                    visual.measures.p_at["5"].micro,
                    task.measures.p_at["5"].micro,
                )
            )
    return ["### P@5 by protocol", "", "Means over queries (micro).", "", *table(header, rows), ""]


def _shortcuts(reports: Sequence[RetrievalReport]) -> list[str]:
    shares = ("same class", "same source", "same class, other source", "other class, same source")
    header = ("task", "space", "nearest", *shares)
    rows = [
        (
            report.task,
            space,
            audit.at,
            *(
                _likeness(one)
                for one in (
                    audit.same_class,
                    audit.same_source,
                    audit.same_class_other_source,
                    audit.other_class_same_source,
                )
            ),
        )
        for report in reports
        for space, figures in report.spaces.items()
        for audit in figures.shortcuts
    ]
    if not rows:
        return []
    return [
        "### Shortcut audit",
        "",
        "Share of the nearest studies, in brackets what a random order gives. All test studies, among each other.",
        "",
        *table(header, rows),
        "",
    ]


def _votes(reports: Sequence[RetrievalReport]) -> list[str]:
    header = ("task", "space", "winning share", "studies", "vote was right")
    rows = [
        (
            report.task,
            space,
            f"above {one.share_from:.0%} to {one.share_to:.0%}",
            one.studies,
            f"{one.right:.2f} ({one.low:.2f} to {one.high:.2f})",
        )
        for report in reports
        for space, figures in report.spaces.items()
        for one in figures.votes
    ]
    ties = "; ".join(
        f"{report.task} {', '.join(f'{space} {figures.ties}' for space, figures in report.spaces.items())}"
        for report in reports
    )
    return [
        "### What a vote of the ten nearest studies is worth",
        "",
        "By the labels that the head gave them, as in the index; 95 % intervals (Wilson). Without a winner "
        f"(tie, or no labelled neighbour): {ties}.",
        "",
        *table(header, rows),
        "",
    ]


def _likeness(one: Likeness) -> str:
    return f"{one.found.value:.2f} ({one.chance:.2f})"
