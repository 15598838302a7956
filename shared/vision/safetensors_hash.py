"""Hashes of weights: of a file, for pinning; of the tensors, for the backbone's identity."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from shared.errors import WeightsError

_CHUNK: Final = 1 << 22
_HEADER_LIMIT: Final = 100_000_000  # the format's own


def safetensors_files(folder: Path) -> list[Path]:
    """The weights of a model folder: one `model.safetensors`, or the shards that its index names.

    Raises:
        WeightsError: there are none.
    """
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    index = folder / "model.safetensors.index.json"
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(f"{folder} holds no model.safetensors (other formats are not read)") from error
    if missing := [shard for shard in shards if not (folder / shard).is_file()]:
        raise WeightsError(f"{folder} lacks {', '.join(missing)}")
    return [folder / shard for shard in shards]


def file_sha256(path: Path) -> str:
    """The sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_sha256(folder: Path) -> str:
    """The sha256 of a folder's tensors in the order of their names: name, type, shape and bytes.

    It does not depend on sharding, nor on how a version of safetensors lays out its header.

    Raises:
        WeightsError: there are no weights, or a file is damaged.
    """
    tensors: dict[str, tuple[Path, int, dict[str, Any]]] = {}
    for path in safetensors_files(folder):
        start, header = _header(path)
        tensors |= {name: (path, start, entry) for name, entry in header.items() if name != "__metadata__"}
    digest = hashlib.sha256()
    for name, (path, start, entry) in sorted(tensors.items()):
        digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        begin, end = entry["data_offsets"]
        with open(path, "rb") as file:
            file.seek(start + begin)
            left = end - begin
            while left > 0:
                chunk = file.read(min(left, _CHUNK))
                if not chunk:
                    raise WeightsError(f"{path} is truncated")
                digest.update(chunk)
                left -= len(chunk)
    return digest.hexdigest()


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the data starts, and the header: https://github.com/huggingface/safetensors#format."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _HEADER_LIMIT:
                raise WeightsError(f"{path} is not a safetensors file")
            header = json.loads(file.read(length))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error
    if not isinstance(header, dict):
        raise WeightsError(f"{path} is not a safetensors file")
    return 8 + length, header
