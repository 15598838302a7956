"""Settings of the one-machine profile: SIMILIS_LOCAL__*, and what `similis up` takes as options."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from shared.settings import QdrantSettings, Section, SimilisSettings, VisionSettings


class LocalSection(Section):
    """How the children are run."""

    kafka_heap_mb: PositiveInt = Field(512, ge=128, description="Largest heap of the Kafka broker, in MiB.")
    allow_volatile_broker: bool = Field(
        True,
        description="Without Java or Maven, use the Tansu broker of the extra `volatile-broker` if it is installed: "
        "it keeps every event in memory only.",
    )
    start_timeout_s: PositiveFloat = Field(300.0, description="Longest wait until everything is ready.")
    stop_timeout_s: PositiveFloat = Field(
        40.0, description="Longest wait for a child to end after SIGTERM; then it is killed."
    )
    restart_pause_s: PositiveFloat = Field(
        1.0, description="Pause before a child that died is started again; doubles, up to 30 s."
    )
    log_bytes: PositiveInt = Field(10_000_000, description="Size of one child's log file; one older is kept.")


class LocalSettings(SimilisSettings):
    """Settings of `similis up`."""

    data: Path = Field(Path("similis-data"), description="Folder that holds everything; made if missing.")
    dicom_port: NonNegativeInt = Field(11112, le=65535, description="DICOM port; 0: any free one.")
    http_port: NonNegativeInt = Field(8080, le=65535, description="Port of the page and the API; 0: any free one.")
    kafka_port: NonNegativeInt = Field(
        0, le=65535, description="Port of the broker; 0: any free one, the same again after a restart."
    )
    ae_title: str = Field("SIMILIS", min_length=1, max_length=16, description="AE title of the listener.")
    study_quiet_s: PositiveFloat = Field(10.0, description="Quiet time after which a study is complete.")
    local: LocalSection = LocalSection()
    qdrant: QdrantSettings = QdrantSettings()
    vision: VisionSettings = VisionSettings()
