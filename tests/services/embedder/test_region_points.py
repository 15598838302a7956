"""Cells of frames in the collection that is searched by region."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass, replace

import numpy as np
import pytest
from embedder_studies import STUDY, SeriesSpec, archive_study, dicom, made_up_task, slices
from pydicom import dcmread

from services.embedder import cells
from services.embedder.app import open_decoder
from services.embedder.batches import SharedBatches
from services.embedder.cells import CellGrid
from services.embedder.derived_points import DerivedIndexes
from services.embedder.embed_study import EmbedStudy
from services.embedder.points import of_study
from services.embedder.region_points import Regions
from services.embedder.settings import EmbedderSection
from shared.errors import IndexUnavailableError, InvalidVectorError
from shared.ids import point_id, region_id
from shared.pixels import PixelLimits, read_frames
from shared.vector_index.memory import MemoryIndex
from shared.vector_index.port import AnyOf, Filter, Region
from shared.vision.features import Features
from shared.vision.patch_grid import PatchGrid
from shared.vision.transform import letterboxed
from tests.services.embedder.conftest import PooledPixels

SIDE = 4  # patches of 7 px across an input of 28


@dataclass
class PatchedPixels(PooledPixels):
    """Patch tokens too: a fixed random projection of each patch's own pixels."""

    def encode_squares(self, squares):
        features = super().encode_squares(squares)
        grey = np.stack([square if square.ndim == 2 else square.mean(axis=2) for square in squares])
        pixels = grey.reshape(-1, SIDE, 7, SIDE, 7).transpose(0, 1, 3, 2, 4).reshape(len(grey), SIDE * SIDE, 49)
        return Features(features.cls, features.middle, pixels @ PROJECTION)


PROJECTION = np.random.default_rng(2).normal(size=(49, PooledPixels.dim)).astype(np.float32)


@pytest.fixture
def encoder() -> PatchedPixels:
    return PatchedPixels()


@pytest.fixture
def regions(encoder) -> Regions:
    return Regions(MemoryIndex(encoder.dim), CellGrid(2, SIDE), frames_max=8)


@pytest.fixture
def embed(archive, encoder, index, regions) -> EmbedStudy:
    derived = DerivedIndexes(MemoryIndex(encoder.dim), MemoryIndex(encoder.dim), regions=regions)
    task = made_up_task(encoder.id, encoder.dim)
    return EmbedStudy(archive, encoder, (task,), index, PixelLimits(), derived=derived)


def with_regions(embed: EmbedStudy, **changes: object) -> EmbedStudy:
    return replace(embed, derived=replace(embed.derived, regions=replace(embed.derived.regions, **changes)))


def points(embed: EmbedStudy):
    return embed.derived.regions.index.scroll(limit=10_000)


def frames_of(embed: EmbedStudy) -> set[tuple[str, int]]:
    return {(point.payload.sop_instance_uid, point.payload.frame_number) for point in points(embed)}


def drawn(sop: str, pixels: np.ndarray) -> bytes:
    """An MR object with these 12-bit pixels, shown from 0 to 4095."""
    dataset = dcmread(io.BytesIO(dicom(sop)))
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    dataset.PixelData = pixels.astype("<u2").tobytes()
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize(("shape", "workers"), [((40, 40), 0), ((20, 40), 0), ((60, 25), 1)])
def test_a_cell_is_what_a_search_by_its_box_would_look_for(embed, archive, encoder, index, shape, workers):
    sop = "1.2.826.1.1.1"
    data = drawn(sop, np.random.default_rng(0).integers(500, 4096, shape))
    decoder = open_decoder(EmbedderSection(decode_workers=workers), encoder.input_size_px, PixelLimits())
    replace(embed, decoder=decoder)(archive_study(archive, SeriesSpec({sop: data})))
    decoder.close()
    (frame,) = read_frames(data, limits=PixelLimits())
    (tokens,) = encoder.encode_squares([letterboxed(frame, 28)]).patches
    grid = PatchGrid.of(frame, patches=SIDE * SIDE, size_px=28)
    found = {point.id: point for point in points(embed)}
    of_frame = point_id(encoder.id, sop, 1)
    (whole,) = index.retrieve([of_frame])
    for number, (top, left) in enumerate([(0, 0), (0, 0.5), (0.5, 0), (0.5, 0.5)]):
        box = Region(left=left, top=top, width=0.5, height=0.5)
        point = found.pop(region_id(of_frame, number))
        mean = tokens[grid.within(box)].mean(axis=0)
        np.testing.assert_allclose(point.vector, mean / np.linalg.norm(mean), atol=1e-6)
        assert point.payload == whole.payload.model_copy(update={"region": box})
    assert not found


def test_cells_of_dark_even_background_are_not_indexed(embed, archive):
    pixels = np.random.default_rng(1).integers(0, 120, (40, 40))
    pixels[25:32, 5:12] += 2000
    embed(archive_study(archive, SeriesSpec({"1.2.826.1.1.1": drawn("1.2.826.1.1.1", pixels)})))
    assert [point.payload.region for point in points(embed)] == [Region(left=0, top=0.5, width=0.5, height=0.5)]


