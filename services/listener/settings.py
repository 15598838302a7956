"""The listener's settings: SIMILIS_LISTENER__<FIELD>."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from services.listener.access import AccessSection
from services.listener.audit import AuditSection
from services.listener.tls import TlsSection
from shared.settings import Section, SimilisSettings


class StowSection(Section):
    """STOW-RS (PS3.18 section 10.5), a second door for objects."""

    host: str = Field("127.0.0.1", description="Address to bind for STOW-RS.")
    port: int | None = Field(
        None, ge=0, le=65535, description="Port to bind for STOW-RS; 0: any free one. Unset: no STOW-RS."
    )
    ae_title: str = Field(
        "STOW-RS",
        min_length=1,
        max_length=16,
        description="What counts as the calling AE title of its objects, in allow-lists and rules, too.",
    )
    token_file: Path | None = Field(
        None, description="File with the bearer token that a request must have. Unset: none is asked for."
    )
    max_requests: PositiveInt = Field(8, description="Requests at a time; more are answered with 503.")
    max_request_bytes: PositiveInt = Field(4_294_967_296, description="Longest request; longer ones get 413.")
    max_parts: PositiveInt = Field(5_000, description="Parts of a request; with more it gets 413.")
    body_timeout_s: PositiveFloat = Field(
        30.0, description="Longest silence within a request, and longest wait for the whole of its head."
    )
    min_receive_bytes_per_s: NonNegativeInt = Field(
        1_000, description="A request that comes slower than this, after body_timeout_s, gets 408; 0: any rate."
    )
    tls: TlsSection = TlsSection()


class ListenerSection(Section):
    """Receiving objects and closing studies."""

    host: str = Field("127.0.0.1", description="Address to bind for DICOM.")
    port: int = Field(11112, ge=0, le=65535, description="Port to bind for DICOM; 0: any free one.")
    ae_title: str = Field("SIMILIS", min_length=1, max_length=16, description="The listener's own AE title.")
    journal_dir: Path = Field(
        Path("similis-data/journal"), description="Where received objects are kept until their study is published."
    )
    pseudonym_key_file: Path = Field(
        Path("similis-data/pseudonym.key"), description="Secret key of the patients' pseudonyms."
    )
    generate_pseudonym_key: bool = Field(
        False, description="Make the key file if there is none; otherwise a missing one is an error."
    )
    crosswalk_file: Path | None = Field(
        Path("similis-data/crosswalk"),
        description="Where it is kept, encrypted, whose each pseudonym is. Unset to keep no such thing.",
    )
    crosswalk_key_file: Path | None = Field(
        None, description="Secret key of the crosswalk. Unset: that of the pseudonyms."
    )
    rules_file: Path | None = Field(
        None, description="YAML file of routing rules (docs/listener-rules.md). Unset: every object is kept."
    )
    study_quiet_s: PositiveFloat = Field(
        10.0, description="A study closes once it has been quiet this long and no open association carries it."
    )
    study_max_age_s: PositiveFloat = Field(
        1800.0, description="A study closes this long after its first object, even while more arrive."
    )
    conflicts: Literal["refuse", "keep-aside"] = Field(
        "refuse",
        description="An object unlike the first one of its SOP Instance UID: refuse it with 0x0111, or keep it in the "
        "journal's folder `conflicting` and answer Success. Neither touches the first one.",
    )
    sop_classes: tuple[str, ...] = Field(
        (), description="SOP Class UIDs that are accepted for storage, with * and ?. Unset: every one."
    )
    max_associations: PositiveInt = Field(100, description="Associations at a time; more are rejected.")
    max_associations_per_peer: PositiveInt = Field(
        25, description="Associations at a time from one IP address; more are rejected."
    )
    max_objects_per_association: NonNegativeInt = Field(
        0, description="Objects that one association may send before it is aborted; 0: any number."
    )
    acse_timeout_s: PositiveFloat = Field(
        30.0, description="ARTIM: longest wait for a whole association request once a peer has connected."
    )
    network_timeout_s: PositiveFloat = Field(60.0, description="An association idle this long is aborted.")
    pdu_timeout_s: PositiveFloat = Field(
        30.0, description="Longest silence within a message, and for a peer to take an answer."
    )
    min_receive_bytes_per_s: NonNegativeInt = Field(
        1_000, description="A sender slower than this, after pdu_timeout_s of one message, is aborted; 0: any rate."
    )
    max_pdu_bytes: int = Field(
        131_072, ge=0, le=0xFFFFFFFF, description="Longest PDU that senders are told to use; 0: any length."
    )
    max_object_bytes: PositiveInt = Field(
        1_073_741_824, description="Longest data set, also once inflated; longer ones are refused with 0xA700."
    )
    min_free_disk_bytes: NonNegativeInt = Field(
        1_073_741_824, description="With less free than this on the journal's disk, objects are refused with 0xA700."
    )
    min_free_disk_files: NonNegativeInt = Field(
        10_000,
        description="With fewer free inodes than this, and than two for each object waiting, objects are refused with "
        "0xA700; 0: not looked at.",
    )
    publish_concurrency: PositiveInt = Field(4, description="Studies being brought to the archive at a time.")
    publish_retry_s: PositiveFloat = Field(0.5, description="First pause before publishing is tried again; doubles.")
    publish_retry_max_s: PositiveFloat = Field(30.0, description="Longest pause before publishing is tried again.")
    commitment_peers: tuple[str, ...] = Field(
        (),
        description="Where requestors of storage commitment listen for the report, as AE=host:port. Others get it only "
        "on the association that they asked on.",
    )
    commitment_wait_s: PositiveFloat = Field(
        3600.0, description="Longest wait for objects to be archived that storage commitment is asked for."
    )
    commitment_retry_s: PositiveFloat = Field(
        5.0, description="First pause before a report of storage commitment is sent again; doubles."
    )
    commitment_retry_max_s: PositiveFloat = Field(
        600.0, description="Longest pause before a report of storage commitment is sent again."
    )
    commitment_retry_max_age_s: PositiveFloat = Field(
        172_800.0, description="A request for storage commitment that could not be reported by then is given up."
    )
    commitment_max_transactions: PositiveInt = Field(
        10_000, description="Requests for storage commitment not reported yet; more are refused with 0x0213."
    )
    access: AccessSection = AccessSection()
    tls: TlsSection = TlsSection()
    audit: AuditSection = AuditSection()
    stow: StowSection = StowSection()


class ListenerSettings(SimilisSettings):
    """Settings of the listener's process."""

    listener: ListenerSection = ListenerSection()
