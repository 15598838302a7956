"""What `similis evaluate` was asked for: to a task, sets of cases and a comparison."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, Final

from services.training.dataset.cases import Case, DatasetError
from services.training.dataset.phantom_dataset import phantom_cases
from services.training.dataset.splits import split_cases
from services.training.dataset.training_objects import is_trained_on
from services.training.evaluation.evaluate_task import Comparison, EvaluateOptions
from services.training.features.case_features import Encoder
from services.training.phantoms.recipe import PhantomRecipe
from services.training.request import labelled_folder, recipe_of
from services.training.train_options import check_contrast, check_seed, refuse_without
from shared.errors import ConfigurationError
from shared.settings import VisionSettings
from shared.vision.tasks import Task
from shared.vision.weights import locate_weights

FIRST_SEED: Final = 2 * 10**12  # above training's block
_SEEDS_A_RUN: Final = 10**7
_SEEDS_A_SET: Final = 10**5
_HOLD_OUT: Final = re.compile(r"--hold-out (\S+)")


@dataclass(frozen=True, slots=True)
class EvaluateRequest:
    """The command's arguments, see `evaluate_command`.

    Attributes:
        version: A kept version to measure before it goes live; None: the live one.
        layout: Of the folder, see `layouts`.
        all_cases: Measure all cases of the folder, which comes from elsewhere, not the test split of training's own.
        hold_out: Sources that training never saw; unset: those that the head's card names.
        compare: Hugging Face folders.
        compare_studies: Training studies of a comparison on phantoms; as many tests as half of them. 0: none.
    """

    task: str
    tasks_dir: Path | None = None
    folder: Path | None = None
    labels: Path | None = None
    version: str | None = None
    layout: str | None = None
    all_cases: bool = False
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
            ConfigurationError: an option is out of range, contradicts another or has no effect.
        """
        self._check()
        return EvaluateOptions(self.seed, self.draws, self.strange, self.command())

    def _check(self) -> None:
        usual = EvaluateRequest(self.task)
        of_folders = {"--labels": self.labels, "--layout": self.layout, "--all": self.all_cases or None}
        of_phantoms = {
            "--studies": self.studies != usual.studies,
            "--contrast": self.contrast != usual.contrast,
            "--no-weaker": not self.weaker,
            "--hold-out": self.hold_out is not None,
            "--compare-studies": self.compare_studies != 0,
        }
        refuse_without("--from", self.folder is not None, {name: bool(given) for name, given in of_folders.items()})
        refuse_without("phantoms: leave out --from", self.folder is None, of_phantoms)
        if self.layout is not None and self.labels is not None:
            raise ConfigurationError("--layout finds its own labels: leave out --labels")
        if self.all_cases and self.compare:
            raise ConfigurationError("--compare needs cases to fit on: leave out --all")
        check_seed(self.seed)
        if self.folder is None:
            check_contrast(self.contrast)
        least = {"--studies": (self.studies, 1), "--bootstraps": (self.draws, 100), "--strange": (self.strange, 0)}
        for name, (value, fewest) in {**least, "--compare-studies": (self.compare_studies, 0)}.items():
            if not fewest <= value < _SEEDS_A_SET:
                raise ConfigurationError(f"{name} must lie between {fewest} and {_SEEDS_A_SET - 1:,}, not at {value}")

    def command(self) -> str:
        """The command again, without paths: they may name people."""
        usual, words = EvaluateRequest(self.task), [f"similis evaluate {self.task}"]
        words += ["--tasks-dir FOLDER"] if self.tasks_dir else []
        words += [f"--version {self.version}"] if self.version else []
        if self.folder is not None:
            words.append("--from FOLDER")
            words += ["--labels FILE"] if self.labels else []
            words += [f"--layout {self.layout}"] if self.layout else []
            words += ["--all"] if self.all_cases else []
        else:
            words.append(f"--studies {self.studies} --contrast {self.contrast:g}")
            words += [f"--hold-out {quote(source)}" for source in self.hold_out or ()]
            words += [] if self.weaker else ["--no-weaker"]
        words += [f"--compare-studies {self.compare_studies}"] if self.compare_studies else []
        words += ["--compare FOLDER"] * len(self.compare)
        words.append(f"--strange {self.strange} --seed {self.seed}")
        words += [f"--bootstraps {self.draws}"] if self.draws != usual.draws else []
        return " ".join(words)