def test_evidence_has_regions_first_and_others_are_spread(embed, archive):
    (event,) = with_regions(embed, frames_max=7)(archive_study(archive, slices(20)))
    evidence = {(frame.sop_instance_uid, frame.frame_number) for frame in event.evidence}
    found = frames_of(embed)
    assert len(evidence) == 5
    assert len(found) == 7
    assert evidence < found
    ends = [f"1.2.826.1.1.{number}" for number in range(1, 21) if (f"1.2.826.1.1.{number}", 1) not in evidence]
    assert found - evidence == {(ends[0], 1), (ends[-1], 1)}


def test_two_diagnoses_share_the_frames_there_are(embed, archive, encoder):
    other = made_up_task(encoder.id, encoder.dim, name="other", bias=(2.0, 0.0), frames={"policy": "every", "every": 3})
    both = with_regions(replace(embed, tasks=(*embed.tasks, other)), frames_max=4)
    events = both(archive_study(archive, slices(20)))
    found = frames_of(both)
    assert len(found) == 4
    for event in events:
        assert (event.evidence[0].sop_instance_uid, 1) in found


def test_a_study_that_no_task_takes_has_regions_too(embed, archive):
    embed(archive_study(archive, SeriesSpec(slices(3).objects, modality="CT", body_part="CHEST")))
    assert len(frames_of(embed)) == 3


def test_redelivery_leaves_one_point_a_cell_and_a_revision_none_of_the_older(embed, archive):
    received = archive_study(archive, slices(6))
    embed(received)
    embed(received)
    assert len(points(embed)) == 6 * 4
    embed(archive_study(archive, slices(3), revision=2))
    assert len(points(embed)) == 3 * 4
    assert {point.payload.revision for point in points(embed)} == {2}


def test_an_older_revisions_regions_that_were_written_late_give_way(embed, archive):
    embed(archive_study(archive, slices(6)))
    late = points(embed)
    newest = archive_study(archive, slices(3), revision=2)
    embed(newest)
    embed.derived.regions.index.upsert(late)
    embed(newest)
    assert {point.payload.revision for point in points(embed)} == {2}


def test_regions_are_written_before_frames_so_a_failure_between_leaves_work(embed, archive, index, monkeypatch):
    received = archive_study(archive, slices(3))
    whole = MemoryIndex.upsert

    def away(self, written):
        if self is embed.derived.regions.index:
            raise IndexUnavailableError("away")
        whole(self, written)

    monkeypatch.setattr(MemoryIndex, "upsert", away)
    with pytest.raises(IndexUnavailableError):
        embed(received)
    assert index.count() == 0
    monkeypatch.setattr(MemoryIndex, "upsert", whole)
    embed(received)
    assert len(points(embed)) == index.count() * 4


@pytest.mark.parametrize("where", [of_study(STUDY), Filter(must=(AnyOf("patient_pseudonym", ("p-1",)),))])
def test_what_deletes_a_study_or_a_patient_reaches_their_regions(embed, archive, where):
    embed(archive_study(archive, slices(2)))
    embed(archive_study(archive, slices(2, prefix="1.2.826.9.1"), study="1.2.826.9", pseudonyms=("p-2",)))
    embed.derived.regions.index.delete(where)
    assert {point.payload.study_instance_uid for point in points(embed)} == {"1.2.826.9"}


def test_of_a_study_too_long_for_memory_the_cells_of_some_frames_are_kept_evenly(embed, archive, encoder, monkeypatch):
    monkeypatch.setattr(cells, "KEPT_BYTES_MAX", 3 * 4 * encoder.dim * 4)
    embed(archive_study(archive, slices(9)))
    assert frames_of(embed) == {(f"1.2.826.1.1.{number}", 1) for number in (1, 5, 9)}


def test_a_cell_whose_tokens_cancel_has_no_direction_and_is_left_out(embed, archive):
    class Cancelling(PatchedPixels):
        def encode_squares(self, squares):
            features = super().encode_squares(squares)
            features.patches[:, [3, 6]] = -features.patches[:, [2]]
            features.patches[:, 7] = features.patches[:, 2]
            return features

    replace(embed, encoder=Cancelling())(archive_study(archive, slices(1)))
    assert [point.payload.region.left for point in points(embed) if point.payload.region.top == 0] == [0]


def test_tokens_that_are_not_finite_are_an_error_before_anything_is_written(embed, archive, index):
    class Broken(PatchedPixels):
        def encode_squares(self, squares):
            features = super().encode_squares(squares)
            features.patches[:, 5] = np.nan
            return features

    with pytest.raises(InvalidVectorError):
        replace(embed, encoder=Broken())(archive_study(archive, slices(2)))
    assert index.count() == 0


def test_regions_do_not_depend_on_the_studies_beside(embed, archive, encoder):
    received = [
        archive_study(archive, slices(3 + n, prefix=f"1.2.826.{n}.1", seed=10 * n), study=f"1.2.826.{n}")
        for n in range(1, 4)
    ]
    for event in received:
        embed(event)
    alone = {point.id: point.vector for point in points(embed)}
    embed.derived.regions.index.delete(Filter(must=(AnyOf("modality", ("MR",)),)))
    embed.index.delete(Filter(must=(AnyOf("modality", ("MR",)),)))
    with SharedBatches(encoder, wait_s=5.0) as batches:
        together = replace(embed, batches=batches)
        threads = [threading.Thread(target=together, args=(event,)) for event in received]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    beside = {point.id: point.vector for point in points(embed)}
    assert beside.keys() == alone.keys()
    for name, vector in alone.items():
        np.testing.assert_array_equal(beside[name], vector)
