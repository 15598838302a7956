"""The brain-mr recipe: phantom brains of `phantom.py` on every anatomy that is at hand. Research use only."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

from services.training.phantoms.anatomy import ICBM152, Anatomy, from_nifti, icbm152
from services.training.phantoms.anatomy_files import anatomy_folder, prepared_anatomies
from services.training.phantoms.brain_dicom import mr_images, part10_bytes
from services.training.phantoms.brain_slab import RECIPE_VERSION, PhantomSpec, synthesise
from services.training.phantoms.lesion import LABELS, NORMAL
from services.training.phantoms.recipe import LabelledStudy

LEAST_AREA_MM2: Final = 40.0  # of lesion in a slice for it to carry the lesion's label
_AGE_BAND_Y: Final = 10


class BrainMr:
    """Phantom brain studies: eight axial slices, four classes.

    Sources are `icbm152-2009a`, which comes with nilearn, and the skull-stripped T1 volumes in a folder, see
    `anatomy_files`. One person's anatomy in two files would not be two sources.
    """

    task: Final = "brain-mr"
    version: Final = RECIPE_VERSION
    labels: Final = LABELS
    normal: Final = NORMAL

    def __init__(self, anatomies: Path | None = None) -> None:
        """Find the anatomies.

        Args:
            anatomies: Folder of prepared volumes; unset: the one that `anatomy_files` fills.
        """
        self._load: dict[str, Callable[[], Anatomy]] = {ICBM152: icbm152}
        for name, path in prepared_anatomies(anatomies or anatomy_folder()).items():
            self._load[name] = partial(_read, path, name)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the anatomies at hand."""
        return tuple(self._load)

    def study(self, seed: int, label: str, *, contrast: float = 4.0, source: str | None = None) -> LabelledStudy:
        """The study of these arguments; unset, `source` is ICBM152, whatever other anatomies are at hand.

        Raises:
            ValueError: an argument is out of range.
            ConfigurationError: the anatomy can't be read.
        """
        name = source or ICBM152
        if name not in self._load:
            raise ValueError(f"brain-mr has no source {name!r}: there are {', '.join(self._load)}")
        anatomy = self._load[name]()
        spec = PhantomSpec(seed, label, contrast)
        volume = synthesise(anatomy, spec)
        images = mr_images(anatomy, spec, volume)
        person = images[0]
        decade = int(person.PatientAge[:3]) // _AGE_BAND_Y * _AGE_BAND_Y
        return LabelledStudy(
            study_id=str(person.StudyInstanceUID),
            patient=f"phantom-{seed}",
            source=name,
            label=label,
            objects=tuple(part10_bytes(image) for image in images),
            frame_labels=tuple(label if area >= LEAST_AREA_MM2 else NORMAL for area in volume.lesion_area_mm2()),
            masks=tuple(volume.mask),
            subgroup={"sex": str(person.PatientSex), "age_band": f"{decade}-{decade + _AGE_BAND_Y - 1}"},
        )

    def definition(self) -> dict[str, Any]:
        """What `task.yaml` says. Codes are private on purpose: a phantom's lesion must not be filed as a tumour."""
        return {
            "name": self.task,
            "title": "Brain MR, phantom classes (research use only)",
            "modalities": ["MR"],
            "body_parts": ["BRAIN", "HEAD"],
            "frames": {"policy": "evenly", "max": 64},
            "explain": {"policy": "findings", "max_frames": 1},
            "classes": [
                {
                    "label": label,
                    "is_finding": label != NORMAL,
                    "code": {
                        "value": f"PHANTOM-{label.removesuffix('-like').upper()}",
                        "scheme": "99SIMILIS",
                        "meaning": f"Phantom, {label}",
                    },
                }
                for label in LABELS
            ],
        }


@lru_cache(maxsize=8)
def _read(path: Path, name: str) -> Anatomy:
    return from_nifti(path, name)
