"""What `similis evaluate explain` was asked for: to a task, fresh phantoms and options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Final

from services.training.dataset.cases import Case
from services.training.dataset.phantom_dataset import phantom_cases
from services.training.explain_evaluation.evaluate_maps import MapOptions
from services.training.request import labelled_folder, recipe_of
from services.training.train_options import check_contrast, check_seed, refuse_without
from shared.errors import ConfigurationError
from shared.saliency.fills import FillName
from shared.saliency.modes import ModeName
from shared.vision.tasks import Task

FIRST_SEED: Final = 3 * 10**12  # above evaluation's blocks: no frame here trained, tuned or measured a head
_SEEDS_A_RUN: Final = 10**7
_REFERENCES: Final = 5 * 10**6  # within a run's seeds: subjects of the random-weight reference


@dataclass(frozen=True, slots=True)
class ExplainRequest:
    """The command's arguments, see `explain_command`.

    Attributes:
        studies: With a lesion.
        source: What phantoms are built on; empty: the recipe's own choice.
        reference_maps: Of random networks; 0: measure the maps instead.
        folder: Images of the random-weight reference; None: phantoms.
    """

    task: str
    tasks_dir: Path | None = None
    version: str | None = None
    studies: int = 12
    contrast: float = 4.0
    source: Sequence[str] = ()
    deltas: tuple[float, ...] = (0.1, 0.05)
    rise_masks: int = 500
    mode: ModeName = "auto"
    fill: FillName = "mean"
    seed: int = 0
    draws: int = 1000
    reference_maps: int = 0
    folder: Path | None = None
    labels: Path | None = None
    layout: str | None = None

    def options(self) -> MapOptions:
        """How to measure.

        Raises:
            ConfigurationError: an option is out of range, or has no effect.
        """
        self._check()
        return MapOptions(
            seed=self.seed,
            draws=self.draws,
            deltas=self.deltas,
            rise_masks=self.rise_masks,
            mode=self.mode,
            fill=self.fill,
            command=self.command(),
        )

    def _check(self) -> None:
        check_seed(self.seed)
        check_contrast(self.contrast)
        refuse_without("--reference-maps", self.reference_maps > 0, {"--from": self.folder is not None})
        of_folders = {"--labels": self.labels is not None, "--layout": self.layout is not None}
        refuse_without("--from", self.folder is not None, of_folders)
        least = {
            "--studies": (self.studies, 1),
            "--bootstraps": (self.draws, 100),
            "--rise-masks": (self.rise_masks, 0),
            "--reference-maps": (self.reference_maps, 0),
        }
        for name, (value, fewest) in least.items():
            if not fewest <= value < _REFERENCES:
                raise ConfigurationError(f"{name} must lie between {fewest} and {_REFERENCES - 1:,}, not at {value}")
        if not self.deltas or len(set(self.deltas)) < len(self.deltas) or not all(0 < d <= 1 for d in self.deltas):
            raise ConfigurationError("--delta must lie above 0 and be at most 1, each value once")

    def command(self) -> str:
        """The command again, without paths: they may name people."""
        words = [f"similis evaluate explain {self.task}"]
        words += ["--tasks-dir FOLDER"] if self.tasks_dir else []
        words += [f"--version {self.version}"] if self.version else []
        words += [f"--source {quote(name)}" for name in self.source]
        words += [f"--fill {self.fill}"] if self.fill != "mean" else []
        if self.reference_maps:
            words.append(f"--reference-maps {self.reference_maps}")
            words += ["--from FOLDER"] if self.folder else [f"--contrast {self.contrast:g}"]
            return " ".join([*words, f"--seed {self.seed}"])
        words.append(f"--studies {self.studies} --contrast {self.contrast:g}")
        words += [f"--delta {delta:g}" for delta in self.deltas]
        words.append(f"--rise-masks {self.rise_masks} --mode {self.mode} --seed {self.seed}")
        return " ".join([*words, f"--bootstraps {self.draws}"])


def lesion_cases(request: ExplainRequest, task: Task) -> tuple[Case, ...]:
    """Fresh phantoms of the task's findings, classes in turn.

    Raises:
        ConfigurationError: the task has no phantom recipe, or not such a source.
    """
    findings = {entry.label for entry in task.definition.classes if entry.is_finding}
    made = recipe_of(request.task)
    each = len(made.labels)
    seeds = range(_first_seed(request), _first_seed(request) + request.studies * each)
    cases = phantom_cases(made, seeds, request.contrast, _sources(request))
    found = tuple(case for case in cases if case.label in findings)[: request.studies]
    if not found:
        raise ConfigurationError(f"the phantoms of {request.task} show none of the task's findings")
    return found


def reference_cases(request: ExplainRequest, task: Task) -> tuple[tuple[Case, ...], str]:
    """What the random networks are shown, and what that is in words.

    Raises:
        ConfigurationError: the task has no phantom recipe, or not such a source.
        DatasetError: the folder cannot be used.
    """
    count = request.reference_maps
    if request.folder is not None:
        cases = labelled_folder(request.folder, task.definition, request.layout, request.labels).cases
        chosen = tuple(cases[at * len(cases) // count] for at in range(min(count, len(cases))))
        return chosen, f"the middle frames of {len(chosen)} cases of a folder"
    first = _first_seed(request) + _REFERENCES
    cases = phantom_cases(recipe_of(request.task), range(first, first + count), request.contrast, _sources(request))
    return cases, f"the middle frames of {count} phantoms, all classes in turn, contrast {request.contrast:g}"


def _sources(request: ExplainRequest) -> Sequence[str]:
    known = recipe_of(request.task).sources
    if unknown := set(request.source) - set(known):
        raise ConfigurationError(f"{request.task} has no source {', '.join(sorted(unknown))}: {', '.join(known)}")
    return request.source


def _first_seed(request: ExplainRequest) -> int:
    return FIRST_SEED + request.seed * _SEEDS_A_RUN
