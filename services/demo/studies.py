"""What the demo pushes: phantoms that it makes, and real files that ship with pydicom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pydicom

# Real CT, MR and CR objects of pydicom's own test data, de-identified or synthetic by origin, in
# four transfer syntaxes. No task takes them: they show what happens to everything else.
REAL_FILES: Final = (
    "CT_small.dcm",
    "693_J2KI.dcm",
    "J2K_pixelrep_mismatch.dcm",
    "MR_small.dcm",
    "examples_overlay.dcm",
    "dicomdirtests/77654033/CR*/*",
    "dicomdirtests/98892001/CT*/*",
    "dicomdirtests/98892003/MR1/5641",
    "dicomdirtests/98892003/MR2/6273",
    "dicomdirtests/98892003/MR2/6605",
    "dicomdirtests/98892003/MR2/6935",
)


@dataclass(frozen=True, slots=True)
class DemoStudy:
    """One study to push. `truth` is the phantom's class; None for real files."""

    study_instance_uid: str
    source: str
    truth: str | None
    files: tuple[Path, ...]


def real_studies() -> tuple[DemoStudy, ...]:
    """The real files, grouped by study."""
    root = Path(pydicom.__file__).parent / "data" / "test_files"
    files: dict[str, list[Path]] = {}
    for path in _existing(root):
        header = pydicom.dcmread(path, specific_tags=["StudyInstanceUID"], stop_before_pixels=True)
        files.setdefault(str(header.StudyInstanceUID), []).append(path)
    return tuple(DemoStudy(uid, "real", None, tuple(paths)) for uid, paths in files.items())


def _existing(root: Path) -> Iterator[Path]:
    for pattern in REAL_FILES:
        found = sorted(path for path in root.glob(pattern) if path.is_file())
        if not found:
            raise FileNotFoundError(f"pydicom's test data lacks {pattern}")
        yield from found
