"""The listener's settings: SIMILIS_LISTENER__<FIELD>."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from shared.settings import Section, SimilisSettings


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
    study_quiet_s: PositiveFloat = Field(
        10.0, description="A study closes once it has been quiet this long and no open association carries it."
    )
    study_max_age_s: PositiveFloat = Field(
        1800.0, description="A study closes this long after its first object, even while more arrive."
    )
    max_associations: PositiveInt = Field(25, description="Associations at a time; more are rejected.")
    acse_timeout_s: PositiveFloat = Field(30.0, description="Longest wait for an association request or release.")
    dimse_timeout_s: PositiveFloat = Field(60.0, description="Longest wait for the rest of a DIMSE message.")
    network_timeout_s: PositiveFloat = Field(60.0, description="An association idle this long is aborted.")
    pdu_timeout_s: PositiveFloat = Field(30.0, description="Longest time for one PDU to arrive or leave in full.")
    max_pdu_bytes: int = Field(
        131_072, ge=4_096, le=16_777_216, description="Longest PDU that senders are told to use."
    )
    max_object_bytes: PositiveInt = Field(
        1_073_741_824, description="Longest data set, also once inflated; longer ones are refused with 0xA700."
    )
    min_free_disk_bytes: NonNegativeInt = Field(
        1_073_741_824, description="With less free than this on the journal's disk, objects are refused with 0xA700."
    )
    publish_concurrency: PositiveInt = Field(4, description="Studies being published at a time.")
    publish_retry_s: PositiveFloat = Field(0.5, description="First pause before publishing is tried again; doubles.")
    publish_retry_max_s: PositiveFloat = Field(30.0, description="Longest pause before publishing is tried again.")


class ListenerSettings(SimilisSettings):
    """Settings of the listener's process."""

    listener: ListenerSection = ListenerSection()
