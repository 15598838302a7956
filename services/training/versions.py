"""Versions of a task: a trained candidate is kept, and goes live only by being promoted.

    train ─▶ versions/<version>/  ─▶ promote ─▶ live.json  ◀─ rollback

Nothing is ever overwritten but `live.json`, by one rename: whatever dies in between, either the old or the new
version is live, and `live.json` itself says how it came to that.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from shared.errors import ConfigurationError
from shared.vision.live_version import (
    LIVE_FILE,
    VERSIONS,
    AuditEntry,
    LiveVersion,
    VersionName,
    read_live,
    version_folder,
)
from shared.vision.tasks import Task, load_version

HEAD_FILE: Final = "head.safetensors"
CARD_FILE: Final = "model-card.json"
MARKDOWN_FILE: Final = "model-card.md"
DEFINITION_FILE: Final = "task.yaml"
_LOCK: Final = ".lock"
_PARTIAL: Final = ".partial-"


@dataclass(frozen=True, slots=True)
class Version:
    """A kept version.

    Attributes:
        version: Its name; None: the task as it was installed.
        head_id: Of its head.
        accuracy: Study accuracy of its card's first evaluation, as text with its interval.
        is_live: Whether services load it.
        problem: Why it cannot be promoted; None if it can.
    """

    version: str | None
    head_id: str | None
    accuracy: str | None
    is_live: bool
    problem: str | None


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def keep_candidate(task_folder: Path, write: Callable[[Path], None]) -> str:
    """Keep what `write` puts into the folder that it is given as a version of its own; nothing goes live.

    The name comes from the content: the same head with the same card is the same version.

    Raises:
        ConfigurationError: what was written is no task.
    """
    versions = task_folder / VERSIONS
    versions.mkdir(parents=True, exist_ok=True)
    with _locked(task_folder):
        for leftover in versions.glob(f"{_PARTIAL}*"):
            shutil.rmtree(leftover)
        partial = versions / f"{_PARTIAL}{os.getpid()}"
        partial.mkdir()
        try:
            write(partial)
            version = version_of(load_version(task_folder.name, partial), partial)
            if not (versions / version).exists():
                for path in sorted(partial.rglob("*"), reverse=True):
                    _fsync(path)
                _fsync(partial)
                partial.rename(versions / version)
                _fsync(versions)
        finally:
            if partial.exists():
                shutil.rmtree(partial)
    return version


def version_of(task: Task, folder: Path) -> str:
    """The name of the version that lies in `folder`."""
    return f"{task.head.id.rpartition('@')[2]}-{_sha256(folder / CARD_FILE)[:8]}"


def promote(task_folder: Path, version: str, *, backbone: str, clock: Callable[[], datetime] = now) -> LiveVersion:
    """Make a kept version live. Services load it when they start next.

    Args:
        task_folder: The task's folder.
        version: As `versions_of` names it.
        backbone: Id of the backbone that the services run.
        clock: The time of the audit entry.

    Raises:
        ConfigurationError: there is no such version, or it must not go live: see `problem_of`.
    """
    check_name(version)
    folder = version_folder(task_folder, version)
    if not folder.is_dir():
        raise ConfigurationError(f"{task_folder.name} has no version {version}")
    with _locked(task_folder):
        if problem := problem_of(task_folder, version, backbone):
            raise ConfigurationError(f"{task_folder.name} {version} is not promoted: {problem}")
        live = read_live(task_folder)
        if live.version == version:
            return live
        entry = _entry("promote", task_folder, version, live.version, clock)
        promoted = LiveVersion(version=version, earlier=(*live.earlier, live.version), audit=(*live.audit, entry))
        _swap(task_folder, promoted)
    return promoted


def rollback(task_folder: Path, *, backbone: str, clock: Callable[[], datetime] = now) -> LiveVersion:
    """Make live what was live before the last promotion.

    Raises:
        ConfigurationError: nothing was, or it must not go live under this backbone.
    """
    with _locked(task_folder):
        live = read_live(task_folder)
        if not live.earlier:
            raise ConfigurationError(f"{task_folder.name} has nothing to go back to")
        *earlier, version = live.earlier
        if version is None and not (task_folder / DEFINITION_FILE).exists():
            raise ConfigurationError(f"{task_folder.name} has nothing to go back to: its first version is live")
        if problem := problem_of(task_folder, version, backbone):
            raise ConfigurationError(f"{task_folder.name} cannot go back to {version or 'as installed'}: {problem}")
        entry = _entry("rollback", task_folder, version, live.version, clock)
        back = LiveVersion(version=version, earlier=tuple(earlier), audit=(*live.audit, entry))
        _swap(task_folder, back)
    return back


def problem_of(task_folder: Path, version: str | None, backbone: str) -> str | None:
    """Why this version must not go live; None if it may."""
    folder = version_folder(task_folder, version)
    try:
        task = load_version(task_folder.name, folder)
    except ConfigurationError as error:
        return str(error)
    if task.head.backbone_id != backbone:
        return f"its head reads the backbone {task.head.backbone_id}, the services run {backbone}"
    if version is not None and version != version_of(task, folder):
        return "its files are not those that it was named after"
    if task.card.get("head_id") != task.head.id or task.card.get("head_sha256") != _sha256(folder / HEAD_FILE):
        return "its model card describes another head"
    # The task as installed may have a card of before definitions were hashed.
    if version is not None and task.card.get("definition_sha256") != _sha256(folder / DEFINITION_FILE):
        return "its model card was written for another task.yaml"
    if version is not None and not task.card.get("calibration"):
        return "its head was never calibrated"
    return None if version is None else _calibration_problem(task)


def _calibration_problem(task: Task) -> str | None:
    """Calibrated probabilities that say no more than the classes' frequencies do, or that no fit vouches for."""
    facts = task.card["calibration"]
    if facts.get("at_bound"):
        return "its calibration ended at a limit of what may be fitted: its probabilities mean nothing"
    # A card of before the frequencies were told: no frequencies are further from certain than equal ones.
    prior, after = facts.get("nll_prior"), facts.get("nll_after")
    prior = math.log(len(task.head.labels)) if prior is None else prior
    if after is not None and not after < prior:
        return (
            f"its negative log-likelihood of {after:.3f} is not below the {prior:.3f} of the classes' frequencies alone"
        )
    return None


