"""Keys of what is archived: relative paths of `[A-Za-z0-9._-]`; no component starts with a dot."""

from __future__ import annotations

import re
from typing import Final, Literal
from uuid import UUID

RequestState = Literal["asked", "explained", "failed"]

_KEY: Final = re.compile(r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$")


def instance_key(study: str, series: str, sop: str) -> str:
    """Key of one SOP instance."""
    return f"instances/{study}/{series}/{sop}.dcm"


def manifest_key(study: str, revision: int) -> str:
    """Key of a study's manifest at one revision."""
    return f"manifests/{study}/{revision}.json"


def diagnosis_key(study: str, revision: int, task: str) -> str:
    """Key of one task's diagnosis of a study's revision."""
    return f"diagnoses/{study}/{revision}/{task}.json"


def explanation_key(study: str, revision: int, task: str, name: str) -> str:
    """Key of something that explains a diagnosis; `name` has the suffix."""
    return f"explanations/{study}/{revision}/{task}/{name}"


def explanation_request_key(study: str, revision: int, task: str, request_id: UUID, state: RequestState) -> str:
    """Key of a request for maps of a diagnosis: what was asked, what came of it, or why nothing did."""
    return explanation_key(study, revision, task, f"request-{request_id}.{state}.json")


def is_key(key: str) -> bool:
    """Whether `key` is one."""
    return _KEY.fullmatch(key) is not None


def check_key(key: str) -> str:
    """Return `key` if it is one; raise ValueError if it could leave the archive's folder."""
    if not is_key(key):
        raise ValueError(f"not an archive key: {key!r}")
    return key
