"""Settings of the embedded engine's owner process, `similis index`."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from shared.settings import Section, SimilisSettings


class IndexSection(Section):
    """The embedded vector engine."""

    flat_below_points: PositiveInt = Field(
        50_000, description="Up to this many points search is exact; beyond it a graph (HNSW) over int8 is built."
    )
    graph_links: PositiveInt = Field(16, description="Links of a point in the graph (HNSW m).")
    graph_build_width: PositiveInt = Field(128, description="Candidates while the graph is built (ef_construct).")
    graph_build_threads: NonNegativeInt = Field(0, description="CPU threads that build the graph; 0: the engine's own.")
    graph_search_width: PositiveInt = Field(64, description="Candidates while the graph is searched (ef).")
    oversampling: float = Field(
        2.0, ge=1, description="So many times the wanted points are found by int8 and ranked anew by the originals."
    )
    optimize_idle_s: PositiveFloat = Field(
        5.0, description="Without writes for this long, the engine tidies up where that is due, in another process."
    )
    optimize_every_s: PositiveFloat = Field(
        60.0, description="While writes go on, the engine tidies up at most this often, and about this often."
    )
    build_timeout_s: PositiveFloat = Field(3600.0, description="A graph that takes longer to build is given up.")
    points_per_turn: PositiveInt = Field(
        500, description="So many points are stored before a search that waits has its turn."
    )
    max_request_bytes: PositiveInt = Field(268_435_456, description="Larger requests are refused.")
    stuck_after_s: PositiveFloat = Field(600.0, description="An engine call longer than this makes /livez fail.")
    shutdown_grace_s: PositiveInt = Field(10, description="On SIGTERM, longest wait for requests under way.")


class IndexSettings(SimilisSettings):
    """`similis index`, from SIMILIS_INDEX__*."""

    index: IndexSection = IndexSection()
