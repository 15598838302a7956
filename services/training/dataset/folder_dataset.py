"""A folder of DICOM, PNG and JPEG files to cases: by a CSV of labels, or by folders that are named after classes.

FOLDER/labels.csv                          see `labels_file`
FOLDER/<class>/…                           each picture a case, each DICOM study a case
FOLDER/<class>/<patient>/…                 a folder below a class stands for a patient, where no header names one
FOLDER/{training,calibration,test}/<class>/…
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from services.training.dataset.cases import (
    Case,
    CaseImages,
    Dataset,
    DatasetError,
    SplitName,
    checked_cases,
    lettered_scanners,
)
from services.training.dataset.image_files import (
    DamagedFileError,
    ImageFile,
    Skipped,
    UnreadPicturesError,
    image_file,
    refuse_unread_pictures,
    scan,
)
from services.training.dataset.labels_file import LabelRow, read_labels_file, split_of
from shared.vision.tasks import TaskDefinition

LABELS_FILE: Final = "labels.csv"


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
    skipped: Skipped = Counter()
    if labels_file is not None:
        rows = read_labels_file(labels_file, _labels(definition))
        found = from_rows(folder, rows, definition, skipped)
        return labelled_dataset(folder, found, definition, "CSV of labels", skipped)
    found = _from_class_folders(folder, definition, skipped)
    refuse_unread_pictures(skipped)
    return labelled_dataset(folder, found, definition, "class folders", skipped)


def labelled_dataset(
    folder: Path,
    found: Iterable[LabelledFile],
    definition: TaskDefinition,
    how: str = "a known layout",
    skipped: Mapping[str, int] = MappingProxyType({}),
) -> Dataset:
    """Cases of labelled files: files of one study are one case.

    Args:
        folder: The data folder.
        found: Its labelled files.
        definition: Says which classes there are.
        how: What told the labels, for the card.
        skipped: How many files were left out by reason, for the card.

    Raises:
        DatasetError: labels, patients or splits contradict each other within a study, or a class has no case.
    """
    by_study: dict[str, list[LabelledFile]] = defaultdict(list)
    for file in found:
        by_study[file.study].append(file)
    normal = {entry.label for entry in definition.classes if not entry.is_finding}
    cases = [_case(folder, study, files, normal) for study, files in by_study.items()]
    known = all(any(file.patient for file in files) for files in by_study.values())
    left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()) if count)
    description = f"a folder, {how}" + (f"; left out: {left_out}" if left_out else "")
    checked = lettered_scanners(checked_cases(cases, _labels(definition)))
    return Dataset(checked, "folder", description, known)


def from_rows(
    folder: Path, rows: Sequence[LabelRow], definition: TaskDefinition, skipped: Skipped | None = None
) -> list[LabelledFile]:
    """The files that labels name. Files of one DICOM study are one study, whether or not a row says so.

    Args:
        folder: The data folder.
        rows: The labels.
        definition: Says which DICOM objects the task takes.
        skipped: Counts what is left out of folders that rows name, and of the whole folder where it is searched.

    Raises:
        DatasetError: a row names nothing that is there, or a file is named twice.
    """
    # The whole folder is read only where a UID has to be found.
    scanned = scan(folder, definition, skipped) if any(row.path is None for row in rows) else []
    by_study, by_sop = defaultdict(list), {}
    for file in scanned:
        by_study[file.study].append(file)
        by_sop[file.sop] = file
    found: list[LabelledFile] = []
    seen: dict[Path, int] = {}
    for row in rows:
        if row.path is not None:
            files = _files_at(folder, row, definition, skipped)
        elif row.sop is not None:
            files = [by_sop[row.sop]] if row.sop in by_sop else []
        else:
            files = by_study.get(row.study, [])
        if not files:
            raise DatasetError(f"row {row.row}: no image that the task takes is there")
        for file in files:
            if (first := seen.setdefault(file.path, row.row)) != row.row:
                raise DatasetError(f"rows {first} and {row.row} label the same file")
            study = row.study or file.study or str(row.path)
            subgroup = tuple({**dict(file.subgroup), **row.subgroup()}.items())
            found.append(LabelledFile(file, study, row.label, row.patient or file.patient, row.split, subgroup))
    return found


def _from_class_folders(folder: Path, definition: TaskDefinition, skipped: Skipped) -> list[LabelledFile]:
    top = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if top and all(split_of(path.name) for path in top):
        _count_beside(folder, skipped)
        return [file for path in top for file in _classes_below(folder, path, split_of(path.name), definition, skipped)]
    return _classes_below(folder, folder, None, definition, skipped)


def _classes_below(
    folder: Path, below: Path, split: SplitName | None, definition: TaskDefinition, skipped: Skipped
) -> list[LabelledFile]:
    labels = {_plain(label): label for label in _labels(definition)}
    classes = [path for path in sorted(below.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if unknown := [path for path in classes if _plain(path.name) not in labels]:
        raise DatasetError(f"{len(unknown)} folders are named after no class of {', '.join(labels.values())}")
    _count_beside(below, skipped)
    found = []
    for path in classes:
        for file in scan(path, definition, skipped):
            inner = file.path.parts
            # The header knows better: a folder may be a study, and a patient may have several of them.
            patient = file.patient or (inner[0] if len(inner) > 1 else None)
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
            raise DatasetError(f"a file cannot be read: {error.strerror}") from None
        return CaseImages(tuple(path.as_posix() for path in paths), objects, image_labels)

    return Case(
        study=study,
        # Without a patient, what is of one DICOM study stays together, whatever a row calls its studies.
        patient=next(iter(patients), files[0].file.study or study),
        label=next(iter(findings or labels)),
        load=load,
        split=next(iter(splits)),
        subgroup=subgroup,
    )


def _files_at(folder: Path, row: LabelRow, definition: TaskDefinition, skipped: Skipped | None) -> list[ImageFile]:
    """The files of a row. Its errors do not say what the row's cells hold."""
    path, seen = folder / str(row.path), Counter[str]()
    try:
        if path.is_dir():
            inner = scan(path, definition, seen)
            found = [replace(file, path=path.relative_to(folder) / file.path) for file in inner]
        elif path.is_file():
            file = image_file(folder, path, definition, seen)
            found = [file] if file else []
        else:
            raise DatasetError(f"row {row.row}: the file is not there")
        refuse_unread_pictures(seen)
    except DamagedFileError:
        raise DatasetError(f"row {row.row}: a DICOM file cannot be read") from None
    except UnreadPicturesError as error:
        raise DatasetError(f"row {row.row}: {error}") from None
    except OSError as error:
        raise DatasetError(f"row {row.row}: its path cannot be looked up: {error.strerror}") from None
    if skipped is not None:
        skipped.update(seen)
    return found


def _count_beside(folder: Path, skipped: Skipped) -> None:
    beside = sum(path.is_file() and not path.name.startswith(".") for path in folder.iterdir())
    if beside:
        skipped["files beside the class folders"] += beside


def _labels(definition: TaskDefinition) -> tuple[str, ...]:
    return tuple(entry.label for entry in definition.classes)


def _plain(text: str) -> str:
    return re.sub(r"[\s_\-]+", "-", text.strip().lower())
