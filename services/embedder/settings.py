"""The embedder's settings: SIMILIS_EMBEDDER__*, beside the shared sections."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from shared.settings import NextSettings, QdrantSettings, Section, SimilisSettings, VisionSettings


class EmbedderSection(Section):
    """How studies are embedded. Frames and their limits are set in the vision section."""

    studies_at_once: PositiveInt = Field(
        2,
        description="Studies under way at once; their frames share the model's batches. More than partitions is idle.",
    )
    batch_wait_s: NonNegativeFloat = Field(
        0.25, description="Longest wait for a batch to fill while a study under way still decodes."
    )
    decode_workers: NonNegativeInt | None = Field(
        None, description="Worker processes that decode. Unset: one a CPU, at most 8. 0: decode in the service itself."
    )
    decode_timeout_s: PositiveFloat = Field(
        30.0, description="Longest decode of one frame; then its worker is replaced and the frame counts as failed."
    )
    decode_memory_bytes: NonNegativeInt = Field(
        4 * 1024**3, description="Address space that a decode worker may take beyond its start's; 0: no limit."
    )
    upsert_points: PositiveInt = Field(256, description="Points sent to the index in one call.")
    max_evidence_frames: PositiveInt = Field(8, description="Evidence frames named in a diagnosis.")
    region_frames_max: NonNegativeInt = Field(
        8, description="Frames of a study that can be found by region: evidence first, then others evenly. 0: none."
    )
    region_grid: PositiveInt = Field(4, le=16, description="Cells across and down a frame, each a region.")
    max_listed_skips: PositiveInt = Field(
        500, description="Skipped objects listed in a diagnosis; the rest is counted."
    )
    stuck_after_s: PositiveFloat = Field(
        600.0, description="With a study under way and no frame finished for this long, /livez fails."
    )


class EmbedderSettings(SimilisSettings):
    """Everything the embedder reads from the environment."""

    vision: VisionSettings = VisionSettings()
    next: NextSettings = NextSettings()
    qdrant: QdrantSettings = QdrantSettings()
    embedder: EmbedderSection = EmbedderSection()
