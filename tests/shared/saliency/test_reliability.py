"""When a map's range is clearly above that of random-weight networks, and when nobody can say."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shared.errors import ConfigurationError
from shared.events import Reliability
from shared.saliency.reliability import judge_range, map_range
from shared.vision.explain_reference import (
    FACTOR,
    REFERENCE_FILE,
    ExplainReference,
    read_reference,
    write_reference,
)
from shared.vision.tasks import BUILT_IN, load_version
from shared.vision.transform import Letterbox

SETTINGS = {"delta": 0.1, "noise_std": 0.1, "fill": (0.0, 0.0, 0.0)}


def reference(ranges: list[float] | None = None, **changes: object) -> ExplainReference:
    facts = {
        "head_id": "brain-mr@1",
        "head_sha256": "0" * 64,
        "backbone_id": "net@1",
        "architecture": "Dinov2Model",
        "method": "vit-cx",
        "mode": "one-pass-float32",
        "parameters": SETTINGS,
        "weights": "as the library draws them",
        "images": "20 phantoms",
        "seed": 0,
    }
    return ExplainReference.of([k / 1000 for k in range(1, 21)] if ranges is None else ranges, **{**facts, **changes})


def judged(found: float, kept: ExplainReference | None, **changes: object):
    given = {"head_id": "brain-mr@1", "method": "vit-cx", "parameters": {**SETTINGS, "max_masks": None}, **changes}
    return judge_range(found, kept, **given)


def test_a_range_clearly_above_the_references_is_checked_and_one_that_is_not_is_flagged() -> None:
    kept = reference()
    assert kept.n == 20
    assert kept.limit == pytest.approx(FACTOR * 0.019)  # 19 of 20 are at most .019
    above, at, below = judged(FACTOR * 0.019 + 1e-4, kept), judged(kept.limit, kept), judged(0.02, kept)
    assert [one.reliability.value for one in (above, at, below)] == ["checked", "not-reliable", "not-reliable"]
    assert not above.is_flagged
    assert at.is_flagged
    assert "does not prove" in above.reason
    assert "may mean nothing" in below.reason
    assert "0.020" in below.reason
    assert "0.019" in below.reason


def test_without_a_reference_it_is_unknown_and_said_so() -> None:
    found = judged(0.5, None)
    assert (found.reliability, found.limit, found.is_flagged) == (Reliability.UNKNOWN, None, False)
    assert "no random-weight reference" in found.reason


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"head_id": "brain-mr@2"}, "head brain-mr@1"),
        ({"method": "rollout"}, "vit-cx maps"),
        ({"parameters": {**SETTINGS, "delta": 0.05}}, "delta 0.1"),
        ({"parameters": {"delta": 0.1, "noise_std": 0.1}}, "fill"),
    ],
)
def test_a_reference_of_something_else_says_nothing(changes: dict[str, object], told: str) -> None:
    found = judged(0.5, reference(), **changes)
    assert found.reliability is Reliability.UNKNOWN
    assert told in found.reason


def test_a_reference_read_back_judges_as_before(tmp_path: Path) -> None:
    kept = reference()
    write_reference(tmp_path / REFERENCE_FILE, kept)
    again = read_reference(tmp_path / REFERENCE_FILE)
    assert again is not None
    assert again.ranges == kept.ranges
    for found in (0.02, 0.04):
        assert judged(found, again) == judged(found, kept)
    assert [path.name for path in tmp_path.iterdir()] == [REFERENCE_FILE]


def test_quantiles_are_ranges_that_were_seen() -> None:
    assert reference([0.1, 0.3, 0.2]).quantiles == {"0.5": 0.2, "0.95": 0.3, "0.99": 0.3, "1": 0.3}


def test_the_range_is_of_the_frame_and_of_what_masks_reach() -> None:
    values = np.full((6, 8), 0.02, np.float32)
    values[3, 4], values[2, 1] = 0.05, 0.01
    values[0], values[5, 5] = 9.0, 0.0  # a bar; a pixel that no mask reaches
    box = Letterbox(1, 0, 5, 8)
    assert map_range(values, content=box) == pytest.approx(0.04, abs=1e-6)
    assert map_range(values, 33, box) == pytest.approx(33 * 0.04, abs=1e-5)
    assert map_range(values) == pytest.approx(8.99, abs=1e-5)
    assert map_range(-values, content=box) == pytest.approx(0.04, abs=1e-6)
    assert map_range(np.zeros((2, 2), np.float32)) == 0.0


def test_no_file_is_no_reference_and_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / REFERENCE_FILE
    assert read_reference(path) is None
    path.write_text("{}")
    with pytest.raises(ConfigurationError, match="no random-weight reference"):
        read_reference(path)


def test_a_task_version_brings_its_reference(tmp_path: Path) -> None:
    folder = tmp_path / "brain-mr"
    shutil.copytree(BUILT_IN / "brain-mr", folder, ignore=shutil.ignore_patterns("figures", REFERENCE_FILE))
    assert load_version("brain-mr", folder).explain_reference is None
    write_reference(folder / REFERENCE_FILE, reference())
    task = load_version("brain-mr", folder)
    assert task.explain_reference == reference()
    told = json.loads((folder / REFERENCE_FILE).read_text())
    (folder / REFERENCE_FILE).write_text(json.dumps({**told, "ranges": []}))
    with pytest.raises(ConfigurationError, match="no random-weight reference"):
        load_version("brain-mr", folder)


def test_judging_needs_no_torch() -> None:
    code = "import shared.saliency.reliability, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0
