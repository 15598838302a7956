"""What is already archived, with labels from outside: a CSV of study or SOP UIDs, or whoever else gives them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pydantic import ValidationError

from services.training.dataset.cases import Case, CaseImages, Dataset, DatasetError, checked_cases, lettered_scanners
from services.training.dataset.labels_file import LabelRow
from shared.archive import Archive
from shared.errors import PipelineError
from shared.manifest import InstanceEntry, SeriesEntry, StudyManifest
from shared.vision.tasks import TaskDefinition

_PREFIX: Final = "manifests"


def archive_dataset(archive: Archive, rows: Iterable[LabelRow], definition: TaskDefinition) -> Dataset:
    """The archived studies that labels name, each at its newest revision.

    Args:
        archive: Holds manifests and objects.
        rows: One label for each study, or for images of it.
        definition: Says which series the task takes.

    Raises:
        DatasetError: a labelled study or image is not archived, or the labels of a study contradict each other.
        ArchiveUnavailableError: the archive cannot be read just now.
    """
    wanted = list(rows)
    by_study = {row.study: row for row in wanted if row.study and not row.sop}
    by_sop = {row.sop: row for row in wanted if row.sop}
    if len(by_study) + len(by_sop) < len(wanted):
        raise DatasetError("every row must name another study, or another SOP instance")
    cases = []
    found = set()
    for study, keys in _manifest_keys(archive).items():
        # A study is read only if its label, or that of one of its images, may be wanted.
        if study not in by_study and not by_sop:
            continue
        manifest = _manifest(archive, keys)
        labelled = [
            (instance, by_sop.get(instance.sop_instance_uid) or by_study.get(study))
            for series, instance in manifest.instances()
            if _takes(definition, series, instance)
        ]
        used = [(instance, row) for instance, row in labelled if row is not None]
        if used:
            cases.append(_case(archive, manifest, used, definition))
            found |= {row.row for _, row in used}
    if missing := [row.row for row in wanted if row.row not in found]:
        raise DatasetError(
            f"{len(missing)} rows name nothing that is archived and that {definition.name} takes, the first: row "
            f"{missing[0]}"
        )
    labels = tuple(entry.label for entry in definition.classes)
    checked = lettered_scanners(checked_cases(cases, labels))
    return Dataset(checked, "archive", "archived studies, labels by UID", patients_known=True)


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


def _takes(definition: TaskDefinition, series: SeriesEntry, instance: InstanceEntry) -> bool:
    """As `Task.takes`."""
    return (
        instance.number_of_frames > 0
        and series.modality.strip().upper() in definition.modalities
        and (not definition.body_parts or (series.body_part or "").strip().upper() in definition.body_parts)
        and (not definition.sop_classes or instance.sop_class_uid in definition.sop_classes)
        and instance.sop_class_uid not in definition.excluded_sop_classes
    )


def _case(
    archive: Archive, manifest: StudyManifest, used: list[tuple[InstanceEntry, LabelRow]], definition: TaskDefinition
) -> Case:
    labels = {row.label for _, row in used}
    findings = labels & {entry.label for entry in definition.classes if entry.is_finding}
    if len(findings) > 1 or (not findings and len(labels) > 1):
        raise DatasetError(f"rows {', '.join(sorted({str(row.row) for _, row in used})[:5])} contradict each other")
    if manifest.mixed_patients:
        raise DatasetError(f"row {used[0][1].row}: the study's objects name different patients")
    splits = {row.split for _, row in used}
    if len(splits) > 1:
        raise DatasetError(f"row {used[0][1].row}: a study is in several splits")
    first, row = used[0]
    traits = {"sex": first.sex or "", "age_band": first.age_band or "", **row.subgroup()}
    image_labels = tuple(row.label for _, row in used) if len(labels) > 1 else None

    def load() -> CaseImages:
        try:
            objects = tuple(archive.get(instance.archive_key) for instance, _ in used)
        except PipelineError as error:
            raise DatasetError(f"an archived object cannot be read: {error}") from error
        return CaseImages(tuple(instance.archive_key for instance, _ in used), objects, image_labels)

    return Case(
        study=manifest.study_instance_uid,
        patient=row.patient or first.patient_pseudonym,
        label=next(iter(findings or labels)),
        load=load,
        split=next(iter(splits)),
        subgroup={name: value for name, value in traits.items() if value},
    )
