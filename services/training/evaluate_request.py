"""What `similis evaluate` was asked for: to a task, sets of cases and a comparison."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.training.case_features import Encoder
from services.training.cases import Case, DatasetError
from services.training.evaluate_task import Comparison, EvaluateOptions
from services.training.folder_dataset import folder_dataset
from services.training.phantom_dataset import phantom_cases
from services.training.phantoms import recipe
from services.training.recipe import PhantomRecipe
from services.training.splits import split_cases
from shared.errors import ConfigurationError
from shared.settings import VisionSettings
from shared.vision.tasks import BUILT_IN, Task, load_task
from shared.vision.weights import locate_weights

FIRST_SEED: Final = 2 * 10**12  # above training's block
_SEEDS_A_RUN: Final = 10**7
_SEEDS_A_SET: Final = 10**5
_HOLD_OUT: Final = re.compile(r"--hold-out (\S+)")


@dataclass(frozen=True, slots=True)
class EvaluateRequest:
    """The command's arguments, see `evaluate_command`.

    Attributes:
        hold_out: Sources that training never saw; unset: those that the head's card names.
        compare: Hugging Face folders.
        compare_studies: Training studies of a comparison on phantoms; as many tests as half of them. 0: none.
    """

    task: str
    tasks_dir: Path | None = None
    folder: Path | None = None
    labels: Path | None = None
    studies: int = 160
    weaker: bool = True
    contrast: float = 4.0
    hold_out: Sequence[str] | None = None
    compare: Sequence[Path] = ()
    compare_studies: int = 0
    strange: int = 40
    seed: int = 0
    draws: int = 1000

    def options(self) -> EvaluateOptions:
        """How to measure.

        Raises:
            ConfigurationError: a number is out of range.
        """
        if not (0 < self.studies < _SEEDS_A_SET and self.draws >= 100 and self.strange >= 0 and self.seed >= 0):
            raise ConfigurationError("--studies must be 1 to 99,999, --bootstraps at least 100, the others at least 0")
        return EvaluateOptions(self.seed, self.draws, self.strange, self.command())

    def command(self) -> str:
        """The command again, without paths: they may name people."""
        words = [f"similis evaluate {self.task}"]
        if self.folder is not None:
            words.append("--from FOLDER" + (" --labels FILE" if self.labels else ""))
        else:
            words.append(f"--studies {self.studies} --contrast {self.contrast:g}")
        words += [f"--compare-studies {self.compare_studies}"] if self.compare_studies else []
        words += ["--compare FOLDER"] * len(self.compare)
        words.append(f"--strange {self.strange} --seed {self.seed}")
        return " ".join(words)


def live_task(request: EvaluateRequest, vision: VisionSettings) -> Task:
    """The task whose head is measured.

    Raises:
        ConfigurationError: the task cannot be read.
        WeightsError: its head cannot be read.
    """
    return load_task((request.tasks_dir or vision.tasks_dir or BUILT_IN) / request.task)


def sets_of(request: EvaluateRequest, task: Task) -> dict[str, Sequence[Case]]:
    """Cases by title: a folder's test split, or fresh phantoms, weaker ones, and those on sources never seen.

    Raises:
        ConfigurationError: the task has no phantom recipe, or not such a source.
        DatasetError: the folder cannot be used.
    """
    if request.folder is not None:
        dataset = folder_dataset(request.folder, task.definition, request.labels)
        test = split_cases(dataset.cases, request.seed)[0]["test"]
        return {"Test split of a folder": test}
    made = _recipe(request.task)
    held_out = request.hold_out if request.hold_out is not None else _held_out_of_card(task, made)
    if unknown := set(held_out) - set(made.sources):
        raise ConfigurationError(f"{made.task} has no source {', '.join(sorted(unknown))}: {', '.join(made.sources)}")
    known = [source for source in made.sources if source not in held_out]
    if not known:
        raise ConfigurationError("every source is held out: there is nothing fresh to compare with")
    sets: dict[str, Sequence[Case]] = {"Fresh subjects": _phantoms(request, made, 0, request.contrast, known)}
    if request.weaker:
        sets["Fresh subjects, half the contrast"] = _phantoms(request, made, 1, request.contrast / 2, known)
    for index, source in enumerate(held_out):
        sets[f"Source never seen: {source}"] = _phantoms(request, made, 2 + index, request.contrast, [source])
    return sets


def comparison_of(request: EvaluateRequest, task: Task, vision: VisionSettings) -> Comparison | None:
    """What is set beside the backbone; None if nothing was asked for.

    Raises:
        DatasetError: the folder cannot be used.
        WeightsError: the backbone's weights are missing.
    """
    if not request.compare and not request.compare_studies:
        return None
    if request.folder is not None:
        parts = split_cases(folder_dataset(request.folder, task.definition, request.labels).cases, request.seed)[0]
        training, test = [*parts["training"], *parts["calibration"]], parts["test"]
    else:
        made = _recipe(request.task)
        count = request.compare_studies or 120
        if count < 10 * len(made.labels):
            raise DatasetError(f"--compare-studies must be at least {10 * len(made.labels)}")
        held_out = request.hold_out if request.hold_out is not None else _held_out_of_card(task, made)
        known = [source for source in made.sources if source not in held_out]
        first = _first_seed(request) + 50 * _SEEDS_A_SET
        training = [*phantom_cases(made, range(first, first + count), request.contrast, known)]
        start = first + count
        test = [*phantom_cases(made, range(start, start + max(count // 2, 1)), request.contrast, known)]
    encoders: dict[str, Callable[[], Encoder]] = {"random weights, the backbone's shape": lambda: _random(vision)}
    for folder in request.compare:
        encoders[folder.name] = _opener(folder)
    return Comparison(training, test, encoders)


def _opener(folder: Path) -> Callable[[], Encoder]:
    def make() -> Encoder:
        from services.training.compared_encoders import from_folder

        return from_folder(folder)

    return make


def _random(vision: VisionSettings) -> Encoder:
    from services.training.compared_encoders import random_weights

    return random_weights(locate_weights(vision).folder, seed=0)


def _phantoms(
    request: EvaluateRequest, made: PhantomRecipe, number: int, contrast: float, sources: Sequence[str]
) -> tuple[Case, ...]:
    first = _first_seed(request) + number * _SEEDS_A_SET
    return phantom_cases(made, range(first, first + request.studies), contrast, sources)


def _first_seed(request: EvaluateRequest) -> int:
    return FIRST_SEED + request.seed * _SEEDS_A_RUN


def _held_out_of_card(task: Task, made: PhantomRecipe) -> list[str]:
    """The sources that the head's own training command held out."""
    card: Mapping[str, object] = task.card
    return [source for source in _HOLD_OUT.findall(str(card.get("rebuild", ""))) if source in made.sources]


def _recipe(name: str) -> PhantomRecipe:
    try:
        return recipe(name)
    except ValueError as error:
        raise ConfigurationError(f"{error}; give --from FOLDER with labelled images") from error
