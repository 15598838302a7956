"""What is already archived, with labels from outside: a CSV of UIDs, or what people said through the API.

A label is of a study, a series, a SOP instance or a frame. Each frame has the narrowest label that covers it; images
that none covers are left out. A study shows the finding that any of its frames shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import ValidationError

from services.training.dataset.cases import Case, CaseImages, Dataset, DatasetError, checked_cases, lettered_scanners
from services.training.dataset.labels_file import LabelRow
from shared.archive import Archive
from shared.errors import PipelineError
from shared.manifest import InstanceEntry, SeriesEntry, StudyManifest
from shared.vision.tasks import TaskDefinition

_PREFIX: Final = "manifests"
MOST_FRAMES: Final = 100_000  # of an object whose frames are labelled one by one

Place = tuple[Literal["study", "series", "sop", "frame"], str, int]


@dataclass(frozen=True, slots=True)
class _Labelled:
    """An instance with the rows that label it.

    Attributes:
        wider: Rows of the instance, its series and its study, the narrowest first.
        own: Rows of single frames, by number.
    """

    instance: InstanceEntry
    wider: tuple[LabelRow, ...]
    own: Mapping[int, LabelRow]

    @property
    def covering(self) -> tuple[LabelRow, ...]:
        """All of them."""
        return *self.wider, *self.own.values()

    @property
    def used(self) -> tuple[LabelRow, ...]:
        """Those that count for some frame, in a steady order."""
        rest = self.wider[:1] if len(self.own) < self.instance.number_of_frames else ()
        return *rest, *self.own.values()

    @property
    def labels(self) -> set[str]:
        """What the frames show."""
        return {row.label for row in self.used}

    def frames(self) -> tuple[str, ...]:
        """What each frame shows."""
        numbers = range(1, self.instance.number_of_frames + 1)
        return tuple(self.own[number].label if number in self.own else self.wider[0].label for number in numbers)


def archive_dataset(
    archive: Archive, rows: Iterable[LabelRow], definition: TaskDefinition, description: str = "labels by UID"
) -> Dataset:
    """The archived studies that labels name, each at its newest revision.

    Args:
        archive: Holds manifests and objects.
        rows: One label for each study, or for series, images or frames of it.
        definition: Says which series the task takes.
        description: Where the labels come from, for the card.

    Raises:
        DatasetError: a labelled study or image is not archived, or the labels of a study contradict each other.
        ArchiveUnavailableError: the archive cannot be read just now.
    """
    wanted = list(rows)
    by_place = {_place(row): row for row in wanted}
    if len(by_place) < len(wanted):
        raise DatasetError("every row must name another study, or another SOP instance")
    of_frames: dict[str, list[LabelRow]] = {}
    for row in wanted:
        if row.frame is not None:
            of_frames.setdefault(row.sop or "", []).append(row)
    studies = {row.study for row in wanted if row.study}
    anywhere = any(row.study is None for row in wanted)
    cases = []
    found: set[int] = set()
    for study, keys in _manifest_keys(archive).items():
        # A study is read only if its label, or that of one of its images, may be wanted.
        if study not in studies and not anywhere:
            continue
        manifest = _manifest(archive, keys)
        used = [
            labelled
            for series, instance in manifest.instances()
            if definition.takes(series, instance)
            and (labelled := _labelled(study, series, instance, by_place, of_frames)) is not None
        ]
        if used:
            cases.append(_case(archive, manifest, used, definition))
            found |= {row.row for labelled in used for row in labelled.covering}
    if missing := [row for row in wanted if row.row not in found]:
        raise DatasetError(
            f"{len(missing)} of the labels name nothing that is archived and that {definition.name} takes, the first: "
            f"{missing[0].told}"
        )
    labels = tuple(entry.label for entry in definition.classes)
    checked = lettered_scanners(checked_cases(cases, labels))
    return Dataset(checked, "archive", f"archived studies, {description}", patients_known=True)


def _place(row: LabelRow) -> Place:
    if row.frame is not None:
        return "frame", row.sop or "", row.frame
    if row.sop:
        return "sop", row.sop, 0
    if row.series:
        return "series", row.series, 0
    return "study", row.study or "", 0


def _labelled(
    study: str,
    series: SeriesEntry,
    instance: InstanceEntry,
    by_place: Mapping[Place, LabelRow],
    of_frames: Mapping[str, Sequence[LabelRow]],
) -> _Labelled | None:
    """The labels of an instance; None if none covers it.

    Raises:
        DatasetError: some of its frames have one, and others none.
    """
    sop = instance.sop_instance_uid
    places: tuple[Place, ...] = (("sop", sop, 0), ("series", series.series_instance_uid, 0), ("study", study, 0))
    wider = tuple(row for place in places if (row := by_place.get(place)) is not None)
    own = {row.frame: row for row in of_frames.get(sop, ()) if row.frame and row.frame <= instance.number_of_frames}
    if own and instance.number_of_frames > MOST_FRAMES:
        raise DatasetError(f"{next(iter(own.values())).told}: the object claims more than {MOST_FRAMES:,} frames")
    if own and not wider and len(own) < instance.number_of_frames:
        raise DatasetError(
            f"{next(iter(own.values())).told}: other frames of that object have no label; label the object too, its "
            "series or its study"
        )
    return _Labelled(instance, wider, own) if wider or own else None


def _manifest_keys(archive: Archive) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {}
    for key in archive.list(_PREFIX):
        keys.setdefault(key.split("/")[1], []).append(key)
    return keys


def _manifest(archive: Archive, keys: list[str]) -> StudyManifest:
    newest = max(keys, key=lambda key: int(key.rpartition("/")[2].removesuffix(".json")))
    try:
        return StudyManifest.model_validate_json(archive.get(newest))
    except ValidationError:
        raise DatasetError(f"{newest} is not a manifest") from None


def _case(archive: Archive, manifest: StudyManifest, used: list[_Labelled], definition: TaskDefinition) -> Case:
    first, row = used[0].instance, used[0].used[0]
    label = _label_of(used, definition)
    if manifest.mixed_patients:
        raise DatasetError(f"{row.told}: the study's objects name different patients")
    splits = {row.split for labelled in used for row in labelled.used}
    if len(splits) > 1:
        raise DatasetError(f"{row.told}: a study is in several splits")
    traits = {"sex": first.sex or "", "age_band": first.age_band or "", **row.subgroup()}
    image_labels = _image_labels(used)

    def load() -> CaseImages:
        try:
            objects = tuple(archive.get(labelled.instance.archive_key) for labelled in used)
        except PipelineError as error:
            raise DatasetError(f"an archived object cannot be read: {error}") from error
        return CaseImages(tuple(labelled.instance.archive_key for labelled in used), objects, image_labels)

    return Case(
        study=manifest.study_instance_uid,
        patient=row.patient or first.patient_pseudonym,
        label=label,
        load=load,
        split=next(iter(splits)),
        subgroup={name: value for name, value in traits.items() if value},
    )


def _label_of(used: list[_Labelled], definition: TaskDefinition) -> str:
    """What the study shows: the one finding among the labels, else the one label.

    Raises:
        DatasetError: there are several, or a wider label is shown by none of the frames that it covers.
    """
    shown: dict[LabelRow, set[str]] = {}
    for labelled in used:
        for row in labelled.covering:
            shown.setdefault(row, set()).update(labelled.labels)
    labels = set[str]().union(*(labelled.labels for labelled in used))
    findings = labels & {entry.label for entry in definition.classes if entry.is_finding}
    if len(findings) > 1 or (not findings and len(labels) > 1):
        told = {row.row: row.told for labelled in used for row in labelled.used}
        first = "; ".join(told[number] for number in sorted(told)[:5])
        raise DatasetError(f"labels of a study contradict each other: {first}")
    if alone := [row for row, there in shown.items() if row.label not in there]:
        first = min(alone, key=lambda row: row.row).told
        raise DatasetError(f"{first} contradicts the narrower ones: no image that it covers is left to show it")
    return next(iter(findings or labels))


def _image_labels(used: list[_Labelled]) -> tuple[str, ...] | None:
    """Of each object, or of each frame where those of an object differ; None: all show the same."""
    if any(len(labelled.labels) > 1 for labelled in used):
        return tuple(label for labelled in used for label in labelled.frames())
    of_objects = tuple(next(iter(labelled.labels)) for labelled in used)
    return of_objects if len(set(of_objects)) > 1 else None
