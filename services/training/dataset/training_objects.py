"""Which images trained a head, by hash alone: so that it is never measured on them. Kept beside the card."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from services.training.dataset.cases import Case, SplitName
from services.training.features.case_features import CaseFeatures
from shared.errors import ConfigurationError

TRAINING_OBJECTS_FILE: Final = "training-objects.txt"
_DIGITS: Final = 16


def objects_of(parts: Mapping[SplitName, Sequence[CaseFeatures]]) -> tuple[str, ...]:
    """The first 16 digits of each sha256 of an object that fitted or calibrated the head, sorted."""
    used = [*parts["training"], *parts["calibration"]]
    return tuple(sorted({digest[:_DIGITS] for case in used for digest in case.object_hashes}))


def as_text(objects: Iterable[str]) -> str:
    """The file: one hash a line."""
    return "".join(f"{digest}\n" for digest in objects)


def sha256_of(objects: Iterable[str]) -> str:
    """Of the file, for the card."""
    return hashlib.sha256(as_text(objects).encode()).hexdigest()


def read_objects(folder: Path, card: Mapping[str, Any]) -> frozenset[str]:
    """What `folder`'s head was trained on; of phantoms nothing is kept, since theirs are never drawn again.

    Raises:
        ConfigurationError: the hashes are missing, or not those that the card was written with.
    """
    data = card.get("data", {})
    if data.get("kind", "phantom") == "phantom":
        return frozenset()
    try:
        content = (folder / TRAINING_OBJECTS_FILE).read_bytes()
    except OSError:
        content = None
    if content is None or hashlib.sha256(content).hexdigest() != data.get("training_objects_sha256"):
        raise ConfigurationError(
            f"which images trained this head is not known ({TRAINING_OBJECTS_FILE} is missing or another's), so that "
            "it cannot be measured on labelled images: train it again"
        )
    return frozenset(content.decode("ascii").split())


def is_trained_on(case: Case, objects: frozenset[str]) -> bool:
    """Whether an object of the case is among `objects`. Reads the case's files unless there are none to compare with.

    Raises:
        DatasetError: they cannot be read.
    """
    return bool(objects) and any(hashlib.sha256(data).hexdigest()[:_DIGITS] in objects for data in case.load().objects)
