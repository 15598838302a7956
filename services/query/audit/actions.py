"""What each route does to studies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from starlette.routing import compile_path


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that a client can do.

    Attributes:
        name: Its word in the log.
        code: EventActionCode of DICOM Instances Accessed: C, R or U; E: it is a Query, of many studies.
        is_often: Whether looking at one study makes many of it.
    """

    name: str
    code: Literal["C", "R", "U", "E"]
    is_often: bool = False


_STUDY: Final = "/v1/studies/{study_instance_uid}"

ACTIONS: Final[Mapping[tuple[str, str], Action]] = {
    ("POST", "/v1/search"): Action("search", "E"),
    ("POST", "/v1/search/batch"): Action("search-batch", "E"),
    ("POST", "/v1/search/upload"): Action("search-upload", "E"),
    ("POST", "/v1/matches"): Action("match", "R"),
    ("POST", "/v1/matches/upload"): Action("match-upload", "R"),
    ("GET", "/v1/studies"): Action("list", "E"),
    ("GET", "/v1/facets"): Action("facets", "E"),
    ("GET", "/v1/events"): Action("events", "E"),
    ("GET", "/v1/labels/{task}"): Action("task-labels", "E"),
    ("GET", _STUDY): Action("study", "R"),
    ("GET", f"{_STUDY}/instances/{{sop_instance_uid}}/frames/{{frame_number}}.png"): Action(
        "frame", "R", is_often=True
    ),
    ("GET", f"{_STUDY}/explanations/{{task}}/{{name}}.png"): Action("map", "R", is_often=True),
    ("GET", f"{_STUDY}/explanations/{{task}}/{{name}}.json"): Action("map-record", "R"),
    ("GET", f"{_STUDY}/explanation-requests/{{request_id}}"): Action("map-request", "R"),
    ("POST", "/v1/explanations"): Action("map-requested", "C"),
    ("GET", f"{_STUDY}/labels"): Action("labels", "R"),
    ("PUT", f"{_STUDY}/labels/{{task}}"): Action("label-given", "U"),
    ("DELETE", f"{_STUDY}/labels/{{task}}"): Action("label-withdrawn", "U"),
}
"""By method and route template."""

SESSION_PATH: Final = "/v1/session"
"""Where people sign in and out."""

NOT_RECORDED: Final = frozenset({"/v1/info", "/v1/validation", "/v1/validation/{task}"})
"""Routes under /v1 that tell of no study."""

_PATTERNS: Final[list[tuple[str, re.Pattern[str], Action]]] = [
    (method, compile_path(template)[0], action) for (method, template), action in ACTIONS.items()
]


def action_of(method: str, path: str) -> tuple[Action, str | None] | None:
    """The action that a request asks for, and the study that its path names; None if it is about no study.

    Known before the request is routed: one that is refused at the door is recorded too.
    """
    for wanted, pattern, action in _PATTERNS:
        if method == wanted and (found := pattern.match(path)) is not None:
            return action, found.groupdict().get("study_instance_uid")
    return None
