"""Settings of the embedded engine's owner process, `similis index`."""

from __future__ import annotations

from pydantic import Field, PositiveFloat, PositiveInt

from shared.settings import Section, SimilisSettings


class IndexSection(Section):
    """The embedded vector engine."""

    flat_below_points: PositiveInt = Field(
        50_000, description="Up to this many points search is exact; beyond it a graph (HNSW) is built."
    )
    optimize_idle_s: PositiveFloat = Field(
        5.0, description="Without writes for this long, the engine tidies up. Building a graph blocks every request."
    )
    max_request_bytes: PositiveInt = Field(268_435_456, description="Larger requests are refused.")
    stuck_after_s: PositiveFloat = Field(600.0, description="An engine call longer than this makes /livez fail.")
    shutdown_grace_s: PositiveInt = Field(10, description="On SIGTERM, longest wait for requests under way.")


class IndexSettings(SimilisSettings):
    """`similis index`, from SIMILIS_INDEX__*."""

    index: IndexSection = IndexSection()
