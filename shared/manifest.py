"""The manifest: what a study's revision holds, as one JSON document in the archive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from shared.ids import Uid

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ManifestModel(BaseModel):
    """A frozen value of the manifest."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class InstanceEntry(ManifestModel):
    """One SOP instance, stored as received."""

    sop_instance_uid: Uid
    sop_class_uid: Uid
    transfer_syntax_uid: Uid
    archive_key: str
    size_bytes: PositiveInt = Field(description="Of the whole file: preamble, file meta and data set.")
    sha256: Sha256 = Field(
        description="Of the whole file. Who sent the data set does not show in it: the same one makes the same file."
    )
    number_of_frames: NonNegativeInt = Field(description="0 if the object is no image.")
    patient_pseudonym: str
    sex: str | None = Field(default=None, description="M, F or O, as sent.")
    age_band: str | None = Field(default=None, description="Ten-year band such as 60-69; 90+ is one band.")
    is_new: bool = Field(description="No earlier revision had it.")


class SeriesEntry(ManifestModel):
    """One series of the study."""

    series_instance_uid: Uid
    modality: str
    body_part: str | None = None
    instances: tuple[InstanceEntry, ...]


class StudyManifest(ManifestModel):
    """A study at one revision: everything received so far."""

    study_instance_uid: Uid
    revision: PositiveInt
    created_at: AwareDatetime
    study_date: str | None = Field(default=None, description="YYYYMMDD, as sent.")
    calling_ae_titles: tuple[str, ...]
    patient_pseudonyms: tuple[str, ...]
    mixed_patients: bool
    series: tuple[SeriesEntry, ...]

    def instances(self) -> Iterator[tuple[SeriesEntry, InstanceEntry]]:
        """Every instance with its series."""
        for series in self.series:
            for instance in series.instances:
                yield series, instance
