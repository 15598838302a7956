"""The embedder's settings: SIMILIS_EMBEDDER__*, beside the shared sections."""

from __future__ import annotations

from pydantic import Field, PositiveFloat, PositiveInt

from shared.settings import QdrantSettings, Section, SimilisSettings, VisionSettings


class EmbedderSection(Section):
    """How studies are embedded. Frames and their limits are set in the vision section."""

    upsert_points: PositiveInt = Field(256, description="Points sent to the index in one call.")
    max_evidence_frames: PositiveInt = Field(8, description="Evidence frames named in a diagnosis.")
    max_listed_skips: PositiveInt = Field(
        500, description="Skipped objects listed in a diagnosis; the rest is counted."
    )
    stuck_after_s: PositiveFloat = Field(
        600.0, description="With a study under way and no frame finished for this long, /livez fails."
    )


class EmbedderSettings(SimilisSettings):
    """Everything the embedder reads from the environment."""

    vision: VisionSettings = VisionSettings()
    qdrant: QdrantSettings = QdrantSettings()
    embedder: EmbedderSection = EmbedderSection()
