"""A CSV file of labels, as people keep them. Errors name rows and columns, never what a cell holds.

    path,label,patient,split          study,label,sex,age          sop_instance_uid,label
    a/1.png,normal,p7,training        1.2.840…,normal,F,63         1.2.840…,normal

One of path (a file or a folder below the data folder), study (Study Instance UID) and sop (SOP Instance UID) says
what a row labels. A path with a study beside it, or of a DICOM file, joins that study: its label is then the image's
own. Ages become ten-year bands. A scanner or a site is told as a letter only.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from services.training.dataset.cases import DatasetError, SplitName

_COLUMNS: Final = {
    "path": ("path", "file", "filename", "image"),
    "study": ("study", "studyuid", "studyinstanceuid"),
    "sop": ("sop", "sopuid", "sopinstanceuid"),
    "label": ("label", "class", "diagnosis"),
    "patient": ("patient", "patientid", "subject"),
    "split": ("split", "subset", "set"),
    "sex": ("sex", "gender", "patientsex"),
    "age": ("age", "ageband", "patientage"),
    "scanner": ("scanner", "site"),
}
_NAMES: Final = {alias: name for name, aliases in _COLUMNS.items() for alias in aliases}
_SPLITS: Final[dict[str, SplitName]] = {
    **dict.fromkeys(("training", "train"), "training"),
    **dict.fromkeys(("calibration", "calib", "validation", "valid", "val"), "calibration"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_AGE: Final = re.compile(r"^(\d{1,3})(?:\.\d+)?([yYmMdDwW])?$")
_BAND: Final = re.compile(r"^(\d{1,3})-(\d{1,3})$")
MAX_BYTES: Final = 200_000_000


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One row.

    Attributes:
        row: Its line in the file, for messages; of labels from elsewhere, their number.
        path: Below the data folder; it climbs nowhere.
        series: Series Instance UID; no column of a file gives it.
        frame: Of the SOP instance, from 1; no column of a file gives it.
        origin: What messages call it; "": by its row.
    """

    row: int
    label: str
    path: PurePosixPath | None = None
    study: str | None = None
    sop: str | None = None
    patient: str | None = None
    split: SplitName | None = None
    sex: str | None = None
    age_band: str | None = None
    scanner: str | None = None
    series: str | None = None
    frame: int | None = None
    origin: str = ""

    @property
    def told(self) -> str:
        """What messages call it: never what a cell of a file holds."""
        return self.origin or f"row {self.row}"

    def subgroup(self) -> dict[str, str]:
        """The traits that are known."""
        traits = {"sex": self.sex, "age_band": self.age_band, "scanner": self.scanner}
        return {name: value for name, value in traits.items() if value}


def read_labels_file(path: Path, labels: tuple[str, ...]) -> list[LabelRow]:
    """The rows of a CSV file whose labels are among `labels`.

    Raises:
        DatasetError: it cannot be read, or a row is not valid.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DatasetError(f"{path}: larger than {MAX_BYTES} bytes")
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DatasetError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return parse_labels(text, labels)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from None


def parse_labels(text: str, labels: tuple[str, ...]) -> list[LabelRow]:
    """The rows of CSV text (comma, semicolon or tab) whose labels are among `labels`.

    Raises:
        DatasetError: a column is missing or doubled, or a row is not valid.
    """
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = _columns(next(reader, []))
        rows = []
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(columns):
                raise DatasetError(f"row {reader.line_num} has {len(cells)} cells, the header {len(columns)}")
            values = {name: cell.strip() for name, cell in zip(columns, cells, strict=False) if name and cell.strip()}
            rows.append(_row(reader.line_num, values, labels))
    except csv.Error as error:
        raise DatasetError(f"row {reader.line_num} is not CSV: {error}") from None
    if not rows:
        raise DatasetError("it has a header and no row")
    return rows


def split_of(text: str) -> SplitName | None:
    """The split that a word means; None: none that is known."""
    return _SPLITS.get(text.strip().lower())


def age_band(text: str) -> str | None:
    """Ten-year band of an age such as 63, 063Y or 60-64; 90+ is one band.

    None: not an age, or a range that is not within one band.
    """
    text = text.strip()
    if text == "90+":
        return text
    if ends := _BAND.match(text):
        first, last = _band_of(int(ends[1])), _band_of(int(ends[2]))
        return first if first == last and int(ends[1]) <= int(ends[2]) else None
    found = _AGE.match(text)
    if not found:
        return None
    unit = (found[2] or "Y").upper()
    return _band_of(int(found[1]) if unit == "Y" else int(found[1]) // {"M": 12, "W": 52, "D": 365}[unit])


def plain_sex(text: str) -> str | None:
    """F, M or O; None: not said, or something else."""
    return {"f": "F", "female": "F", "m": "M", "male": "M", "o": "O", "other": "O"}.get(text.strip().lower())


def _band_of(years: int) -> str:
    return "90+" if years >= 90 else f"{years // 10 * 10}-{years // 10 * 10 + 9}"


def _columns(header: list[str]) -> list[str | None]:
    """The column names as we call them; None for columns that say nothing to us."""
    columns = [_NAMES.get(re.sub(r"[\s_\-.]", "", cell).lower()) for cell in header]
    known = [name for name in columns if name]
    if doubled := sorted({name for name in known if known.count(name) > 1}):
        raise DatasetError(f"two columns mean {', '.join(doubled)}")
    if "label" not in known or not {"path", "study", "sop"} & set(known):
        raise DatasetError("the first row must name the columns: label, and one of path, study and sop")
    return columns


def _row(number: int, values: dict[str, str], labels: tuple[str, ...]) -> LabelRow:
    label = values.get("label", "")
    if label not in labels:
        raise DatasetError(f"row {number}: its label is none of {', '.join(labels)}")
    path = values.get("path")
    if not (path or values.get("study") or values.get("sop")):
        raise DatasetError(f"row {number} labels nothing: path, study and sop are empty")
    split = None
    if "split" in values:
        split = split_of(values["split"])
        if split is None:
            raise DatasetError(f"row {number}: its split is none of training, calibration, test")
    return LabelRow(
        row=number,
        label=label,
        path=_path(number, path) if path else None,
        study=values.get("study"),
        sop=values.get("sop"),
        patient=values.get("patient"),
        split=split,
        sex=plain_sex(values.get("sex", "")),
        age_band=age_band(values.get("age", "")),
        scanner=values.get("scanner"),
    )


def _path(number: int, text: str) -> PurePosixPath:
    path = PurePosixPath(text.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in text or re.match(r"^[A-Za-z]:", text):
        raise DatasetError(f"row {number}: its path leaves the data folder")
    return path
