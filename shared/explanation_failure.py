"""The archived note that a request for maps came to nothing. The explainer writes it, the query service tells it."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from shared.events import RESEARCH_USE_ONLY


class ExplanationFailure(BaseModel):
    """Why there is no map. `asked_at` tells which asking it answers: the same may be asked again."""

    model_config = ConfigDict(frozen=True)

    notice: Literal["research use only"] = RESEARCH_USE_ONLY
    request_id: UUID
    asked_at: AwareDatetime
    reason: str
