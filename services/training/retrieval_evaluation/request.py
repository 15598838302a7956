"""What `similis evaluate retrieval` was asked for: to queries, galleries and options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.training.dataset.cases import Case, DatasetError
from services.training.dataset.phantom_dataset import phantom_cases, phantom_dataset
from services.training.dataset.splits import split_cases
from services.training.dataset.training_objects import is_trained_on
from services.training.evaluation.request import sources_of_card
from services.training.request import labelled_folder, recipe_of
from services.training.retrieval_evaluation.evaluate_retrieval import RetrievalOptions, RetrievalSets
from services.training.train_options import check_contrast, check_seed, refuse_without
from shared.errors import ConfigurationError
from shared.vision.tasks import Task

FIRST_SEED: Final = 4 * 10**12  # above the blocks of training, evaluation and explanations
_SEEDS_A_RUN: Final = 10**7
_SEEDS_A_SET: Final = 10**5


@dataclass(frozen=True, slots=True)
class RetrievalRequest:
    """The command's arguments, see `retrieval_command`."""

    task: str
    tasks_dir: Path | None = None
    version: str | None = None
    folder: Path | None = None
    labels: Path | None = None
    layout: str | None = None
    studies: int = 120
    unseen_studies: int = 80
    contrast: float = 4.0
    seed: int = 0
    draws: int = 1000

    def options(self, precision: str = "not stated") -> RetrievalOptions:
        """How to measure.

        Raises:
            ConfigurationError: an option is out of range, or has no effect.
        """
        self._check()
        contrast = self.contrast if self.folder is None else None
        return RetrievalOptions(self.seed, self.draws, precision, contrast, self.command())

    def _check(self) -> None:
        usual = RetrievalRequest(self.task)
        of_folders = {"--labels": self.labels is not None, "--layout": self.layout is not None}
        of_phantoms = {
            "--studies": self.studies != usual.studies,
            "--unseen-studies": self.unseen_studies != usual.unseen_studies,
            "--contrast": self.contrast != usual.contrast,
        }
        refuse_without("--from", self.folder is not None, of_folders)
        refuse_without("phantoms: leave out --from", self.folder is None, of_phantoms)
        check_seed(self.seed)
        if self.folder is None:
            check_contrast(self.contrast)
        least = {
            "--studies": (self.studies, 20),
            "--unseen-studies": (self.unseen_studies, 0),
            "--bootstraps": (self.draws, 100),
        }
        for name, (value, fewest) in least.items():
            if not fewest <= value < _SEEDS_A_SET:
                raise ConfigurationError(f"{name} must lie between {fewest} and {_SEEDS_A_SET - 1:,}, not at {value}")

    def command(self) -> str:
        """The command again, without paths: they may name people."""
        words = [f"similis evaluate retrieval {self.task}"]
        words += ["--tasks-dir FOLDER"] if self.tasks_dir else []
        words += [f"--version {self.version}"] if self.version else []
        if self.folder is not None:
            words.append("--from FOLDER")
            words += ["--labels FILE"] if self.labels else []
            words += [f"--layout {self.layout}"] if self.layout else []
        else:
            words.append(f"--studies {self.studies} --unseen-studies {self.unseen_studies}")
            words.append(f"--contrast {self.contrast:g}")
        words.append(f"--seed {self.seed} --bootstraps {self.draws}")
        return " ".join(words)


def sets_of(request: RetrievalRequest, task: Task, trained_on: frozenset[str] = frozenset()) -> RetrievalSets:
    """Queries and galleries: of a folder, or phantoms made by the card's own choices.

    Args:
        request: What was asked for.
        task: The measured one.
        trained_on: Of a folder, see `training_objects.read_objects`.

    Raises:
        ConfigurationError: the task has no phantom recipe, or the card does not tell how its phantoms were made.
        DatasetError: the cases cannot be used.
    """
    if request.folder is not None:
        return _of_folder(request.folder, request, task, trained_on)
    made = recipe_of(request.task)
    first = FIRST_SEED + request.seed * _SEEDS_A_RUN
    never_seen, known = sources_of_card(task, made)
    if missing := {*known, *never_seen} - set(made.sources):
        raise ConfigurationError(f"{made.task} has no source {', '.join(sorted(missing))}: see docs/data.md")
    unseen: list[Case] = []
    if request.unseen_studies:
        for number, source in enumerate(never_seen, start=1):
            start = first + number * _SEEDS_A_SET
            unseen += phantom_cases(made, range(start, start + request.unseen_studies), request.contrast, [source])
    return RetrievalSets(
        training=_trained_phantoms(request, task),
        fresh=phantom_cases(made, range(first, first + request.studies), request.contrast, known),
        unseen=tuple(unseen),
    )


def _trained_phantoms(request: RetrievalRequest, task: Task) -> tuple[Case, ...]:
    """The training split, made again as the card says."""
    made, data, rebuild = recipe_of(request.task), _section(task, "data"), str(task.card.get("rebuild", ""))
    found = {name: re.search(rf"--{name} ([\d.]+)", rebuild) for name in ("subjects", "contrast", "seed")}
    if data.get("kind") != "phantom" or None in found.values():
        raise ConfigurationError(f"the card of {task.name} does not tell how phantoms trained it: give --from FOLDER")
    told = {name: match[1] for name, match in found.items() if match}
    dataset = phantom_dataset(
        made,
        subjects=int(told["subjects"]),
        seed=int(told["seed"]),
        contrast=float(told["contrast"]),
        hold_out=sources_of_card(task, made)[0],
    )
    training = split_cases(dataset.cases, int(told["seed"]))[0]["training"]
    if (expected := data.get("splits", {}).get("training", {}).get("cases")) != len(training):
        raise DatasetError(
            f"the card has {expected} training studies, its command makes {len(training)}: sources differ"
        )
    return tuple(training)


def _of_folder(folder: Path, request: RetrievalRequest, task: Task, trained_on: frozenset[str]) -> RetrievalSets:
    """The folder's training and test split, drawn anew with training's seed; what trained the head is no query."""
    cases = labelled_folder(folder, task.definition, request.layout, request.labels).cases
    parts = split_cases(cases, int(_section(task, "choices").get("seed", 0)))[0]
    fresh = [case for case in parts["test"] if not is_trained_on(case, trained_on)]
    return RetrievalSets(training=parts["training"], fresh=fresh)


def _section(task: Task, name: str) -> Mapping[str, Any]:
    found = task.card.get(name)
    return found if isinstance(found, Mapping) else {}
