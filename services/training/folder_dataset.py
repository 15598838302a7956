"""A folder of DICOM, PNG and JPEG files to cases: by a CSV of labels, or by folders that are named after classes.

FOLDER/labels.csv                          see `labels_file`
FOLDER/<class>/…                           each picture a case, each DICOM study a case
FOLDER/<class>/<patient>/…                 a folder below a class stands for a patient
FOLDER/{training,calibration,test}/<class>/…
"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from services.training.cases import Case, CaseImages, Dataset, DatasetError, SplitName, checked_cases
from services.training.labels_file import LabelRow, age_band, read_labels_file, split_of
from shared.vision.tasks import TaskDefinition

LABELS_FILE: Final = "labels.csv"
PICTURE_SUFFIXES: Final = frozenset((".png", ".jpg", ".jpeg"))
_TAGS: Final = (
    "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "PatientID", "PatientSex", "PatientAge",
    "Modality", "ImageType", "InstanceNumber", "Rows", "ManufacturerModelName",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file and what its header says; a picture says nothing.

    Attributes:
        path: Relative to the data folder.
        order: Sorts the files of a study.
    """

    path: Path
    study: str | None = None
    sop: str | None = None
    patient: str | None = None
    order: tuple[str, int, str] = ("", 0, "")
    subgroup: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """An image file with what is known of it."""

    file: ImageFile
    study: str
    label: str
    patient: str | None = None
    split: SplitName | None = None
    subgroup: tuple[tuple[str, str], ...] = ()


