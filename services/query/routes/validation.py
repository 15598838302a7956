"""GET /v1/validation: how good the installed heads are, as their reports say."""

from __future__ import annotations

from fastapi import APIRouter

from services.query.parameters import Task
from services.query.parts import Ready
from services.query.problems import Problem
from services.query.validation import ValidatedTasks, Validation, validated_tasks, validation_of

router = APIRouter(tags=["about"])


@router.get("/v1/validation", summary="Tasks with a validation report")
async def list_validation(parts: Ready) -> ValidatedTasks:
    """Read from the tasks' folders at this moment."""
    return await parts.readers.run(lambda: validated_tasks(parts.tasks_dir))


@router.get("/v1/validation/{task}", summary="Confusion, ROC, calibration and retrieval of one task")
async def get_validation(task: Task, parts: Ready) -> Validation:
    """Of the live head, on cases that its training never saw. A part that was not measured is null; see `commands`."""
    found = await parts.readers.run(lambda: validation_of(parts.tasks_dir, task))
    if found is None:
        raise Problem(404, "unknown-task", "No task of this name is installed.")
    return found
