"""The explained frame as highdicom gets it: one plain single-frame header, without anybody's identity.

Sources come in every SOP class, with elements that break rules. So highdicom is given a stand-in that has
the frame's references and geometry and nothing else; `finish` puts the true SOP class, the frame number and
the patient's and study's elements, as the source has them, into what comes out. What is not listed there
cannot leak.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, MRImageStorage, SecondaryCaptureImageStorage

from shared.errors import UndecodablePixelsError
from shared.pixels.deflated import deflated_object
from shared.pixels.limits import PixelLimits
from shared.pixels.quiet import quiet
from shared.unforeseen import place_of

_STAND_IN: Final = {True: MRImageStorage, False: SecondaryCaptureImageStorage}
_LIMITS: Final = PixelLimits()
_TOLERANCE: Final = 1e-3  # of unit vectors that 16 characters cannot hold exactly


class SourceError(ValueError):
    """No DICOM result can be made of this source. Its message quotes no element's value."""


@contextmanager
def one_kind_of_error() -> Iterator[None]:
    """Within it whatever pydicom and highdicom raise of a source that breaks rules becomes a SourceError."""
    try:
        with quiet():  # pydicom's warnings quote the values of elements, as its errors do
            yield
    except (SourceError, MemoryError):
        raise
    except Exception as error:
        where = f"{type(error).__name__} in {place_of(error)}"
        raise SourceError(f"the source breaks a rule that its results depend on: {where}") from error


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """One frame of an image object.

    Attributes:
        ds: The object's data set, as archived; its pixels are not needed.
        header: The stand-in for highdicom.
        number: The frame, from 1.
        is_multiframe: Whether references must name the frame.
        has_geometry: Whether the frame lies in a patient's Frame of Reference.
    """

    ds: Dataset
    header: Dataset
    number: int
    is_multiframe: bool
    has_geometry: bool

    @property
    def rows(self) -> int:
        """Rows of the frame."""
        return int(self.ds.Rows)

    @property
    def columns(self) -> int:
        """Columns of the frame."""
        return int(self.ds.Columns)

    @property
    def sop_class_uid(self) -> UID:
        """The object's true SOP class."""
        return UID(self.ds.SOPClassUID)

    @property
    def sop_instance_uid(self) -> UID:
        """The object's SOP Instance UID."""
        return UID(self.ds.SOPInstanceUID)

    @property
    def frame_numbers(self) -> list[int] | None:
        """What a reference to the frame has to name."""
        return [self.number] if self.is_multiframe else None

    def reference(self) -> Dataset:
        """An item that refers to the frame: PS3.3 table 10-3."""
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = self.sop_class_uid, self.sop_instance_uid
        if self.is_multiframe:
            item.ReferencedFrameNumber = self.number
        return item


@one_kind_of_error()
def source_header(data: bytes, limits: PixelLimits = _LIMITS) -> Dataset:
    """The data set of a Part 10 file, without its pixels. A deflated one is inflated up to its pixels only.

    Raises:
        SourceError: it is none, or a deflated data set inflates beyond the limit.
    """
    try:
        return dcmread(deflated_object(data, limits) or io.BytesIO(data), stop_before_pixels=True)
    except InvalidDicomError as error:
        raise SourceError("not a DICOM file") from error
    except UndecodablePixelsError as error:  # of a deflated data set
        raise SourceError(str(error)) from error


@one_kind_of_error()
def source_frame(ds: Dataset, number: int) -> SourceFrame:
    """The frame `number` of `ds`.

    Raises:
        SourceError: the object is no image, or has no such frame.
    """
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns"):
        if not ds.get(keyword):
            raise SourceError(f"the source has no {keyword}")
    count = int(ds.get("NumberOfFrames") or 1)
    if not 1 <= number <= count:
        raise SourceError(f"the source has {count} frames, not {number}")
    try:
        geometry = _geometry(ds, number)
    except (ValueError, TypeError, OverflowError):  # an element that is no number
        geometry = None
    header = Dataset()
    header.SOPClassUID = _STAND_IN[geometry is not None]
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns"):
        setattr(header, keyword, ds.get(keyword))
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        setattr(header, keyword, "")
    header.StudyDate = header.StudyTime = None
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if ds.get(keyword):
            setattr(header, keyword, ds.get(keyword))
    header.update(geometry or {})
    # PS3.3 table 10-3: with one frame a reference that names none means it.
    return SourceFrame(ds, header, number, count > 1, geometry is not None)


def _geometry(ds: Dataset, number: int) -> Dataset | None:
    """Frame of Reference, spacing, thickness, orientation, position: PS3.3 C.7.6.2. None if one is missing.

    Enhanced objects have them in functional groups. Tiles of a slide have positions on the slide, not in a
    patient, and count as frames without geometry.
    """
    measures = _from_groups(ds, number, "PixelMeasuresSequence")
    orientation = _from_groups(ds, number, "PlaneOrientationSequence").get("ImageOrientationPatient")
    position = _from_groups(ds, number, "PlanePositionSequence").get("ImagePositionPatient")
    spacing = measures.get("PixelSpacing")
    if not ds.get("FrameOfReferenceUID") or not (
        _are_numbers(spacing, 2) and _are_numbers(position, 3) and _are_axes(orientation) and min(spacing) > 0
    ):
        return None
    geometry = Dataset()
    geometry.FrameOfReferenceUID = ds.FrameOfReferenceUID
    geometry.PositionReferenceIndicator = ds.get("PositionReferenceIndicator") or ""
    geometry.PixelSpacing, geometry.ImageOrientationPatient = spacing, orientation
    geometry.ImagePositionPatient = position
    # Slice Thickness is Type 1C of Pixel Measures: required here, as the results are slices of a volume.
    gap = measures.get("SpacingBetweenSlices")
    thickness = measures.get("SliceThickness")
    if not _are_numbers([thickness], 1):
        thickness = gap
    if not _are_numbers([thickness], 1):
        return None
    geometry.SliceThickness = thickness
    if _are_numbers([gap], 1):
        geometry.SpacingBetweenSlices = gap
    return geometry


def _from_groups(ds: Dataset, number: int, keyword: str) -> Dataset:
    """A functional group of the frame, else the shared one; without functional groups the data set itself."""
    per_frame, shared = ds.get("PerFrameFunctionalGroupsSequence"), ds.get("SharedFunctionalGroupsSequence")
    if not per_frame and not shared:
        # Position and orientation at the top of a multi-frame object would be those of its first frame.
        return ds if int(ds.get("NumberOfFrames") or 1) == 1 else Dataset()
    if per_frame and len(per_frame) >= number and (own := per_frame[number - 1].get(keyword)):
        group: Dataset = own[0]
        return group
    common: Dataset = shared[0][keyword][0] if shared and shared[0].get(keyword) else Dataset()
    return common


def _are_numbers(values: Any, count: int) -> bool:
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        return False
    return all(value is not None and value != "" and math.isfinite(float(value)) for value in values)


def _are_axes(values: Any) -> bool:
    """Whether they are the direction cosines of two perpendicular axes."""
    if not _are_numbers(values, 6):
        return False
    axes = np.array([float(value) for value in values]).reshape(2, 3)
    return bool(np.abs(axes @ axes.T - np.eye(2)).max() < _TOLERANCE)
