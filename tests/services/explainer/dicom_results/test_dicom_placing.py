"""Where a map lies on its source: the affine, the resampling, the geometry that viewers read."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import Dataset

from services.explainer.dicom_results import grid_to_source, source_frame
from services.explainer.dicom_results.placing import on_source_pixels, top_region
from shared.events import ResultKind
from shared.pixels.frame import Frame
from shared.vision.transform import Letterbox, letterbox_box, letterboxed
from tests.services.explainer.dicom_results.sources import SOURCES, WITH_GEOMETRY, box_of, read, results, saliency

GRID = 224


@pytest.mark.parametrize(
    ("rows", "columns", "aspect"), [(512, 512, 1.0), (300, 200, 1.0), (130, 410, 1.0), (64, 90, 2.0)]
)
def test_a_spot_of_the_frame_comes_back_to_its_own_pixel(rows: int, columns: int, aspect: float) -> None:
    box = letterbox_box(rows, columns, aspect, GRID)
    for row, column in ((rows // 5, columns // 3), (rows - 9, columns // 2), (rows // 2, columns - 8)):
        y, x = np.mgrid[:rows, :columns]
        spread = rows / 30, columns / 30
        spot = np.exp(-(((y - row) / spread[0]) ** 2) - ((x - column) / spread[1]) ** 2).astype(np.float32)
        square = letterboxed(Frame(spot, 1, aspect), GRID)  # as the model sees it
        back = on_source_pixels(square, box, rows, columns)
        peak = np.unravel_index(int(back.argmax()), back.shape)
        assert abs(int(peak[0]) - row) <= rows / box.height / 2 + 1
        assert abs(int(peak[1]) - column) <= columns / box.width / 2 + 1
        weights = np.clip(back, 0, None) / np.clip(back, 0, None).sum()
        assert (weights * y).sum() == pytest.approx((spot * y).sum() / spot.sum(), abs=0.35)
        assert (weights * x).sum() == pytest.approx((spot * x).sum() / spot.sum(), abs=0.35)


def test_the_affine_says_what_the_resampling_does() -> None:
    rows, columns = 300, 200
    box = letterbox_box(rows, columns, 1.0, GRID)
    u, v = np.mgrid[:GRID, :GRID].astype(np.float32)
    affine = grid_to_source(box, rows, columns)
    row_of, column_of = (on_source_pixels(axis, box, rows, columns) for axis in (u, v))
    inside = np.s_[4:-4, 4:-4]
    y, x = np.mgrid[:rows, :columns]
    placed = np.stack([row_of, column_of, np.ones_like(row_of)])
    there = np.tensordot(affine, placed, axes=1)
    assert np.abs(there[0] - y)[inside].max() < 1e-3
    assert np.abs(there[1] - x)[inside].max() < 1e-3


def test_nothing_from_outside_the_letterbox_reaches_the_frame() -> None:
    box = Letterbox(top=10, left=0, height=20, width=40)
    grid = np.full((40, 40), 9.0, np.float32)
    grid[10:30] = 1.0
    assert (on_source_pixels(grid, box, 77, 154) == 1.0).all()


def test_a_map_that_is_not_finite_or_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        on_source_pixels(np.full((8, 8), np.nan, np.float32), Letterbox(0, 0, 8, 8), 8, 8)
    with pytest.raises(ValueError, match="not within"):
        on_source_pixels(np.zeros((8, 8), np.float32), Letterbox(4, 0, 8, 8), 8, 8)


def test_one_pixel_is_enough_for_a_letterbox() -> None:
    assert (on_source_pixels(np.ones((8, 8), np.float32), Letterbox(3, 0, 1, 8), 1, 40) == 1).all()


def test_the_top_region_begins_at_its_share_above_the_mean() -> None:
    values = np.zeros((10, 10), np.float32)
    values[0, :4] = [1.0, 0.6, 0.5, 0.4]
    mean = values.mean()
    region = top_region(values, 0.5)
    assert region.sum() == (values >= mean + 0.5 * (1 - mean)).sum() == 2
    assert region[0, 0]
    assert region[0, 1]


@pytest.mark.parametrize("value", [0.0, -1.5, 0.1])
def test_a_flat_map_has_no_top_region(value: float) -> None:
    assert not top_region(np.full((31, 17), value, np.float32), 0.5).any()


def test_a_share_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="share"):
        top_region(np.eye(3, dtype=np.float32), 1.0)


@pytest.mark.parametrize("name", WITH_GEOMETRY)
def test_a_pixel_of_map_and_segment_lies_where_the_sources_pixel_lies(name: str) -> None:
    make, number = SOURCES[name]
    ds = make()
    made = results(ds, number)
    source = source_frame(ds, number).header
    for kind in (ResultKind.PARAMETRIC_MAP, ResultKind.SEGMENTATION):
        result = read(made[kind])
        assert (result.Rows, result.Columns) == (ds.Rows, ds.Columns)
        assert result.FrameOfReferenceUID == ds.FrameOfReferenceUID
        for pixel in ((0, 0), (ds.Rows - 1, 3), (7, ds.Columns - 1)):
            assert _in_patient(_groups(result), pixel) == pytest.approx(_in_patient(source, pixel), abs=1e-3)


def test_frames_of_an_enhanced_object_have_their_own_positions() -> None:
    make, _ = SOURCES["enhanced MR"]
    ds = make()
    positions = []
    for number in (1, 4, 10):
        result = read(results(ds, number)[ResultKind.PARAMETRIC_MAP])
        positions.append(_groups(result).ImagePositionPatient)
        derivation = result.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
        assert (derivation.ReferencedSOPClassUID, derivation.ReferencedFrameNumber) == (ds.SOPClassUID, number)
    own = [ds.PerFrameFunctionalGroupsSequence[n - 1].PlanePositionSequence[0].ImagePositionPatient for n in (1, 4, 10)]
    assert positions == own


def test_the_parametric_map_has_the_maps_own_values() -> None:
    ds = SOURCES["CT phantom"][0]()
    result = read(results(ds)[ResultKind.PARAMETRIC_MAP])
    stored = np.frombuffer(result.FloatPixelData, "<f4").reshape(ds.Rows, ds.Columns)
    assert np.array_equal(stored, on_source_pixels(saliency(), box_of(ds), ds.Rows, ds.Columns))
    mapping = result.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)


def test_the_segment_is_the_top_region() -> None:
    ds = SOURCES["CT phantom"][0]()
    stored = read(results(ds)[ResultKind.SEGMENTATION]).pixel_array.astype(bool)
    placed = on_source_pixels(saliency(), box_of(ds), ds.Rows, ds.Columns)
    assert np.array_equal(stored, top_region(placed, 0.5))
    assert 0 < stored.mean() < 0.2


@pytest.mark.parametrize("name", sorted(set(SOURCES) - set(WITH_GEOMETRY)))
def test_without_a_frame_of_reference_there_is_a_segment_but_no_parametric_map(name: str) -> None:
    make, number = SOURCES[name]
    ds = make()
    made = results(ds, number)
    assert ResultKind.PARAMETRIC_MAP not in made
    segment = read(made[ResultKind.SEGMENTATION])
    assert (segment.Rows, segment.Columns) == (ds.Rows, ds.Columns)
    assert "FrameOfReferenceUID" not in segment


def test_a_parametric_map_is_refused_where_a_position_is_broken() -> None:
    for keyword, value in (
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]),
        ("ImagePositionPatient", None),
        ("PixelSpacing", [0, 1]),
        ("FrameOfReferenceUID", ""),
    ):
        ds = SOURCES["CT"][0]()
        setattr(ds, keyword, value)
        assert not source_frame(ds, 1).has_geometry
    assert ResultKind.PARAMETRIC_MAP not in results(ds)


def _groups(result: Dataset) -> Dataset:
    """Its geometry in one data set."""
    shared, own = result.SharedFunctionalGroupsSequence[0], result.PerFrameFunctionalGroupsSequence[0]
    merged = Dataset()
    for group in (shared.PixelMeasuresSequence, shared.PlaneOrientationSequence, own.PlanePositionSequence):
        merged.update(group[0])
    return merged


def _in_patient(ds: Dataset, pixel: tuple[int, int]) -> list[float]:
    """PS3.3 equation C.7.6.2.1-1."""
    along_row, along_column = np.array([float(v) for v in ds.ImageOrientationPatient]).reshape(2, 3)
    between_rows, between_columns = (float(v) for v in ds.PixelSpacing)
    corner = np.array([float(v) for v in ds.ImagePositionPatient])
    return list(corner + along_row * between_columns * pixel[1] + along_column * between_rows * pixel[0])
