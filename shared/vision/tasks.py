"""Tasks are data: one folder each, with `task.yaml`, `head.safetensors` and `model-card.{md,json}`.

Beside them may lie `explain-reference.json`, see `shared.saliency.reliability`.

They lie in the task's folder, or in that of the version that was promoted: see `live_version`.

name: brain-mr                        # the folder's name
title: Brain MR, phantom classes
modalities: [MR]
body_parts: [BRAIN, HEAD]             # empty: any
sop_classes: []                       # empty: any
excluded_sop_classes: []
excluded_image_types: [LOCALIZER]     # values of Image Type (0008,0008)
frames: {policy: evenly, max: 64}     # optional; of each series: see `frame_policy`. Unset: as the index
max_frames: 64                        # optional; of the whole study, evenly among those
abstain_below: 0.5                    # study probability of the top class
ood_distance_above: 1.6               # optional; median frame distance, see heads.Familiarity
explain: {policy: findings, max_frames: 1}
classes:                              # in any order; the labels are the head's
  - label: normal
    is_finding: false
    code: {value: "17621005", scheme: SCT, meaning: Normal}
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from shared.errors import ConfigurationError, WeightsError
from shared.events import NO_TASK, CodedMeaning, Probability, TaskName
from shared.ids import Uid
from shared.manifest import InstanceEntry, SeriesEntry
from shared.vision.explain_reference import REFERENCE_FILE, ExplainReference, read_reference
from shared.vision.frame_policy import FramesPolicy
from shared.vision.heads import LinearHead
from shared.vision.live_version import LIVE_FILE, live_folder

log = logging.getLogger(__name__)

BUILT_IN: Final = Path(__file__).resolve().parent.parent / "tasks"

Code = Annotated[str, Field(pattern=r"^[A-Z0-9_ ]{1,16}$")]


class TaskModel(BaseModel):
    """A frozen value of `task.yaml`; a misspelled name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskClass(TaskModel):
    """One class of a task."""

    label: str = Field(min_length=1)
    is_finding: bool
    code: CodedMeaning | None = None


class ExplainPolicy(TaskModel):
    """Which diagnoses are explained, and by how many maps."""

    policy: Literal["findings", "all", "none"] = "findings"
    max_frames: PositiveInt = 1


class TaskDefinition(TaskModel):
    """What `task.yaml` says."""

    name: TaskName
    title: str
    modalities: tuple[Code, ...] = Field(min_length=1)
    body_parts: tuple[Code, ...] = ()
    sop_classes: tuple[Uid, ...] = ()
    excluded_sop_classes: tuple[Uid, ...] = ()
    excluded_image_types: tuple[Code, ...] = ("LOCALIZER",)
    frames: FramesPolicy | None = None
    max_frames: PositiveInt | None = None
    abstain_below: Probability = 0.5
    ood_distance_above: PositiveFloat | None = None
    explain: ExplainPolicy = ExplainPolicy()
    classes: tuple[TaskClass, ...] = Field(min_length=2)

    def takes(self, series: SeriesEntry, instance: InstanceEntry) -> bool:
        """Whether this task judges the frames of `instance`. A task takes a study if it takes any of its instances."""
        return (
            instance.number_of_frames > 0
            and series.modality.strip().upper() in self.modalities
            and (not self.body_parts or (series.body_part or "").strip().upper() in self.body_parts)
            and (not self.sop_classes or instance.sop_class_uid in self.sop_classes)
            and instance.sop_class_uid not in self.excluded_sop_classes
        )


@dataclass(frozen=True, slots=True)
class Task:
    """A task that can be run.

    Attributes:
        definition: What `task.yaml` says, its classes in the order of the head's labels.
        head: The trained head.
        card: The model card, as parsed from `model-card.json`.
        head_sha256: Of `head.safetensors`; None if the task did not come from files.
        card_sha256: Of `model-card.json`, likewise.
        explain_reference: What maps of random-weight networks span; None: whether maps are reliable is unknown.
    """

    definition: TaskDefinition
    head: LinearHead
    card: Mapping[str, Any]
    head_sha256: str | None = None
    card_sha256: str | None = None
    explain_reference: ExplainReference | None = None

    @property
    def name(self) -> str:
        """The task's name, which its topic carries."""
        return self.definition.name

    @property
    def finding(self) -> NDArray[np.bool_]:
        """(C,) which classes are findings."""
        return np.array([entry.is_finding for entry in self.definition.classes], np.bool_)

    def takes(self, series: SeriesEntry, instance: InstanceEntry) -> bool:
        """See `TaskDefinition.takes`."""
        return self.definition.takes(series, instance)


