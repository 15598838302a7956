"""A collection dropped by the owner: for good, whatever is killed, and its name is free again."""

from __future__ import annotations

import shutil

import pytest

from shared.errors import ConfigurationError
from shared.settings import QdrantSettings
from shared.vector_index.aliases import LIVE_ALIAS, open_aliases
from tests.shared.vector_index.conftest import Owner, make_frames


def test_a_dropped_collection_stays_away_after_a_kill_and_its_name_is_free(owner: Owner) -> None:
    owner.start()
    aliases = open_aliases(QdrantSettings(socket=owner.socket, timeout_s=20))
    old, kept = owner.index("old"), owner.index("kept")
    old.upsert(make_frames(0, 10))
    kept.upsert(make_frames(0, 3))
    aliases.switch(LIVE_ALIAS, "kept")
    aliases.drop("old")
    with pytest.raises(ConfigurationError, match="live"):
        aliases.drop("kept")
    owner.kill()
    owner.start()
    assert aliases.collections() == ["kept"]
    assert [path.name for path in owner.data.iterdir() if path.is_dir()] == ["kept"]
    assert kept.count() == 3
    # Also with vectors of another length: nothing of the old one is left.
    other = owner.index("old", dim=8)
    assert other.count() == 0
    for opened in (old, kept, other, aliases):
        opened.close()


def test_what_a_kill_left_of_a_drop_is_removed_at_the_next_start(owner: Owner) -> None:
    owner.start()
    index = owner.index("old")
    index.upsert(make_frames(0, 10))
    index.close()
    owner.kill()
    # The folder has lost its name, and its removal was cut short.
    gone = owner.data / ".dropped-1"
    (owner.data / "old").rename(gone)
    shutil.rmtree(next(path for path in (gone / "shard").iterdir() if path.is_dir()))
    owner.start()
    aliases = open_aliases(QdrantSettings(socket=owner.socket, timeout_s=20))
    assert aliases.collections() == []
    assert not gone.exists()
    aliases.close()


def test_a_drop_beside_searches_and_writes_of_another_collection_harms_neither(owner: Owner) -> None:
    owner.start()
    aliases = open_aliases(QdrantSettings(socket=owner.socket, timeout_s=20))
    kept = owner.index("kept")
    for number in range(5):
        old = owner.index(f"old-{number}")
        old.upsert(make_frames(0, 20))
        kept.upsert(make_frames(100 * number, 5))
        aliases.drop(f"old-{number}")
        assert len(kept.search(make_frames(100 * number, 1)[0].vector, limit=3)) == 3
        old.close()
    assert aliases.collections() == ["kept"]
    assert kept.count() == 25
    aliases.close()
    kept.close()
