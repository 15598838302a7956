"""Which head `similis evaluate` measures: the live one, a kept version, or the built-in one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.training.dataset.training_objects import read_objects
from services.training.request import is_installed
from services.training.versions import check_name
from shared.errors import ConfigurationError
from shared.vision.live_version import live_folder, version_folder
from shared.vision.tasks import BUILT_IN, Task, load_version


@dataclass(frozen=True, slots=True)
class MeasuredTask:
    """A task and where its files lie."""

    task: Task
    folder: Path

    def trained_on(self) -> frozenset[str]:
        """See `read_objects`.

        Raises:
            ConfigurationError: it is not known.
        """
        return read_objects(self.folder, self.task.card)


def measured_task(tasks_dir: Path, name: str, version: str | None = None) -> MeasuredTask:
    """The task whose head is measured.

    Args:
        tasks_dir: The folder of tasks; a task that is not live there is the one that comes with Similis.
        name: The task.
        version: A kept version in `tasks_dir`; None: the live one.

    Raises:
        ConfigurationError: there is no such task or version, or it cannot be read.
        WeightsError: its head cannot be read.
    """
    own = tasks_dir / name
    if version is not None:
        check_name(version)
        folder = version_folder(own, version)
        if not folder.is_dir():
            raise ConfigurationError(f"{own} has no version {version}; `similis task list` shows them")
    elif is_installed(own):
        folder = live_folder(own)
    elif is_installed(BUILT_IN / name):
        folder = live_folder(BUILT_IN / name)
    else:
        raise ConfigurationError(f"neither {tasks_dir} nor Similis has a live task {name}; --version names a candidate")
    return MeasuredTask(load_version(name, folder), folder)
