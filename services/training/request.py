"""What `similis train` was asked for: to a definition, a dataset and options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from services.training.dataset.cases import Case, Dataset, DatasetError
from services.training.dataset.folder_dataset import LabelledFile, folder_dataset, labelled_dataset
from services.training.dataset.image_files import image_file
from services.training.dataset.labels_file import read_labels_file, split_of
from services.training.dataset.phantom_dataset import held_out_cases, phantom_dataset
from services.training.fit.calibration import Aim
from services.training.fit.linear_probe import Grouping
from services.training.phantoms import recipe
from services.training.phantoms.recipe import PhantomRecipe
from services.training.settings import TrainSettings
from services.training.train_options import MOST_HELD_OUT, TrainOptions, check_contrast, check_seed, refuse_without
from shared.archive import open_archive
from shared.errors import ConfigurationError
from shared.vision.live_version import live_folder
from shared.vision.tasks import BUILT_IN, TaskDefinition, load_definition, read_definition


@dataclass(frozen=True, slots=True)
class Request:
    """The command's arguments, see `command_line.train_command`."""

    task: str
    tasks_dir: Path
    folder: Path | None = None
    layout: str | None = None
    labels: Path | None = None
    archive: bool = False
    phantom: bool = False
    definition: Path | None = None
    out: Path | None = None
    seed: int = 0
    aim: Aim = "accuracy"
    target: float = 0.9
    grouped_by: Grouping = "patient"
    drop_duplicates: bool = False
    subjects: int = 400
    contrast: float = 4.0
    hold_out: Sequence[str] = ()
    held_out_subjects: int = 80
    licence: str = "not stated"
    shortcuts: bool = True

    def options(self) -> TrainOptions:
        """How to train.

        Raises:
            ConfigurationError: an option is out of range, contradicts another or has no effect.
        """
        self._check()
        if not 0 < self.target < 1:
            raise ConfigurationError(f"--{self.aim} must lie between 0 and 1, not at {self.target:g}")
        return TrainOptions(
            seed=self.seed,
            grouped_by=self.grouped_by,
            aim=self.aim,
            target=self.target,
            drop_duplicates=self.drop_duplicates,
            shortcuts=self.shortcuts,
            licence=self.licence,
            rebuild=self.rebuild(),
        )

    def _check(self) -> None:
        """Before any work: what is given must be possible and must matter."""
        usual = Request(self.task, self.tasks_dir)
        if sum([self.folder is not None, self.archive, self.phantom]) != 1:
            raise ConfigurationError("give one of --from FOLDER, --archive and --phantom")
        of_phantoms = {
            "--subjects": self.subjects != usual.subjects,
            "--contrast": self.contrast != usual.contrast,
            "--hold-out": bool(self.hold_out),
            "--held-out-subjects": self.held_out_subjects != usual.held_out_subjects,
            "--group-by source": self.grouped_by == "source",
        }
        refuse_without("--phantom", self.phantom, of_phantoms)
        refuse_without("--from", self.folder is not None, {"--layout": self.layout is not None})
        refuse_without("--from or --archive", not self.phantom, {"--labels": self.labels is not None})
        refuse_without("--hold-out", bool(self.hold_out), {"--held-out-subjects": of_phantoms["--held-out-subjects"]})
        if self.layout is not None and self.labels is not None:
            raise ConfigurationError("--layout finds its own labels: leave out --labels")
        check_seed(self.seed)
        if self.phantom:
            check_contrast(self.contrast)
        if not 0 < self.held_out_subjects <= MOST_HELD_OUT:
            raise ConfigurationError(f"--held-out-subjects must lie between 1 and {MOST_HELD_OUT:,}")

    def rebuild(self) -> str:
        """The command again, without paths: they may name people."""
        usual, words = Request(self.task, self.tasks_dir), [f"similis train {self.task}"]
        if self.phantom:
            words.append(f"--phantom --subjects {self.subjects} --contrast {self.contrast:g}")
            words += [f"--hold-out {quote(source)}" for source in self.hold_out]
            if self.held_out_subjects != usual.held_out_subjects:
                words.append(f"--held-out-subjects {self.held_out_subjects}")
        words += ["--from FOLDER"] if self.folder else []
        words += [f"--layout {self.layout}"] if self.layout else []
        words += ["--archive"] if self.archive else []
        words += ["--labels FILE"] if self.labels else []
        words += ["--definition FILE"] if self.definition else []
        words.append(f"--seed {self.seed} --{self.aim} {self.target:g}")
        words += [f"--group-by {self.grouped_by}"] if self.grouped_by != "patient" else []
        words += ["--drop-duplicates"] if self.drop_duplicates else []
        words += [] if self.shortcuts else ["--no-shortcuts"]
        words += [f"--licence {quote(self.licence)}"] if self.licence != usual.licence else []
        return " ".join(words)