def sets_of(
    request: EvaluateRequest, task: Task, trained_on: frozenset[str] = frozenset()
) -> dict[str, Sequence[Case]]:
    """Cases by title: those of a folder, or fresh phantoms, weaker ones, and those on sources never seen.

    Args:
        request: What was asked for.
        task: The measured one.
        trained_on: See `training_objects.read_objects`.

    Raises:
        ConfigurationError: the task has no phantom recipe, or not such a source.
        DatasetError: the folder cannot be used.
    """
    if request.folder is not None:
        title, test = _folder_cases(request, task, trained_on)[1:]
        return {title: test}
    made = recipe_of(request.task)
    held_out, known = _sources(request, task, made)
    sets: dict[str, Sequence[Case]] = {"Fresh subjects": _phantoms(request, made, 0, request.contrast, known)}
    if request.weaker:
        sets["Fresh subjects, half the contrast"] = _phantoms(request, made, 1, request.contrast / 2, known)
    for index, source in enumerate(held_out):
        sets[f"Source never seen: {source}"] = _phantoms(request, made, 2 + index, request.contrast, [source])
    return sets


def comparison_of(
    request: EvaluateRequest, task: Task, vision: VisionSettings, trained_on: frozenset[str] = frozenset()
) -> Comparison | None:
    """What is set beside the backbone; None if nothing was asked for.

    Raises:
        DatasetError: the folder cannot be used.
        WeightsError: the backbone's weights are missing.
    """
    if not request.compare and not request.compare_studies:
        return None
    if request.folder is not None:
        training, _, test = _folder_cases(request, task, trained_on)
    else:
        made = recipe_of(request.task)
        count = request.compare_studies or 120
        if count < 10 * len(made.labels):
            raise DatasetError(f"--compare-studies must be at least {10 * len(made.labels)}")
        known = _sources(request, task, made)[1]
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
        from services.training.evaluation.compared_encoders import from_folder

        return from_folder(folder)

    return make


def _random(vision: VisionSettings) -> Encoder:
    from services.training.evaluation.compared_encoders import random_weights

    return random_weights(locate_weights(vision).folder, seed=0)


def _phantoms(
    request: EvaluateRequest, made: PhantomRecipe, number: int, contrast: float, sources: Sequence[str]
) -> tuple[Case, ...]:
    first = _first_seed(request) + number * _SEEDS_A_SET
    return phantom_cases(made, range(first, first + request.studies), contrast, sources)


def _first_seed(request: EvaluateRequest) -> int:
    return FIRST_SEED + request.seed * _SEEDS_A_RUN


def _folder_cases(
    request: EvaluateRequest, task: Task, trained_on: frozenset[str]
) -> tuple[Sequence[Case], str, Sequence[Case]]:
    """Cases to fit other probes on, a title, and the cases to measure, none of which trained the head.

    The split is drawn anew with training's own seed. What the hashes still find in it, training had moved, or was
    trained with other labels or another folder.
    """
    if request.folder is None:
        raise ValueError("no folder was given")
    cases = labelled_folder(request.folder, task.definition, request.layout, request.labels).cases
    if request.all_cases:
        if known := sum(is_trained_on(case, trained_on) for case in cases):
            raise DatasetError(f"{known} of {len(cases)} cases trained this head: leave out --all, or these cases")
        return (), "All cases of a folder", cases
    parts = split_cases(cases, _card(task, "choices").get("seed", 0))[0]
    test = [case for case in parts["test"] if not is_trained_on(case, trained_on)]
    left_out = len(parts["test"]) - len(test)
    if not test:
        raise DatasetError(f"all {left_out} cases of the folder's test split trained this head")
    title = "Test split of a folder" + (f", without {left_out} cases that trained the head" if left_out else "")
    return [*parts["training"], *parts["calibration"]], title, test


def _sources(request: EvaluateRequest, task: Task, made: PhantomRecipe) -> tuple[Sequence[str], list[str]]:
    """The sources that training never saw, and the others."""
    data = _card(task, "data")
    of_card, trained = sources_of_card(task, made)
    held_out = (
        [source for source in of_card if source in made.sources] if request.hold_out is None else request.hold_out
    )
    if unknown := set(held_out) - set(made.sources):
        raise ConfigurationError(f"{made.task} has no source {', '.join(sorted(unknown))}: {', '.join(made.sources)}")
    if seen := set(held_out) & set(data.get("sources") or ()):
        raise ConfigurationError(f"the head was trained on {', '.join(sorted(seen))}: that is no source never seen")
    known = [source for source in made.sources if source in trained and source not in held_out]
    if not known:
        raise ConfigurationError("every source is held out: there is nothing fresh to compare with")
    return held_out, known


def sources_of_card(task: Task, made: PhantomRecipe) -> tuple[list[str], list[str]]:
    """The phantom sources that training was kept from, and those that it had, as the head's card tells."""
    data = _card(task, "data")
    held_out = data.get("held_out")
    if held_out is None:  # a card of before sources were told
        held_out = _HOLD_OUT.findall(str(task.card.get("rebuild", "")))
    trained = data.get("sources") or [source for source in made.sources if source not in held_out]
    return list(held_out), list(trained)


def _card(task: Task, part: str) -> Mapping[str, Any]:
    found = task.card.get(part)
    return found if isinstance(found, dict) else {}