def versions_of(task_folder: Path, backbone: str) -> list[Version]:
    """All kept versions, the installed one first, then by age."""
    live = read_live(task_folder).version
    kept = [path for path in (task_folder / VERSIONS).glob("*") if not path.name.startswith(_PARTIAL)]
    kept.sort(key=lambda path: (path.stat().st_mtime_ns, path.name))
    names: list[str | None] = [None] if (task_folder / DEFINITION_FILE).exists() else []
    return [_describe(task_folder, name, live, backbone) for name in (*names, *(path.name for path in kept))]


def task_folders(tasks_dir: Path) -> Iterator[Path]:
    """The folders of tasks that are installed or have candidates."""
    for folder in sorted(tasks_dir.iterdir()) if tasks_dir.is_dir() else ():
        if (folder / DEFINITION_FILE).exists() or (folder / VERSIONS).is_dir():
            yield folder


def _describe(task_folder: Path, version: str | None, live: str | None, backbone: str) -> Version:
    card: dict[str, Any] = {}
    try:
        card = json.loads((version_folder(task_folder, version) / CARD_FILE).read_text(encoding="utf-8"))
        estimate = card["evaluations"][0]["study"]["accuracy"]
        accuracy = f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        accuracy = None
    problem = problem_of(task_folder, version, backbone)
    return Version(version, card.get("head_id"), accuracy, version == live, problem)


def _entry(
    action: str, task_folder: Path, version: str | None, replaced: str | None, clock: Callable[[], datetime]
) -> AuditEntry:
    folder = version_folder(task_folder, version)
    return AuditEntry.model_validate(
        {
            "at": clock(),
            "action": action,
            "version": version,
            "replaced": replaced,
            "head_id": load_version(task_folder.name, folder).head.id,
            "head_sha256": _sha256(folder / HEAD_FILE),
            "card_sha256": _sha256(folder / CARD_FILE),
        }
    )


def _swap(task_folder: Path, live: LiveVersion) -> None:
    """Replace `live.json` atomically and durably."""
    partial = task_folder / f".{LIVE_FILE}.partial"
    with open(partial, "w", encoding="utf-8") as file:
        file.write(live.model_dump_json(indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, task_folder / LIVE_FILE)
    _fsync(task_folder)


@contextmanager
def _locked(task_folder: Path) -> Iterator[None]:
    """Only one process changes a task's versions; the lock goes with the process."""
    try:
        file = open(task_folder / _LOCK, "w")  # noqa: SIM115
    except OSError as error:
        raise ConfigurationError(f"{task_folder} is no folder of a task that can be written: {error}") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check_name(version: str) -> None:
    """Refuse what cannot be a version's name, such as a path.

    Raises:
        ConfigurationError: it cannot.
    """
    try:
        TypeAdapter(VersionName).validate_python(version)
    except ValidationError:
        raise ConfigurationError(f"{version!r} is no version's name; `similis task list` shows them") from None


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
