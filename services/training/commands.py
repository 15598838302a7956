"""`similis phantom`, `similis train` and `similis evaluate`, with progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from services.training.card import evaluation_table
from services.training.dicom_writer import write_phantoms
from services.training.evaluate import evaluate_brain_mr
from services.training.train import NOTICE, train_brain_mr


def phantom(out: Path, *, studies: int, seed: int, contrast: float) -> None:
    """Write phantom studies and say where they are."""
    console = Console()
    with _bars(console) as advance:
        written = write_phantoms(
            out, studies=studies, seed=seed, contrast=contrast, progress=lambda done, of: advance("studies", done, of)
        )
    images = sum(len(study.images) for study in written)
    console.print(
        f"{len(written)} phantom studies, {images} MR images in {out / 'studies'}; lesion masks in {out / 'masks'}"
    )
    console.print(f"true classes in {out / 'labels.json'}. Research use only.")


def train(out: Path, *, subjects: int, seed: int, contrast: float, held_out: Sequence[Path]) -> None:
    """Train brain-mr and print its model card."""
    console = Console()
    with _bars(console) as advance:
        card = train_brain_mr(
            out, subjects=subjects, seed=seed, contrast=contrast, held_out_anatomies=held_out, progress=advance
        )
    console.print(Markdown(card.markdown()))
    console.print(f"Head and card are in {out}.")


def evaluate(*, studies: int, seed: int, contrasts: Sequence[float], held_out: Sequence[Path]) -> None:
    """Measure the kept head on fresh phantoms and print the table."""
    console = Console()
    with _bars(console) as advance:
        evaluations = evaluate_brain_mr(
            studies=studies, seed=seed, contrasts=contrasts, held_out_anatomies=held_out, progress=advance
        )
    console.print(Markdown("\n".join(evaluation_table(evaluations))))
    console.print(NOTICE)


@contextmanager
def _bars(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for each title that the yielded function is called with: title, done, of how many."""
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as progress:

        def advance(title: str, done: int, of: int) -> None:
            if title not in tasks:
                tasks[title] = progress.add_task(title, total=of)
            progress.update(tasks[title], completed=done)

        yield advance
