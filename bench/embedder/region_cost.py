"""What regions cost: a phantom study embedded with and without them, in turns, and the disk that their points take.

    python -m bench.embedder.region_cost [--slices 24] [--rounds 7]

The real backbone and step, decoding in this process, an index in memory for the times and the embedded engine for the
bytes. CPU seconds of all threads; the least and the most ratio of a round are printed beside the median. The phantom
is simulated: research use only.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from uuid import uuid5

import numpy as np
from pydicom.uid import MRImageStorage

from bench.embedder.study_cost import archive_objects
from services.embedder.cells import CellGrid
from services.embedder.derived_points import DerivedIndexes
from services.embedder.embed_study import EmbedStudy
from services.embedder.region_points import Regions
from services.training.phantoms.anatomy import icbm152
from services.training.phantoms.brain_dicom import mr_images, part10_bytes
from services.training.phantoms.brain_slab import PhantomSpec, synthesise
from shared.archive import LocalArchive
from shared.events import StudyReceived
from shared.pixels import PixelLimits, read_frames
from shared.settings import VisionSettings
from shared.vector_index.edge_engine import EdgeEngine
from shared.vector_index.memory import MemoryIndex
from shared.vector_index.port import FramePoint
from shared.vision.backbone import Backbone, load_backbone
from shared.vision.patch_grid import PatchGrid
from shared.vision.transform import letterboxed

FRAMES_MAX = 8
GRID = 4


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    backbone = load_backbone(VisionSettings(device="cpu"))
    spec = PhantomSpec(1, "meningioma-like", slices=asked.slices)
    images = mr_images(icbm152(), spec, synthesise(icbm152(), spec))
    grid = CellGrid(GRID, backbone.input_size_px // backbone.patch_px)
    with tempfile.TemporaryDirectory() as folder:
        archive = LocalArchive(Path(folder) / "archive")
        objects = {str(one.SOPInstanceUID): part10_bytes(one) for one in images}
        received = archive_objects(archive, objects, sop_class_uid=MRImageStorage, modality="MR")

        def step(*, has_regions: bool) -> EmbedStudy:
            regions = Regions(MemoryIndex(backbone.dim), grid, FRAMES_MAX) if has_regions else None
            derived = DerivedIndexes(MemoryIndex(backbone.dim), MemoryIndex(backbone.dim), regions=regions)
            return EmbedStudy(archive, backbone, (), MemoryIndex(backbone.dim), PixelLimits(), derived=derived)

        ratios, spent = [], []
        for turn in range(asked.rounds + 1):  # the first one also warms up
            order = (False, True) if turn % 2 else (True, False)
            cpu = {has: _cpu_s(step(has_regions=has), received, archive) for has in order}
            if turn:
                ratios.append(cpu[True] / cpu[False])
                spent.append(cpu[False])
        print(f"{_added_ms(grid, objects, backbone):.3f} CPU ms a frame to cut it and to pool its tokens")
        with_regions = step(has_regions=True)
        with_regions(received)
        regions = with_regions.derived.regions if with_regions.derived else None
        points = regions.index.scroll(limit=10_000) if regions else []
        frames = with_regions.index.count()
        print(f"{frames} frames, {len(points)} region points of {FRAMES_MAX} frames")
        print(f"{statistics.median(spent):.2f} CPU s without regions; with them {statistics.median(ratios):.4f} times")
        print(f"as much ({min(ratios):.4f} to {max(ratios):.4f} in {len(ratios)} rounds)")
        size, write_ms = _a_point(points, backbone.dim, Path(folder) / "engine")
        print(f"a point: {size:.0f} bytes on the disk, {write_ms:.3f} CPU ms to store")


def _cpu_s(step: EmbedStudy, received: StudyReceived, archive: LocalArchive) -> float:
    started = time.process_time()
    step(received)
    spent = time.process_time() - started
    for key in list(archive.list(f"diagnoses/{received.study_instance_uid}")):
        (archive.root / key).unlink()
    return spent


def _added_ms(grid: CellGrid, objects: Mapping[str, bytes], backbone: Backbone) -> float:
    """What is done for regions beside the model, by itself: the ratio above drowns it in noise."""
    frames = [read_frames(data, limits=PixelLimits())[0] for data in objects.values()]
    size = backbone.input_size_px
    grids = [PatchGrid.of(one, patches=grid.patches_side**2, size_px=size) for one in frames]
    squares = [(letterboxed(one, size), placed.content) for one, placed in zip(frames, grids, strict=True)]
    tokens = np.random.default_rng(0).random((grid.patches_side**2, backbone.dim), np.float32)
    spent = []
    for _ in range(50):
        started = time.process_time()
        for square, content in squares:
            grid.shown(square, content).weights @ tokens
        spent.append(time.process_time() - started)
    return 1e3 * statistics.median(spent) / len(frames)


def _a_point(points: list[FramePoint], dim: int, folder: Path) -> tuple[float, float]:
    """Bytes that more of them take, as the engine's files have a size to begin with; and CPU milliseconds to store."""
    few, many = 20, 120
    sizes, spent = {}, 0.0
    for copies in (few, many):
        engine = EdgeEngine(folder / str(copies), dim=dim)
        for copy in range(copies):
            named = [replace(point, id=uuid5(point.id, str(copy))) for point in points]
            started = time.process_time()
            engine.upsert(named)
            spent += time.process_time() - started
        engine.close()
        files = (file for file in (folder / str(copies)).rglob("*") if file.is_file())
        sizes[copies] = sum(file.stat().st_blocks * 512 for file in files)
    stored = (few + many) * len(points)
    return (sizes[many] - sizes[few]) / ((many - few) * len(points)), 1e3 * spent / stored


if __name__ == "__main__":
    main()