def definition_of(request: Request) -> TaskDefinition:
    """The task to train: the given file's, the phantom recipe's, or that of the task as it is installed.

    Raises:
        ConfigurationError: there is none, or it is another task's.
    """
    if request.definition is not None:
        definition = read_definition(request.definition)
        if definition.name != request.task:
            raise ConfigurationError(f"--definition is of the task {definition.name}, not {request.task}")
        return definition
    if request.phantom:
        title = f"{request.task}, phantom classes (research use only)"
        return TaskDefinition.model_validate(
            {"name": request.task, "title": title, **recipe_of(request.task).definition()}
        )
    for tasks_dir in (request.tasks_dir, BUILT_IN):
        folder = tasks_dir / request.task
        if is_installed(folder):
            return load_definition(folder)
    raise ConfigurationError(f"there is no task {request.task} yet: describe it in a task.yaml and give --definition")


def dataset_of(request: Request, definition: TaskDefinition, settings: TrainSettings) -> Dataset:
    """The labelled cases.

    Raises:
        ConfigurationError: there is no such phantom recipe.
        DatasetError: the labels or the images cannot be used.
    """
    if request.phantom:
        return phantom_dataset(
            recipe_of(request.task),
            subjects=request.subjects,
            seed=request.seed,
            contrast=request.contrast,
            hold_out=request.hold_out,
        )
    if request.folder is not None:
        return labelled_folder(request.folder, definition, request.layout, request.labels)
    from services.training.dataset.archive_dataset import archive_dataset
    from services.training.dataset.archived_labels import archived_labels

    archive = open_archive(settings.archive)
    if request.labels is None:
        return archive_dataset(
            archive, archived_labels(archive, definition), definition, "labels given through the API"
        )
    rows = read_labels_file(request.labels, tuple(entry.label for entry in definition.classes))
    return archive_dataset(archive, rows, definition)


def labelled_folder(folder: Path, definition: TaskDefinition, layout: str | None, labels: Path | None) -> Dataset:
    """The labelled cases of a folder, of a public data set's layout or of our own.

    Raises:
        DatasetError: the labels or the images cannot be used.
    """
    if layout is None:
        return folder_dataset(folder, definition, labels)
    return labelled_dataset(folder, _files_of_layout(layout, folder, definition), definition, layout)


def is_installed(folder: Path) -> bool:
    """Whether a task of this folder is live, rather than a candidate at most."""
    return (live_folder(folder) / "task.yaml").exists()


def held_out_of(request: Request) -> Mapping[str, Sequence[Case]]:
    """Fresh subjects on each source that is held out, by title."""
    return {
        f"Source never seen: {source}": held_out_cases(
            recipe_of(request.task),
            source,
            subjects=request.held_out_subjects,
            seed=request.seed,
            contrast=request.contrast,
        )
        for source in request.hold_out
    }


def _files_of_layout(layout: str, folder: Path, definition: TaskDefinition) -> list[LabelledFile]:
    from services.training.dataset.layouts import read_layout

    found = []
    for path, label, patient, split in read_layout(layout, folder):
        file = image_file(folder, path, definition)
        if file is None:
            raise DatasetError(f"{path.relative_to(folder)} is no image that {definition.name} takes")
        study = file.study or file.path.as_posix()
        found.append(LabelledFile(file, study, label, patient or file.patient, split_of(split), file.subgroup))
    return found


def recipe_of(task: str) -> PhantomRecipe:
    """The task's phantom recipe.

    Raises:
        ConfigurationError: there is none.
    """
    try:
        return recipe(task)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