def folder_dataset(folder: Path, definition: TaskDefinition, labels_file: Path | None = None) -> Dataset:
    """The labelled cases of a folder.

    Args:
        folder: The data folder.
        definition: Says which classes there are, and which DICOM objects the task takes.
        labels_file: The CSV; None: `labels.csv` in the folder if it is there, else class folders.

    Raises:
        DatasetError: the labels or the files cannot be used.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder")
    if labels_file is None and (folder / LABELS_FILE).is_file():
        labels_file = folder / LABELS_FILE
    if labels_file is not None:
        rows = read_labels_file(labels_file, _labels(definition))
        return labelled_dataset(folder, from_rows(folder, rows, definition), definition, "CSV of labels")
    return labelled_dataset(folder, _from_class_folders(folder, definition), definition, "class folders")


def labelled_dataset(
    folder: Path, found: Iterable[LabelledFile], definition: TaskDefinition, how: str = "a known layout"
) -> Dataset:
    """Cases of labelled files: files of one study are one case.

    Raises:
        DatasetError: labels, patients or splits contradict each other within a study, or a class has no case.
    """
    by_study: dict[str, list[LabelledFile]] = defaultdict(list)
    for file in found:
        by_study[file.study].append(file)
    normal = {entry.label for entry in definition.classes if not entry.is_finding}
    cases = [_case(folder, study, files, normal) for study, files in by_study.items()]
    known = all(any(file.patient for file in files) for files in by_study.values())
    return Dataset(checked_cases(cases, _labels(definition)), "folder", f"a folder, {how}", known)


def from_rows(folder: Path, rows: Sequence[LabelRow], definition: TaskDefinition) -> list[LabelledFile]:
    """The files that labels name.

    Raises:
        DatasetError: a row names nothing that is there, or a file is named twice.
    """
    # The whole folder is read only where a UID has to be found.
    scanned = scan(folder, definition) if any(row.path is None for row in rows) else []
    by_study, by_sop = defaultdict(list), {}
    for file in scanned:
        by_study[file.study].append(file)
        by_sop[file.sop] = file
    found: list[LabelledFile] = []
    seen: dict[Path, int] = {}
    for row in rows:
        if row.path is not None:
            files = _files_at(folder, row, definition)
        elif row.sop is not None:
            files = [by_sop[row.sop]] if row.sop in by_sop else []
        else:
            files = by_study.get(row.study, [])
        if not files:
            raise DatasetError(f"row {row.row}: no image that the task takes is there")
        for file in files:
            if (first := seen.setdefault(file.path, row.row)) != row.row:
                raise DatasetError(f"rows {first} and {row.row} label the same file")
            study = row.study or (file.study if row.sop else None) or str(row.path)
            subgroup = tuple({**dict(file.subgroup), **row.subgroup()}.items())
            found.append(LabelledFile(file, study, row.label, row.patient or file.patient, row.split, subgroup))
    return found


def scan(folder: Path, definition: TaskDefinition) -> list[ImageFile]:
    """The image files below a folder that the task takes, in the order of their names; hidden ones are left out."""
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    return [file for path in paths if (file := image_file(folder, path, definition)) is not None]


def image_file(folder: Path, path: Path, definition: TaskDefinition) -> ImageFile | None:
    """The image file at `path`; None if it is no image, or a DICOM object that the task does not take."""
    relative = path.relative_to(folder)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return ImageFile(relative)
    header = _header(path)
    if header is None or not _takes(definition, header):
        return None
    study, sop = str(header.get("StudyInstanceUID", "")), str(header.get("SOPInstanceUID", ""))
    number = str(header.get("InstanceNumber", "") or "")
    order = (str(header.get("SeriesInstanceUID", "")), int(number) if number.lstrip("-").isdigit() else 0, sop)
    traits = {
        "sex": str(header.get("PatientSex", "") or ""),
        "age_band": age_band(str(header.get("PatientAge", "") or "")) or "",
        "scanner": str(header.get("ManufacturerModelName", "") or ""),
    }
    subgroup = tuple((name, value) for name, value in traits.items() if value)
    patient = str(header.get("PatientID", "") or "").strip() or None
    return ImageFile(relative, study or None, sop or None, patient, order, subgroup)


def _from_class_folders(folder: Path, definition: TaskDefinition) -> list[LabelledFile]:
    top = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if top and all(split_of(path.name) for path in top):
        return [file for path in top for file in _classes_below(folder, path, split_of(path.name), definition)]
    return _classes_below(folder, folder, None, definition)


def _classes_below(
    folder: Path, below: Path, split: SplitName | None, definition: TaskDefinition
) -> list[LabelledFile]:
    labels = {_plain(label): label for label in _labels(definition)}
    classes = [path for path in sorted(below.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if unknown := [path for path in classes if _plain(path.name) not in labels]:
        raise DatasetError(f"{len(unknown)} folders are named after no class of {', '.join(labels.values())}")
    found = []
    for path in classes:
        for file in scan(path, definition):
            inner = file.path.parts
            patient = inner[0] if len(inner) > 1 else file.patient
            placed = replace(file, path=path.relative_to(folder) / file.path)
            study = file.study or placed.path.as_posix()
            found.append(LabelledFile(placed, study, labels[_plain(path.name)], patient, split, file.subgroup))
    return found


def _case(folder: Path, study: str, files: list[LabelledFile], normal: set[str]) -> Case:
    files = sorted(files, key=lambda entry: (entry.file.order, entry.file.path))
    labels = {entry.label for entry in files}
    # One finding in some of a study's images: the others show none of it.
    findings = labels - normal
    if len(findings) > 1 or (not findings and len(labels) > 1):
        raise DatasetError(f"a study of {len(files)} files has {len(labels)} labels, the first: {files[0].file.path}")
    patients = {entry.patient for entry in files if entry.patient}
    splits = {entry.split for entry in files}
    if len(patients) > 1 or len(splits) > 1:
        what = "patients" if len(patients) > 1 else "splits"
        raise DatasetError(f"a study of {len(files)} files is of several {what}, the first: {files[0].file.path}")
    subgroup = {name: value for entry in files for name, value in entry.subgroup}
    paths = tuple(entry.file.path for entry in files)
    image_labels = tuple(entry.label for entry in files) if len(labels) > 1 else None

    def load() -> CaseImages:
        try:
            objects = tuple((folder / path).read_bytes() for path in paths)
        except OSError as error:
            raise DatasetError(f"a file cannot be read: {error}") from error
        return CaseImages(tuple(path.as_posix() for path in paths), objects, image_labels)

    return Case(
        study=study,
        patient=next(iter(patients), study),
        label=next(iter(findings or labels)),
        load=load,
        split=next(iter(splits)),
        subgroup=subgroup,
    )


def _files_at(folder: Path, row: LabelRow, definition: TaskDefinition) -> list[ImageFile]:
    path = folder / str(row.path)
    if path.is_dir():
        inner = scan(path, definition)
        return [replace(file, path=path.relative_to(folder) / file.path) for file in inner]
    if not path.is_file():
        raise DatasetError(f"row {row.row}: the file is not there")
    file = image_file(folder, path, definition)
    return [file] if file else []


def _header(path: Path) -> Any | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
            return header if "Rows" in header else None
    except (InvalidDicomError, OSError):
        return None
    except Exception:  # noqa: BLE001  pydicom raises nearly anything on damaged input
        raise DatasetError(f"a DICOM file cannot be read: {path.name}") from None


def _takes(definition: TaskDefinition, header: Any) -> bool:
    """As `Task.takes`; the body part is the user's word, since many sets lack it."""
    image_type = header.get("ImageType") or ()
    values = {image_type} if isinstance(image_type, str) else {str(value) for value in image_type}
    sop_class = str(header.get("SOPClassUID", ""))
    return (
        str(header.get("Modality", "")).strip().upper() in definition.modalities
        and (not definition.sop_classes or sop_class in definition.sop_classes)
        and sop_class not in definition.excluded_sop_classes
        and not {value.strip().upper() for value in values} & set(definition.excluded_image_types)
    )


def _labels(definition: TaskDefinition) -> tuple[str, ...]:
    return tuple(entry.label for entry in definition.classes)


def _plain(text: str) -> str:
    return re.sub(r"[\s_\-]+", "-", text.strip().lower())
