"""What the demo found, as a table for people and as JSON for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_STYLES = {"finding": "bold red", "no-finding": "green", "abstained": "yellow", "out-of-distribution": "yellow"}


class DemoModel(BaseModel):
    """A frozen value of the report."""

    model_config = ConfigDict(frozen=True)


class NeighbourFound(DemoModel):
    """A similar study."""

    study_instance_uid: str
    score: float
    modality: str
    label: str | None


class StudyResult(DemoModel):
    """One pushed study and what came of it. `truth` is a phantom's class."""

    study_instance_uid: str
    source: str
    truth: str | None
    objects: int
    diagnosed: bool
    embedded: bool
    searchable: bool
    explained: bool | None
    revision: int | None
    task: str | None
    decision: str | None
    reason: str | None
    label: str | None
    confidence: float | None
    modalities: tuple[str, ...]
    frames_embedded: int
    neighbours: tuple[NeighbourFound, ...]
    maps: tuple[Path, ...]

    @property
    def complete(self) -> bool:
        """Diagnosed, embedded, searchable and, where a finding was positive, explained."""
        return self.diagnosed and self.embedded and self.searchable and self.explained is not False


class DemoReport(DemoModel):
    """Everything the demo shows."""

    notice: Literal["research use only; phantom results are no clinical results"] = (
        "research use only; phantom results are no clinical results"
    )
    complete: bool
    studies: tuple[StudyResult, ...]
    dead_letters: tuple[dict[str, Any], ...]
    page: str
    endpoints: dict[str, Any]
    topics: tuple[str, ...]
    archive: Path
    push_s: float
    wait_s: float
    total_s: float


def show(console: Console, report: DemoReport) -> None:
    """Print the report."""
    numbers = {study.study_instance_uid: number for number, study in enumerate(report.studies, 1)}
    title = "Studies pushed by C-STORE. Research use only; phantoms are synthetic"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("#", justify="right")
    for column in ("phantom of", "decision", "predicted", "nearest, cosine", "map"):
        table.add_column(column, overflow="fold")
    for number, study in enumerate(report.studies, 1):
        decision = study.decision or "missing"
        table.add_row(
            str(number),
            study.truth or f"(real {'/'.join(study.modalities)})",
            f"[{_STYLES.get(decision, 'dim')}]{decision}[/]",
            "" if study.confidence is None else f"{study.label} {_short(study.confidence)}",
            " ".join(_neighbour(neighbour, numbers) for neighbour in study.neighbours),
            {True: "yes", False: "[red]missing[/]", None: ""}[study.explained],
        )
    console.print(table)
    _show_agreement(console, report)
    if any(study.maps for study in report.studies):
        console.print("Saliency maps (overlay PNG, float32 .npy, JSON record) lie under")
        console.print(f"  {report.archive / 'explanations'}", soft_wrap=True)
    for dead in report.dead_letters:
        console.print(f"[red]dead letter on {dead['topic']}: {dead['key']}[/]")
    dicom, kafka = report.endpoints["dicom"], report.endpoints["kafka"]
    console.print(f"Light box   [bold]{report.page}[/]")
    console.print(f"Topics      at Kafka [bold]{kafka}[/]:")
    for topic in report.topics:
        console.print(f"            {topic}")
    console.print(f"Subscribe   kcat -b {kafka} -t {report.topics[0]} -o beginning", soft_wrap=True)
    console.print(f"Send more   storescu -aec {dicom['ae_title']} {dicom['host']} {dicom['port']} +sd +r FOLDER")
    console.print(
        f"Pushed in {report.push_s:.0f} s, all results {report.wait_s:.0f} s later, {report.total_s:.0f} s in all."
    )


def _show_agreement(console: Console, report: DemoReport) -> None:
    phantoms = [study for study in report.studies if study.truth]
    answered = [study for study in phantoms if study.label is not None]
    right = sum(study.label == study.truth for study in answered)
    console.print(
        f"Of {len(phantoms)} phantoms the task judged {len(answered)} and abstained from the rest; "
        f"{right} of the {len(answered)} are the class they were made as."
    )


def _neighbour(neighbour: NeighbourFound, numbers: dict[str, int]) -> str:
    number = numbers.get(neighbour.study_instance_uid)
    name = f"#{number}" if number else f"…{neighbour.study_instance_uid[-6:]}"
    return f"{name} {_short(neighbour.score)}"


def _short(number: float) -> str:
    return f"{number:.2f}".removeprefix("0")
