"""Settings of how often a client may ask: SIMILIS_QUERY__RATE_LIMIT__*."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveInt

from shared.settings import Section


class RateLimitSection(Section):
    """Most requests of one user, or of one address where nobody is asked who they are. 0: any number."""

    searches_per_minute: NonNegativeInt = Field(600, description="Searches and comparisons; a batch is one.")
    uploads_per_minute: NonNegativeInt = Field(120, description="Searches and comparisons with an uploaded file.")
    pictures_per_minute: NonNegativeInt = Field(
        0, description="Frames and maps as pictures; one page shows hundreds of them."
    )
    writes_per_minute: NonNegativeInt = Field(600, description="Labels and requests for maps.")
    others_per_minute: NonNegativeInt = Field(0, description="Whatever else is under /v1.")
    failed_sign_ins_per_minute: NonNegativeInt = Field(
        30, description="Different credentials of one address that are refused; further ones are not looked at."
    )
    clients_max: PositiveInt = Field(
        10_000,
        description="Users and addresses that are counted; of more, those that were quiet longest are forgotten.",
    )
