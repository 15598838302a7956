"""`python -m bench.query.shard_bytes`: bytes of each part of a stored point, by the files of a real shard.

The clustered frames of the engine's benchmark with UIDs and pseudonyms as long as real ones. What the capacity model
(`bench.query.cluster_model`) assumes of payloads and their indexes is taken from here.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import BaseModel, ConfigDict

from bench.query.engine_data import frames
from bench.query.engine_results import keep
from shared.errors import SimilisError
from shared.vector_index.edge_engine import EdgeEngine
from shared.vector_index.edge_rebuild import build_command, drop_old
from shared.vector_index.edge_settings import IndexSection
from shared.vector_index.port import FramePoint

CHECKOUT: Final = Path(__file__).resolve().parents[2]
_BATCH: Final = 5_000


class ShardBytes(BaseModel):
    """Bytes a point, by part of a shard's folder; `payload_json` is what was sent."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    engine: str
    points: int
    dim: int
    payload_json: float
    parts: dict[str, float]


def main(
    points: Annotated[int, typer.Option(min=1_000, help="Frames that are stored.")] = 100_000,
    dim: Annotated[int, typer.Option(min=8, help="Length of a vector.")] = 384,
    json: Annotated[Path | None, typer.Option(help="Where to keep the figures.")] = None,
) -> None:
    """Store frames, build the graph, measure the files."""
    found = measure(points, dim)
    if json is not None:
        keep(json, found)
    print(f"{found.points} x {found.dim}, {found.engine}; payload as JSON: {found.payload_json:.0f} bytes\n")
    print("| part | bytes a point |\n|---|---|")
    for name, size in found.parts.items():
        print(f"| {name} | {size:.0f} |")


def measure(points: int, dim: int) -> ShardBytes:
    """The files of one shard with a graph over all of its points."""
    data = frames(points, dim, queries=1)
    sent = 0
    with tempfile.TemporaryDirectory(prefix="similis-bench-") as work:
        engine = EdgeEngine(Path(work) / "index", dim=dim, settings=IndexSection(flat_below_points=points // 2))
        try:
            for start in range(0, points, _BATCH):
                batch = [_full(point) for point in data.points(start, start + _BATCH)]
                sent += sum(len(point.payload.model_dump_json(exclude_none=True)) for point in batch)
                engine.upsert(batch)
            if engine.is_rebuild_due():
                subprocess.run(build_command(engine.begin_rebuild()), check=True, cwd=CHECKOUT)
                engine.finish_rebuild()
                drop_old(engine.folder)
        finally:
            engine.close()
        parts = _parts(Path(work))
    return ShardBytes(
        engine=f"qdrant-edge-py {version('qdrant-edge-py')}",
        points=points,
        dim=dim,
        payload_json=sent / points,
        parts={name: size / points for name, size in sorted(parts.items())},
    )


def _full(point: FramePoint) -> FramePoint:
    """The same frame, its identifiers as long as those that devices give."""
    payload = point.payload
    return replace(
        point,
        payload=payload.model_copy(
            update={
                "study_instance_uid": _uid(payload.study_instance_uid),
                "series_instance_uid": _uid(payload.series_instance_uid),
                "sop_instance_uid": _uid(payload.sop_instance_uid),
                "patient_pseudonym": hashlib.sha256(payload.patient_pseudonym.encode()).hexdigest()[:32],
                "sex": "F",
                "age_band": "60-69",
            }
        ),
    )


def _uid(short: str) -> str:
    """A UID of the UUID form (PS3.5 B.2), the same for the same."""
    return f"2.25.{int.from_bytes(hashlib.sha256(short.encode()).digest()[:16])}"


def _parts(folder: Path) -> dict[str, float]:
    """Bytes that files take on disk, by the part of a segment that they belong to."""
    sizes: dict[str, float] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            within = path.relative_to(folder).parts
            part = "log and settings"
            if "segments" in within:
                # segments/<id>/<part>/...; of indexes there are folders <hash>-<start of the field's name>-<kind>.
                names = within[within.index("segments") + 2 :]
                part = names[0].partition(".")[0]
                if part == "payload_index" and names[1].count("-") == 2:
                    part += f", {names[1].split('-')[1]}"
            sizes[part] = sizes.get(part, 0.0) + path.stat().st_blocks * 512
    return sizes


if __name__ == "__main__":
    try:
        typer.run(main)
    except SimilisError as error:
        print(f"bench.query.shard_bytes: {error}", file=sys.stderr)
        sys.exit(1)
