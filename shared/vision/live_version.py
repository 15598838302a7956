"""Which version of a task is live: `live.json` in the task's folder names one of the folders in `versions/`.

    brain-mr/live.json                      {"version": "0f3c…-1a2b…", "audit": […]}
    brain-mr/versions/<version>/            task.yaml, head.safetensors, model-card.json, model-card.md, figures/
    brain-mr/task.yaml, head.safetensors…   the task as it was installed; live while `live.json` names no version

A version's folder never changes once it is there, and `live.json` is replaced by one rename: a reader that asks
once and then reads from the folder that it was told sees one version, whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from shared.errors import ConfigurationError

LIVE_FILE: Final = "live.json"
VERSIONS: Final = "versions"

# `<12 hex digits of the head's id>-<8 of its card's sha256>`: it can leave no folder.
VersionName = Annotated[str, Field(pattern=r"^[0-9a-f]{12}-[0-9a-f]{8}$")]


class LiveModel(BaseModel):
    """A frozen value of `live.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class AuditEntry(LiveModel):
    """One change of what is live. It names no person.

    Attributes:
        version: What went live; None: the task as it was installed.
        replaced: What was live before.
        card_sha256: Of the model card that was read before the change.
    """

    at: AwareDatetime
    action: Literal["promote", "rollback"]
    version: VersionName | None
    replaced: VersionName | None
    head_id: str | None = None
    head_sha256: str | None = None
    card_sha256: str | None = None


class LiveVersion(LiveModel):
    """What is live, what a rollback goes back to, and how it came to that: one file, so that they always agree.

    Attributes:
        earlier: What was live before, the latest last.
        audit: Every change, the latest last.
    """

    version: VersionName | None = None
    earlier: tuple[VersionName | None, ...] = ()
    audit: tuple[AuditEntry, ...] = ()


def read_live(task_folder: Path) -> LiveVersion:
    """What is live; nothing was ever promoted: the task as installed.

    Raises:
        ConfigurationError: `live.json` is not valid.
    """
    path = task_folder / LIVE_FILE
    try:
        return LiveVersion.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return LiveVersion()
    except (OSError, ValidationError) as error:
        raise ConfigurationError(f"{path} does not say which version is live: {type(error).__name__}") from error


def version_folder(task_folder: Path, version: str | None) -> Path:
    """The folder of a version; None: of the task as installed."""
    return task_folder if version is None else task_folder / VERSIONS / version


def live_folder(task_folder: Path) -> Path:
    """The folder that holds the live version's files. Ask once, then read them all from there.

    Raises:
        ConfigurationError: `live.json` is not valid, or names a version that is not there.
    """
    version = read_live(task_folder).version
    folder = version_folder(task_folder, version)
    if version is not None and not folder.is_dir():
        raise ConfigurationError(f"{task_folder / LIVE_FILE} names the version {version}, which is not there")
    return folder
