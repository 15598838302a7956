"""Image files below a folder and what their headers say; what is left out is counted by reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from services.training.dataset.cases import DatasetError
from services.training.dataset.labels_file import age_band, plain_sex
from shared.pixels.quiet import quiet
from shared.vision.tasks import TaskDefinition

PICTURE_SUFFIXES: Final = frozenset((".png", ".jpg", ".jpeg"))
UNREAD_SUFFIXES: Final = frozenset((".bmp", ".tif", ".tiff", ".webp", ".gif"))
UNREAD: Final = "pictures that are not read (BMP, TIFF, WebP, GIF)"
_TAGS: Final = (
    "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "PatientID", "PatientSex", "PatientAge",
    "Modality", "ImageType", "InstanceNumber", "Rows", "ManufacturerModelName",
)  # fmt: skip

Skipped = Counter[str]
"""How many files were left out, by reason."""


class DamagedFileError(DatasetError):
    """A DICOM file that cannot be read."""


class UnreadPicturesError(DatasetError):
    """Pictures of a kind that is not read."""


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


def scan(folder: Path, definition: TaskDefinition, skipped: Skipped | None = None) -> list[ImageFile]:
    """The image files below a folder that the task takes, in the order of their names; hidden ones are left out.

    Args:
        folder: Where to look.
        definition: Says which DICOM objects the task takes.
        skipped: Counts what is left out.
    """
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    return [file for path in paths if (file := image_file(folder, path, definition, skipped)) is not None]


@quiet()  # pydicom's warnings quote elements' values, some when the value is asked for
def image_file(
    folder: Path, path: Path, definition: TaskDefinition, skipped: Skipped | None = None
) -> ImageFile | None:
    """The image file at `path`; None if it is no image, or a DICOM object that the task does not take.

    Raises:
        DamagedFileError: it is a DICOM file, and damaged.
    """
    relative = path.relative_to(folder)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return ImageFile(relative)
    header = _header(path)
    reason = _kind_of(path) if header is None else _reason_against(definition, header)
    if header is None or reason is not None:
        if skipped is not None and reason is not None:
            skipped[reason] += 1
        return None
    study, sop = str(header.get("StudyInstanceUID", "")), str(header.get("SOPInstanceUID", ""))
    number = str(header.get("InstanceNumber", "") or "")
    order = (str(header.get("SeriesInstanceUID", "")), int(number) if number.lstrip("-").isdigit() else 0, sop)
    traits = {
        "sex": plain_sex(str(header.get("PatientSex", "") or "")) or "",
        "age_band": age_band(str(header.get("PatientAge", "") or "")) or "",
        "scanner": str(header.get("ManufacturerModelName", "") or "").strip(),
    }
    subgroup = tuple((name, value) for name, value in traits.items() if value)
    patient = str(header.get("PatientID", "") or "").strip() or None
    return ImageFile(relative, study or None, sop or None, patient, order, subgroup)


def refuse_unread_pictures(skipped: Skipped) -> None:
    """Refuse a folder with pictures that would silently be missing from the training.

    Raises:
        UnreadPicturesError: there are such pictures.
    """
    if skipped[UNREAD]:
        raise UnreadPicturesError(f"{skipped[UNREAD]} {UNREAD}: convert them to PNG without loss, or take them out")


def _header(path: Path) -> Any | None:
    """The header of a DICOM file; None if it is none."""
    try:
        return dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
    except (InvalidDicomError, OSError):
        return None
    except Exception:  # noqa: BLE001  pydicom raises nearly anything on damaged input
        raise DamagedFileError(f"a DICOM file cannot be read: {path.name}") from None


def _kind_of(path: Path) -> str:
    """What a file is that is neither a DICOM file nor a picture that is read."""
    if path.suffix.lower() in UNREAD_SUFFIXES:
        return UNREAD
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError:
        return "files that cannot be opened"
    # A data set without the preamble of PS3.10 starts with group 0008, or 0002, in little or big endian.
    if path.suffix.lower() == ".dcm" or start[:2] in (b"\x08\x00", b"\x02\x00", b"\x00\x08"):
        return "DICOM files without a preamble"
    return "files that are no images"


def _reason_against(definition: TaskDefinition, header: Any) -> str | None:
    """Why the task does not take an object, as `Task.takes`; the body part is the user's word: many sets lack it."""
    if "Rows" not in header:
        return "DICOM files without an image"
    if str(header.get("Modality", "")).strip().upper() not in definition.modalities:
        return "DICOM files of another modality"
    sop_class = str(header.get("SOPClassUID", ""))
    if (definition.sop_classes and sop_class not in definition.sop_classes) or (
        sop_class in definition.excluded_sop_classes
    ):
        return "DICOM files of another SOP class"
    image_type = header.get("ImageType") or ()
    values = {image_type} if isinstance(image_type, str) else {str(value) for value in image_type}
    if {value.strip().upper() for value in values} & set(definition.excluded_image_types):
        return "DICOM files of an excluded image type"
    return None
