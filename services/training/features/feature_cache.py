"""Frozen features on disk: a frame by backbone id, the joined features' version, its object's sha256 and its number.

Nothing of a patient is kept. A damaged file counts as missing and is made again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.vision.features import JOINED_VERSION
from shared.vision.patch_lens import PatchLens

_VERSION: Final = 2  # raise it when what is kept of a frame changes
_COLUMNS: Final = ("numbers", "joined", "thumbnails", "pixels")
_PATCHES: Final = ("patches", "coverage")

Rows = dict[str, NDArray[Any]]  # `_COLUMNS`, and `_PATCHES` where masks are known; one row for each frame


class FeatureCache:
    """What was encoded once. Two processes may share a folder: files are replaced whole."""

    def __init__(
        self, folder: Path, backbone_id: str, lens: PatchLens | None = None, keep_patches: bool = False
    ) -> None:
        """Nothing is read yet. What is kept beside the joined features, a lens's figures or patches, tells caches
        apart; a lens also reads what was kept with patches, so that nothing is encoded again for another lens.
        """
        self._lens = lens
        beside = [_PATCHES[0]] if keep_patches else []
        beside += [f"lens {_digest_of(lens)}"] if lens is not None else []
        folder = folder.expanduser() / "features"
        self._frames, self._with_patches = (
            folder / _digest(" ".join([f"{backbone_id} {JOINED_VERSION} {_VERSION}", *kind]))[:16]
            for kind in (beside, [_PATCHES[0]])
        )
        self._facts = folder / f"facts-{_VERSION}"

    def frames(self, sha256: str, numbers: Sequence[int]) -> Rows | None:
        """The rows of an object's frames in the order asked for; None unless all are kept."""
        kept = self._read(sha256)
        if kept is None:
            return None
        at = {int(number): row for row, number in enumerate(kept["numbers"])}
        if not set(numbers) <= set(at):
            return None
        return {name: array[[at[number] for number in numbers]] for name, array in kept.items()}

    def keep_frames(self, sha256: str, rows: Rows) -> None:
        """Keep an object's rows beside those that are kept already."""
        if (kept := self._read(sha256)) is not None:
            older = ~np.isin(kept["numbers"], rows["numbers"])
            both = [name for name in rows if name in kept or not older.any()]
            rows = {
                name: np.concatenate([kept[name][older], rows[name]]) if older.any() else rows[name] for name in both
            }
        path = _place(self._frames, sha256, ".npz")
        partial = path.with_name(f".{os.getpid()}-{path.name}")
        np.savez(partial, **rows)  # type: ignore[arg-type]
        partial.replace(path)

    def facts(self, identity: str) -> dict[str, Any] | None:
        """What was kept of the case of this identity."""
        try:
            values: dict[str, Any] = json.loads(_place(self._facts, _digest(identity), ".json").read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return values

    def keep_facts(self, identity: str, facts: Mapping[str, Any]) -> None:
        """Keep what is known of a case beside its pixels."""
        path = _place(self._facts, _digest(identity), ".json")
        partial = path.with_name(f".{os.getpid()}-{path.name}")
        partial.write_text(json.dumps(facts), encoding="utf-8")
        partial.replace(path)

    def _read(self, sha256: str) -> Rows | None:
        rows = _read_rows(_place(self._frames, sha256, ".npz"))
        if rows is None and self._lens is not None:
            rows = _seen_through(self._lens, _read_rows(_place(self._with_patches, sha256, ".npz")))
        return rows


def _read_rows(path: Path) -> Rows | None:
    try:
        with np.load(io.BytesIO(path.read_bytes())) as stored:
            rows = {name: stored[name] for name in (*_COLUMNS, *_PATCHES) if name in stored}
    except Exception:  # noqa: BLE001  a torn file fails in many ways: zipfile's, zlib's, numpy's own
        return None
    is_whole = set(_COLUMNS) <= set(rows) and len({len(array) for array in rows.values()}) == 1
    return rows if is_whole else None


def _seen_through(lens: PatchLens, rows: Rows | None) -> Rows | None:
    """Rows that were kept with patches, as a reader with a lens has them: its figures in the last columns.

    The patches were kept in half precision, as those that a lens is fitted on.
    """
    if rows is None or "patches" not in rows:
        return None
    joined = np.concatenate([rows["joined"], lens(rows["patches"])], axis=1)
    return {**{name: rows[name] for name in _COLUMNS}, "joined": joined}


def _place(folder: Path, key: str, suffix: str) -> Path:
    place = folder / key[:2]
    place.mkdir(parents=True, exist_ok=True)
    return place / f"{key}{suffix}"


def _digest_of(lens: PatchLens) -> str:
    return hashlib.sha256(lens.weight.tobytes() + lens.bias.tobytes()).hexdigest()[:16]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
