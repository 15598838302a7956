"""`similis phantom`: brain phantoms as DICOM files, with a progress bar."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from services.training.phantoms.brain_dicom import write_phantoms
from services.training.progress_bars import progress_bars


def phantom(out: Path, *, studies: int, seed: int, contrast: float) -> None:
    """Write phantom studies and say where they are."""
    console = Console()
    with progress_bars(console) as advance:
        written = write_phantoms(
            out, studies=studies, seed=seed, contrast=contrast, progress=lambda done, of: advance("studies", done, of)
        )
    images = sum(len(study.images) for study in written)
    console.print(
        f"{len(written)} phantom studies, {images} MR images in {out / 'studies'}; lesion masks in {out / 'masks'}"
    )
    console.print(f"true classes in {out / 'labels.json'}. Research use only.")
