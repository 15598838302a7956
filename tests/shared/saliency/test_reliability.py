"""When a map leads chance by more than those of random-weight networks, and when nobody can say."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import ConfigurationError
from shared.events import Reliability
from shared.saliency.reliability import judge_map, map_range
from shared.vision.explain_reference import (
    LEAST_MAPS,
    PASSING_SHARE,
    REFERENCE_FILE,
    ExplainReference,
    RandomMap,
    read_reference,
    write_reference,
)
from shared.vision.tasks import BUILT_IN, load_version
from shared.vision.transform import Letterbox

SETTINGS = {"delta": 0.1, "noise_std": 0.1, "fill": (0.0, 0.0, 0.0)}
MEASURED = {"shares": (0.0, 0.5, 1.0), "blur": 0.05}


def reference(leads: Sequence[float] | None = None, **changes: object) -> ExplainReference:
    facts = {
        "head_id": "brain-mr@1",
        "head_sha256": "0" * 64,
        "backbone_id": "net@1",
        "architecture": "Dinov2Model",
        "method": "vit-cx",
        "mode": "adaptive-float32",
        "parameters": SETTINGS,
        "faithfulness": MEASURED,
        "weights": "as the library draws them",
        "images": "20 phantoms",
        "seed": 0,
    }
    chosen = [k / 100 for k in range(-10, 10)] if leads is None else leads
    return ExplainReference.of([RandomMap(lead=lead, range=abs(lead) / 2) for lead in chosen], **{**facts, **changes})


def judged(lead: float | None, kept: ExplainReference | None, *, range_: float = 1.0, **changes: object):
    given = {
        "head_id": "brain-mr@1",
        "method": "vit-cx",
        "parameters": {**SETTINGS, "max_masks": None},
        "faithfulness": {**MEASURED, "batch_size": 4},
        **changes,
    }
    return judge_map(lead, range_, kept, **given)


def test_a_lead_above_the_references_is_checked_and_one_that_is_not_is_flagged() -> None:
    kept = reference()
    assert kept.n == 20
    assert kept.limit == pytest.approx(0.09)  # of 20, none may reach as much
    above, at, below = judged(0.0901, kept), judged(0.09, kept), judged(-0.05, kept)
    assert [one.reliability.value for one in (above, at, below)] == ["checked", "not-reliable", "not-reliable"]
    assert not above.is_flagged
    assert at.is_flagged
    assert "does not prove" in above.reason
    assert "may mean nothing" in below.reason
    assert "-0.05" in below.reason
    assert "of 20 networks with random weights, 15 lead by as much" in below.reason


def test_a_map_flatter_than_nearly_all_random_ones_is_flagged_whatever_its_lead() -> None:
    kept = reference([0.05 + k / 100 for k in range(20)])
    assert kept.flat == pytest.approx(0.025)  # none of 20 spans less
    flat, at = judged(1.0, kept, range_=0.0249), judged(1.0, kept, range_=0.025)
    assert (flat.is_flagged, at.is_flagged) == (True, False)
    assert "flat" in flat.reason
    assert "0.0249" in flat.reason


@settings(deadline=None, max_examples=50)
@given(
    leads=st.lists(st.floats(-2, 2), min_size=LEAST_MAPS, max_size=200),
    lead=st.floats(-2, 2) | st.just(0.0),
)
def test_a_map_passes_where_its_rank_among_random_ones_is_within_the_share(leads: list[float], lead: float) -> None:
    """The rule by its definition: (1 + references that reach as much) / (n + 1) is at most the share."""
    kept = reference(leads)
    share = (1 + kept.reached_by(lead)) / (kept.n + 1)
    assert (judged(lead, kept).reliability is Reliability.CHECKED) == (share <= PASSING_SHARE + 1e-12)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6), count=st.integers(LEAST_MAPS, 90))
def test_of_maps_like_the_references_no_more_than_the_share_pass(seed: int, count: int) -> None:
    """Each of n + 1 maps judged by the n others: that is what the share is of, whatever the distribution."""
    leads = np.random.default_rng(seed).standard_t(2, count + 1).round(4)
    passed = [
        judged(float(lead), reference(np.delete(leads, at).tolist())).reliability is Reliability.CHECKED
        for at, lead in enumerate(leads)
    ]
    assert np.mean(passed) <= PASSING_SHARE


def test_too_few_references_tell_nothing() -> None:
    few = reference([0.01] * (LEAST_MAPS - 1))
    found = judged(1.5, few)
    assert (few.limit, found.reliability, found.limit) == (None, Reliability.UNKNOWN, None)
    assert "18 maps, and 19" in found.reason


def test_without_a_reference_or_a_measured_lead_it_is_unknown_and_said_so() -> None:
    found = judged(0.5, None)
    assert (found.reliability, found.limit, found.is_flagged) == (Reliability.UNKNOWN, None, False)
    assert "no random-weight reference" in found.reason
    found = judged(None, reference())
    assert (found.reliability, found.lead, found.limit) == (Reliability.UNKNOWN, None, None)
    assert "not measured" in found.reason


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"head_id": "brain-mr@2"}, "head brain-mr@1"),
        ({"method": "rollout"}, "vit-cx maps"),
        ({"parameters": {**SETTINGS, "delta": 0.05}}, "delta 0.1"),
        ({"parameters": {"delta": 0.1, "noise_std": 0.1}}, "fill"),
        ({"faithfulness": {**MEASURED, "blur": 0.1}}, "blur 0.05"),
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
    assert again == kept
    for found in (0.05, 0.2):
        assert judged(found, again) == judged(found, kept)
    assert [path.name for path in tmp_path.iterdir()] == [REFERENCE_FILE]


def test_quantiles_are_figures_that_were_seen() -> None:
    assert reference([0.1, 0.3, 0.2]).quantiles["lead"] == {"0.5": 0.2, "0.95": 0.3, "1": 0.3}


def test_a_file_of_the_earlier_format_is_no_reference_and_said_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / REFERENCE_FILE
    path.write_text(json.dumps({"format": "similis-explain-reference-1", "ranges": [0.1]}))
    assert read_reference(path) is None
    assert "--reference-maps" in caplog.text


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
    for damaged in ("{}", "[]", "{", '{"format": "similis-explain-reference-3"}'):
        path.write_text(damaged)
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
    (folder / REFERENCE_FILE).write_text(json.dumps({**told, "maps": []}))
    with pytest.raises(ConfigurationError, match="no random-weight reference"):
        load_version("brain-mr", folder)


def test_judging_needs_no_torch() -> None:
    code = "import shared.saliency.reliability, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0
