"""From the embedder to an answer by region: the real step, the real backbone, phantoms, the HTTP interface."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
import numpy as np
import pytest

from services.embedder.cells import CellGrid
from services.embedder.derived_points import DerivedIndexes
from services.embedder.embed_study import EmbedStudy
from services.embedder.region_points import Regions
from services.query.app import build_parts
from services.query.http import build_app
from services.query.settings import QuerySection, QuerySettings
from services.training.phantoms.anatomy import icbm152
from services.training.phantoms.brain_dicom import mr_images, part10_bytes
from services.training.phantoms.brain_slab import PhantomSpec, PhantomVolume, synthesise
from shared.archive import MemoryArchive
from shared.health import Health
from shared.pixels import PixelLimits
from shared.settings import VisionSettings
from shared.vector_index import collection_name
from shared.vector_index.memory import MemoryAliases, MemoryIndex
from shared.vision.backbone import Backbone, load_backbone
from tests.services.embedder.embedder_studies import SeriesSpec, archive_study, made_up_task

HEALTHY = 5
SLICES = 4
CELL_PX = 64  # of 256: a 4 x 4 grid
PLANTED = (0, 1)  # subjects that get the same piece of another one's lesion, at the same place


@dataclass(frozen=True)
class Place:
    slice: int
    row: int
    column: int

    @property
    def region(self) -> dict[str, float]:
        return {"left": self.column / 4, "top": self.row / 4, "width": 0.25, "height": 0.25}

    def of(self, pixels: np.ndarray) -> np.ndarray:
        top, left = self.row * CELL_PX, self.column * CELL_PX
        return pixels[self.slice, top : top + CELL_PX, left : left + CELL_PX]


def most_lesion(volume: PhantomVolume) -> Place:
    """The cell with most of the lesion."""
    of_cells = volume.mask.reshape(SLICES, 4, CELL_PX, 4, CELL_PX).sum(axis=(2, 4))
    return Place(*(int(at) for at in np.unravel_index(of_cells.argmax(), of_cells.shape)))


@dataclass(frozen=True)
class Phantoms:
    """Studies as the embedder leaves them.

    Attributes:
        held: The collections, by name.
        sops: SOP Instance UIDs by study, from foot to head.
        place: Where the lesion was planted.
    """

    archive: MemoryArchive
    held: dict[str, MemoryIndex]
    backbone: Backbone
    sops: list[list[str]]
    place: Place


@pytest.fixture(scope="module")
def embedded() -> Phantoms:
    backbone = load_backbone(VisionSettings(device="cpu", batch_size=4))
    archive, dim = MemoryArchive(), backbone.dim
    held = {collection_name(backbone.id, level): MemoryIndex(dim) for level in ("frames", "regions")}
    frames, regions = held.values()
    grid = CellGrid(4, backbone.input_size_px // backbone.patch_px)
    embed = EmbedStudy(
        archive,
        backbone,
        (made_up_task(backbone.id, dim),),
        frames,
        PixelLimits(),
        derived=DerivedIndexes(MemoryIndex(dim), MemoryIndex(dim), regions=Regions(regions, grid, frames_max=8)),
    )
    anatomy = icbm152()
    ill = synthesise(anatomy, PhantomSpec(HEALTHY, "meningioma-like", contrast=8.0, slices=SLICES))
    place = most_lesion(ill)
    sops = []
    for subject in range(HEALTHY):
        spec = PhantomSpec(subject, "normal", slices=SLICES)
        volume = synthesise(anatomy, spec)
        if subject in PLANTED:
            place.of(volume.pixels)[:] = place.of(ill.pixels)
        objects = {}
        for image in mr_images(anatomy, spec, volume):
            image.WindowCenter, image.WindowWidth = 1500, 3000  # one for all, so that the piece looks the same
            objects[str(image.SOPInstanceUID)] = part10_bytes(image)
        study = f"1.2.826.{subject}"
        embed(archive_study(archive, SeriesSpec(objects, uid=f"{study}.1"), study=study, pseudonyms=(f"p-{subject}",)))
        sops.append(list(objects))
    return Phantoms(archive, held, backbone, sops, place)


@pytest.fixture
async def client(embedded: Phantoms):
    settings, health = QuerySettings(query=QuerySection(decode_workers=0)), Health()
    app = build_app(settings.query, health)
    app.state.parts = build_parts(
        settings,
        archive=embedded.archive,
        index=embedded.held[collection_name(embedded.backbone.id)],
        encoder=embedded.backbone,
        open_collection=lambda name, _: embedded.held[name],
        aliases=MemoryAliases(embedded.held),
    )
    health.ready = True
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as opened:
        yield opened


async def test_the_same_lesion_at_the_same_place_is_found_first_with_its_box(client, embedded):
    place = embedded.place
    assert (await client.get("/v1/info")).json()["region_search"] is True
    for own, other in (PLANTED, PLANTED[::-1]):
        body = {
            "sop_instance_uid": embedded.sops[own][place.slice],
            "frame_number": 1,
            "region": place.region,
            "group_by": "frame",
            "limit": 50,
        }
        answer = await client.post("/v1/search", json=body)
        assert answer.status_code == 200, answer.text
        first, second, *_ = answer.json()["results"]
        assert (first["study_instance_uid"], first["sop_instance_uid"]) == (
            f"1.2.826.{other}",
            embedded.sops[other][place.slice],
        )
        assert first["region"] == place.region
        assert first["score"] > second["score"]
        assert all(one["region"]["width"] == 0.25 for one in answer.json()["results"])


async def test_a_cell_of_an_indexed_frame_is_found_by_its_upload_with_score_one(client, embedded):
    """The embedder and the query service cut a frame alike, bit for bit or nearly."""
    archive, place = embedded.archive, embedded.place
    sop = embedded.sops[2][place.slice]
    (entry,) = [found for found in archive.list("instances/1.2.826.2") if sop in found]
    box = ",".join(str(edge) for edge in place.region.values())
    answer = await client.post(
        "/v1/search/upload", files={"file": archive.get(entry)}, params={"region": box, "limit": 1}
    )
    (first,) = answer.json()["results"]
    assert (first["sop_instance_uid"], first["region"]) == (sop, place.region)
    assert first["score"] == pytest.approx(1.0, abs=1e-5)
