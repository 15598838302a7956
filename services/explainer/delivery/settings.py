"""Where DICOM results are sent: SIMILIS_DELIVERY__*. Nothing is sent as long as no destination is set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, SecretStr, field_validator

from shared.events import ResultKind
from shared.settings import Section

# PS3.5 section 6.2, VR AE: no backslash, no control characters, not spaces alone.
AeTitle = Annotated[str, Field(pattern=r"^ *[!-\[\]-~][ -\[\]-~]*$", max_length=16)]


class ClientTls(Section):
    """TLS towards a destination (PS3.15 B.12): TLS 1.2 or 1.3; the destination's certificate must verify."""

    ca_file: Path | None = Field(None, description="PEM file of the authorities to trust. Unset: the system's.")
    cert_file: Path | None = Field(None, description="PEM file of our certificate, for mutual TLS.")
    key_file: Path | None = Field(None, description="PEM file of its key.")
    key_password: SecretStr | None = Field(None, description="The key's password, if it is encrypted.")
    server_name: str | None = Field(None, description="The name in the destination's certificate. Unset: its host.")


class Destination(Section):
    """A system that takes results."""

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=32, description="Ours, for records and metrics.")
    host: str = Field(min_length=1, description="Its host name or address.")
    port: int = Field(ge=1, le=65535, description="Its DICOM port.")
    called_ae_title: AeTitle = Field(description="Its AE title.")
    commitment: Literal["require", "ask", "off"] = Field(
        "ask",
        description="Storage Commitment. require: delivered once it is committed; ask: likewise where the destination "
        "offers it, else once it is stored; off: never asked for.",
    )
    kinds: tuple[ResultKind, ...] = Field(tuple(ResultKind), description="Which kinds of results it gets.")
    tls: ClientTls | None = Field(None, description="Unset: no TLS.")


class DeliverySection(Section):
    """C-STORE of DICOM results to a PACS."""

    destinations: tuple[Destination, ...] = Field(
        (),
        description='JSON list, such as [{"name": "pacs", "host": "pacs", "port": 104, "called_ae_title": "PACS"}].',
    )
    calling_ae_title: AeTitle = Field("SIMILIS", description="Our AE title, also where reports of commitment come to.")
    report_host: str = Field("127.0.0.1", description="Address on which reports of Storage Commitment are taken.")
    report_port: NonNegativeInt | None = Field(
        None,
        le=65535,
        description="Its port; 0: any free one. Unset: reports are taken only on the association that asked.",
    )
    retry_s: PositiveFloat = Field(5.0, description="First pause before a delivery is tried again; doubles.")
    retry_max_s: PositiveFloat = Field(600.0, description="Longest pause.")
    give_up_after_s: PositiveFloat = Field(
        259_200.0, description="A delivery that still fails when it is this old is dead-lettered. Its objects stay."
    )
    commitment_wait_s: PositiveFloat = Field(
        3600.0, description="Longest wait for a report of Storage Commitment before the objects are sent again."
    )
    association_wait_s: NonNegativeFloat = Field(
        5.0, description="How long the association stays open for that report; then it may come on another one."
    )
    connect_timeout_s: PositiveFloat = Field(10.0, description="Longest wait for a connection and an association.")
    answer_timeout_s: PositiveFloat = Field(60.0, description="Longest wait for the answer to one object.")

    @field_validator("destinations")
    @classmethod
    def _names_differ(cls, destinations: Sequence[Destination]) -> Sequence[Destination]:
        names = [destination.name for destination in destinations]
        if len(set(names)) < len(names):
            raise ValueError("two destinations have the same name")
        return destinations
