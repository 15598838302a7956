"""`similis index snapshot` and `restore`: the same answers again, and nothing damaged or in use is touched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli import app
from shared.errors import ConfigurationError
from shared.settings import QdrantSettings
from shared.vector_index.aliases import open_aliases
from shared.vector_index.edge_client import take_snapshot
from shared.vector_index.port import AnyOf, Filter
from shared.vector_index.snapshots import RESTORING, restore


def similis(*words: object) -> None:
    """`similis index …`."""
    result = CliRunner().invoke(app, ["index", *map(str, words)])
    assert result.exit_code == 0, result.output


def answers(owner, queries) -> object:
    """What searches, facets and aliases give."""
    index, other = owner.index(), owner.index("other")
    aliases = open_aliases(QdrantSettings(socket=owner.socket))
    where = Filter(must_not=(AnyOf("patient_pseudonym", ("p1",)),))
    found = (
        [index.search(query.vector, limit=7, where=where) for query in queries],
        index.search_studies(queries[0].vector, limit=5),
        index.facet("patient_pseudonym"),
        [point.id for point in index.scroll(limit=1000)],
        [point.id for point in other.scroll(limit=1000)],
        aliases.get("live"),
        aliases.collections(),
    )
    for each in (index, other, aliases):
        each.close()
    return found


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory):
    """A stopped owner's folder, its snapshot as a folder and as a file, and the answers it gave."""
    from tests.shared.vector_index.conftest import Owner, make_frames

    folder = tmp_path_factory.mktemp("snapshots")
    short = Path("/tmp") / f"similis-{folder.name}-{id(folder)}"  # a Unix socket's path is short
    short.mkdir()
    owner = Owner(short)
    owner.start()
    index, other = owner.index(), owner.index("other")
    index.upsert(make_frames(0, 120))
    other.upsert(make_frames(500, 30))
    aliases = open_aliases(QdrantSettings(socket=owner.socket))
    aliases.switch("live", "frames")
    before = answers(owner, make_frames(900, 5))
    assert take_snapshot(owner.socket, folder / "whole", timeout_s=60) == {"frames": 120, "other": 30}
    similis("snapshot", folder / "whole.tar", "--socket", owner.socket)
    with pytest.raises(ConfigurationError, match="there already"):
        take_snapshot(owner.socket, folder / "whole", timeout_s=60)
    # What comes later is not in it.
    index.upsert(make_frames(200, 10))
    aliases.switch("live", "other")
    for each in (index, other, aliases):
        each.close()
    assert owner.stop() == 0
    yield owner, folder, before
    shutil.rmtree(short)


@pytest.mark.parametrize("name", ["whole", "whole.tar"])
def test_a_restored_index_gives_the_same_answers(snapshots, frames, name: str) -> None:
    owner, folder, before = snapshots
    with pytest.raises(ConfigurationError, match="--replace"):
        restore(folder / name, owner.data)
    similis("restore", folder / name, "--data", owner.data, "--replace")
    owner.start()
    try:
        assert answers(owner, frames(900, 5)) == before
        with pytest.raises(ConfigurationError, match="in use by process"):
            restore(folder / name, owner.data, replace=True)
        index = owner.index()
        index.upsert(frames(300, 5))
        assert index.count() == 125
        index.close()
    finally:
        assert owner.stop() == 0


@pytest.mark.parametrize("damage", ["byte", "missing", "foreign", "manifest", "format", "count", "none", "tar"])
def test_a_damaged_snapshot_is_refused_before_anything_is_touched(snapshots, tmp_path: Path, damage: str) -> None:
    _, folder, _ = snapshots
    copy, data = tmp_path / "copy", tmp_path / "data"
    shutil.copytree(folder / "whole", copy)
    shard, manifest = copy / "frames" / "shard", copy / "manifest.json"
    largest = max((path for path in shard.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    kept = json.loads(manifest.read_text())
    match damage:
        case "byte":
            content = bytearray(largest.read_bytes())
            content[1000] ^= 1
            largest.write_bytes(content)
        case "missing":
            largest.unlink()
        case "foreign":
            (shard / "foreign").write_text("x")
        case "manifest":
            manifest.write_text("{}")
        case "format":
            manifest.write_text(json.dumps(kept | {"format": 2}))
        case "count":
            kept["collections"][0]["points"] += 1
            manifest.write_text(json.dumps(kept))
        case "none":
            shutil.rmtree(copy)
        case "tar":
            copy = tmp_path / "half.tar"
            copy.write_bytes((folder / "whole.tar").read_bytes()[:5000])
    data.mkdir()
    (data / "mine").write_text("x")
    with pytest.raises(ConfigurationError):
        restore(copy, data, replace=True)
    assert sorted(path.name for path in data.iterdir()) == ["mine", "owner.lock"]


def test_an_owner_does_not_start_on_a_restore_that_was_interrupted(snapshots, tmp_path: Path, owner) -> None:
    _, folder, _ = snapshots
    (owner.data / RESTORING / "frames").mkdir(parents=True)
    owner.start(wait=False)
    assert owner.process.wait(60) == 2
    with pytest.raises(ConfigurationError, match="--replace"):
        restore(folder / "whole", owner.data)
    restore(folder / "whole", owner.data, replace=True)
    owner.start()
    index = owner.index()
    assert index.count() == 120
    index.close()
