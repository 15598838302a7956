"""LIDC-IDRI as TCIA hands it out: CT slices and the radiologists' readings, to labelled slices.

LIDC-IDRI-0001/<study>/<series>/*.dcm + *.xml

A nodule that at least three readers outlined is malignant if the median of their votes is 4 or 5, benign if it is
1 or 2, and left out if it is 3. A slice takes the class of the nodule in it. A series with both kinds, or with a
nodule left out, gives the slices of its malignant nodules alone; unmarked slices, as many as marked ones, are normal.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from services.training.dataset.cases import DatasetError

NORMAL, BENIGN, MALIGNANT = "normal", "benign", "malignant"
LEAST_READERS: Final = 3
NEAR_PX: Final = 15.0  # readings of one nodule: centres in a slice lie closer than this
MAX_XML_BYTES: Final = 50_000_000
_TAGS: Final = ("SOPInstanceUID", "Modality", "ImagePositionPatient")


@dataclass(slots=True)
class _Reading:
    """One reader's nodule: its vote and the centre of its outline in each slice."""

    reader: int
    malignancy: int
    centres: dict[str, tuple[float, float]] = field(default_factory=dict)  # by SOP Instance UID


def lidc_slices(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Path, label and patient of each chosen slice.

    Raises:
        DatasetError: an XML file is not LIDC's.
    """
    for xml in sorted(folder.rglob("*.xml")):
        slices = _slices(xml.parent)
        if not slices:
            continue  # chest radiographs have XML files of another kind
        readings, marked = _read(xml)
        by_slice: dict[str, set[str]] = defaultdict(set)
        for nodule in _nodules(readings):
            label = _label(nodule)
            for uid in {uid for reading in nodule for uid in reading.centres}:
                by_slice[uid].add(label)
        kinds = {kind for found in by_slice.values() for kind in found}
        chosen = _chosen(kinds)
        patient = next((part for part in xml.relative_to(folder).parts if part.startswith("LIDC-IDRI-")), "")
        patient = patient or xml.parent.name
        labelled = [
            (slices[uid], str(chosen)) for uid, found in by_slice.items() if found == {chosen} and uid in slices
        ]
        free = [path for uid, path in slices.items() if uid not in marked]
        wanted = min(len(free), max(len(labelled), 8))
        spread = [round(place) for place in np.linspace(0, len(free) - 1, wanted)] if wanted else []
        labelled += [(free[index], NORMAL) for index in spread]
        for path, label in sorted(labelled):
            yield path, label, patient


def _chosen(kinds: set[str]) -> str | None:
    """The class of a series by its nodules; None: normal slices alone."""
    if MALIGNANT in kinds:
        return MALIGNANT
    return BENIGN if kinds == {BENIGN} else None


def _slices(folder: Path) -> dict[str, Path]:
    """The CT slices of a folder by SOP Instance UID, from foot to head."""
    found = []
    for path in sorted(folder.glob("*.dcm")):
        try:
            header = dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        except (InvalidDicomError, OSError):
            continue
        if header.get("Modality") == "CT":
            found.append(
                (float((header.get("ImagePositionPatient") or [0, 0, 0])[2]), str(header.SOPInstanceUID), path)
            )
    return {uid: path for _, uid, path in sorted(found)}


def _read(xml: Path) -> tuple[list[_Reading], set[str]]:
    """The readings of nodules of 3 mm and more, and the slices with any mark at all."""
    if xml.stat().st_size > MAX_XML_BYTES:
        raise DatasetError(f"{xml.name}: larger than {MAX_XML_BYTES} bytes")
    text = xml.read_bytes()
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise DatasetError(f"{xml.name}: XML with entities is not read")
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - entities are refused above
    except ElementTree.ParseError as error:
        raise DatasetError(f"{xml.name} is not XML") from error
    readings, marked = [], set()
    for reader, session in enumerate(root.findall("{*}readingSession")):
        for mark in session.iter():
            uid = (mark.text or "").strip() if mark.tag.endswith(("imageSOP_UID", "image_SOP_UID")) else ""
            if uid:
                marked.add(uid)
        for nodule in session.findall("{*}unblindedReadNodule"):
            vote = nodule.findtext("{*}characteristics/{*}malignancy")
            if vote is None or not vote.strip().isdigit():
                continue  # smaller than 3 mm: a point without votes
            reading = _Reading(reader, int(vote))
            for roi in nodule.findall("{*}roi"):
                if (roi.findtext("{*}inclusion") or "TRUE").strip().upper() == "TRUE":
                    points = [
                        (float(edge.findtext("{*}yCoord") or 0), float(edge.findtext("{*}xCoord") or 0))
                        for edge in roi.findall("{*}edgeMap")
                    ]
                    row, column = np.mean(points, axis=0) if points else (0.0, 0.0)
                    reading.centres[(roi.findtext("{*}imageSOP_UID") or "").strip()] = (float(row), float(column))
            readings.append(reading)
    return readings, marked


def _nodules(readings: list[_Reading]) -> list[list[_Reading]]:
    """Readings whose outlines lie near each other in a slice that both marked are one nodule."""
    nodules: list[list[_Reading]] = []
    for reading in readings:
        for nodule in nodules:
            if any(_is_near(reading, other) for other in nodule):
                nodule.append(reading)
                break
        else:
            nodules.append([reading])
    return nodules


def _is_near(first: _Reading, second: _Reading) -> bool:
    return any(
        uid in second.centres and np.hypot(*np.subtract(centre, second.centres[uid])) < NEAR_PX
        for uid, centre in first.centres.items()
    )


def _label(nodule: list[_Reading]) -> str:
    if len({reading.reader for reading in nodule}) < LEAST_READERS:
        return "left out"
    vote = median(reading.malignancy for reading in nodule)
    return MALIGNANT if vote >= 4 else BENIGN if vote <= 2 else "left out"
