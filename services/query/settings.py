"""The query service's settings."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from services.query.access.settings import AuthSection
from services.query.audit.log import AuditSection
from services.query.rate_limits.settings import RateLimitSection
from shared.settings import NextSettings, QdrantSettings, Section, SimilisSettings, VisionSettings


class QuerySection(Section):
    """The HTTP side: what it binds, what it lets in, how much it does at once."""

    host: str = Field("127.0.0.1", description="Address of the API and the page.")
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="Host names that requests may name (JSON list); others get 421. Unset: localhost, 127.0.0.1, "
        "::1 and the bound host, or any (`*`) where the bound address is not a loopback address.",
    )
    trusted_proxies: tuple[str, ...] = Field(
        (),
        description="Addresses and networks of reverse proxies (JSON list). Of a request that comes from one, "
        "X-Forwarded-For says whose it is; of others it says nothing.",
    )
    port: NonNegativeInt = Field(8080, description="Port of the API and the page; 0: any free one.")
    upload_max_bytes: PositiveInt = Field(50_000_000, description="Largest upload; a larger one is answered with 413.")
    upload_max_decoded_bytes: PositiveInt = Field(
        400_000_000, description="Decoded bytes of one upload's used frames; more are refused before decoding."
    )
    upload_max_frames: PositiveInt = Field(
        8, description="Frames of an uploaded multi-frame object that are embedded, chosen evenly."
    )
    body_max_bytes: PositiveInt = Field(1_000_000, description="Largest body of any other request.")
    search_limit_max: PositiveInt = Field(100, description="Most neighbours in one answer.")
    search_timeout_s: PositiveFloat = Field(
        60.0, description="Longest a search or a comparison of frames may take before it is answered with 504."
    )
    search_pages_max: PositiveInt = Field(
        500, le=5000, description="Most neighbours of one search on all its pages together."
    )
    batch_searches_max: PositiveInt = Field(32, le=1000, description="Most searches in one batch.")
    matches_max: PositiveInt = Field(6, description="Most pairs of regions in a comparison of two frames.")
    search_frames_max: PositiveInt = Field(
        256, description="Most indexed frames that are averaged into one query vector."
    )
    exclude_own_patient: bool = Field(
        True, description="Unless a search says otherwise, leave out every study of the query's own patient."
    )
    page_size_max: PositiveInt = Field(200, description="Most studies in one page of the list.")
    frames_listed_max: PositiveInt = Field(4096, description="Most frames listed of one series.")
    picture_max_px: PositiveInt = Field(2048, description="Longest side of a rendered frame.")
    picture_cache_bytes: PositiveInt = Field(128_000_000, description="Memory for rendered frames and map layers.")
    stack_order_max: PositiveInt = Field(
        512, description="Series with more objects are shown in the manifest's order, not in anatomical order."
    )
    catalogue_max_age_s: NonNegativeFloat = Field(
        2.0, description="The list of studies is read anew from the archive when it is older than this."
    )
    catalogue_recheck_s: NonNegativeFloat = Field(
        30.0, description="A listed study's documents are read again after this, even if no key of it changed."
    )
    event_poll_s: PositiveFloat = Field(
        2.0, description="While somebody listens to events, studies are looked at this often."
    )
    event_keep_alive_s: PositiveFloat = Field(
        15.0, description="A stream of events without one sends a comment after this."
    )
    event_stream_max_s: PositiveFloat = Field(
        3600.0, description="A stream of events ends after this; the client connects again, with its credentials."
    )
    event_listeners_max: PositiveInt = Field(64, description="Open streams of events; more are answered with 503.")
    event_listeners_per_user_max: PositiveInt = Field(
        8, description="Open streams of events of one signed-in user; more are answered with 503."
    )
    event_kept_max: PositiveInt = Field(
        1000, description="Latest events kept for streams that are read slowly or resumed; older ones become a reset."
    )
    explanation_frames_max: PositiveInt = Field(8, le=16, description="Most frames in one request for saliency maps.")
    explanation_requests_max: PositiveInt = Field(
        64, description="Most different requests for saliency maps of one study; more are answered with 409."
    )
    writable: bool = Field(
        True, description="Take labels and requests for maps, which are kept in the archive; false answers 403."
    )
    label_definitions: tuple[Path, ...] = Field(
        (), description="task.yaml files (JSON list) of tasks that have no head yet and are to be labelled."
    )
    label_records_max: PositiveInt = Field(1000, description="Most changes of one label.")
    label_places_max: PositiveInt = Field(
        4096, description="Most labels of one study for one task: its own, of series, objects and frames."
    )
    queue_timeout_s: PositiveFloat = Field(
        20.0, description="Longest a request waits for a free worker before it is answered with 503."
    )
    workers: PositiveInt = Field(8, description="Requests that read the index or the archive at the same time.")
    decoders: PositiveInt = Field(2, description="Frames that are decoded or drawn at the same time.")
    decode_workers: NonNegativeInt = Field(
        2, description="Worker processes that decode uploads and archived frames. 0: decode in the service itself."
    )
    decode_timeout_s: PositiveFloat = Field(
        10.0, description="Longest decode of one frame; then its worker is replaced and the frame is undecodable."
    )
    decode_memory_bytes: NonNegativeInt = Field(
        4 * 1024**3, description="Address space that a decode worker may take beyond its start's; 0: no limit."
    )
    encoders: PositiveInt = Field(1, description="Uploads that are embedded at the same time.")
    retry_after_s: PositiveInt = Field(5, description="Retry-After of an answer with 503.")
    live_poll_s: PositiveFloat = Field(
        5.0, description="The alias `live` is read this often; when it was switched, the other backbone is loaded."
    )
    start_pause_s: PositiveFloat = Field(2.0, description="Pause before an index that is away is tried again at start.")
    auth: AuthSection = AuthSection()
    audit: AuditSection = AuditSection()
    rate_limit: RateLimitSection = RateLimitSection()


class QuerySettings(SimilisSettings):
    """Settings of the query service: SIMILIS_QUERY__*, with the shared sections."""

    query: QuerySection = QuerySection()
    qdrant: QdrantSettings = QdrantSettings()
    vision: VisionSettings = VisionSettings()
    next: NextSettings = NextSettings()