def task_names(tasks_dir: Path | None = None) -> tuple[str, ...]:
    """The names of the installed tasks, sorted; nothing is loaded.

    Raises:
        ConfigurationError: `tasks_dir` is not a folder.
    """
    return tuple(folder.name for folder in _folders(tasks_dir))


def read_definition(path: Path) -> TaskDefinition:
    """Read a `task.yaml`.

    Raises:
        ConfigurationError: it is not valid.
    """
    try:
        return TaskDefinition.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise ConfigurationError(f"{path} is not a task: {error}") from error


def load_definition(folder: Path) -> TaskDefinition:
    """Read the live `task.yaml` of a task's folder.

    Raises:
        ConfigurationError: it is not valid, or names another task than its folder.
    """
    return _definition_of(folder.name, live_folder(folder))


def load_task(folder: Path) -> Task:
    """Read the live version of one task.

    Raises:
        ConfigurationError: `task.yaml` or the card is not valid, or the live version is not there.
        WeightsError: the head is missing, or does not fit the task.
    """
    return load_version(folder.name, live_folder(folder))


def load_version(name: str, folder: Path) -> Task:
    """Read the version of the task `name` that lies in `folder`.

    Raises:
        ConfigurationError: `task.yaml`, the card or the explanations' reference is not valid.
        WeightsError: the head is missing, or does not fit the task.
    """
    definition = _definition_of(name, folder)
    head = LinearHead.load(folder / "head.safetensors")
    by_label = {entry.label: entry for entry in definition.classes}
    if head.task != definition.name or set(head.labels) != set(by_label) or len(by_label) != len(head.labels):
        raise WeightsError(f"{folder}: the head is of {head.task} with {head.labels}, not of {definition.name}")
    ordered = definition.model_copy(update={"classes": tuple(by_label[label] for label in head.labels)})
    card_path = folder / "model-card.json"
    try:
        card_bytes = card_path.read_bytes()
        card = json.loads(card_bytes)
        head_sha256 = hashlib.sha256((folder / "head.safetensors").read_bytes()).hexdigest()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{card_path} is not a readable model card: {error}") from error
    reference = read_reference(folder / REFERENCE_FILE)
    return Task(ordered, head, card, head_sha256, hashlib.sha256(card_bytes).hexdigest(), reference)


def load_tasks(tasks_dir: Path | None, backbone: str) -> tuple[Task, ...]:
    """The installed tasks whose heads read this backbone's features, sorted by name.

    Args:
        tasks_dir: A folder of task folders; None: the tasks that come with Similis.
        backbone: The backbone's id.

    Raises:
        ConfigurationError: a task is not valid.
        WeightsError: a head is missing or, in a folder that was named, reads another backbone. A task that
            comes with Similis is left out then, with a warning: a chosen backbone must not stop the rest.
    """
    tasks = []
    for folder in _folders(tasks_dir):
        task = load_task(folder)
        if task.head.backbone_id == backbone:
            tasks.append(task)
        elif tasks_dir is not None:
            raise WeightsError(f"{folder}: the head reads {task.head.backbone_id}, the backbone is {backbone}")
        else:
            log.warning("task %s is left out: its head reads %s, not %s", task.name, task.head.backbone_id, backbone)
    return tuple(tasks)


def _folders(tasks_dir: Path | None) -> list[Path]:
    if tasks_dir is not None and not tasks_dir.is_dir():
        raise ConfigurationError(f"SIMILIS_VISION__TASKS_DIR: {tasks_dir} is not a folder")
    found = (path.parent for name in ("task.yaml", LIVE_FILE) for path in (tasks_dir or BUILT_IN).glob(f"*/{name}"))
    # A folder whose candidates were never promoted, or all rolled back, has no task.
    return sorted({folder for folder in found if (live_folder(folder) / "task.yaml").exists()})


def _definition_of(name: str, folder: Path) -> TaskDefinition:
    definition = read_definition(folder / "task.yaml")
    if definition.name != name or definition.name == NO_TASK:
        raise ConfigurationError(
            f"{folder / 'task.yaml'} names the task {definition.name!r}; it must be its folder's name, {name!r}"
        )
    return definition
