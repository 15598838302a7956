"""`similis demo --exit --json`, as a new user runs it, with fewer phantoms."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.support import require_kafka

pytestmark = [pytest.mark.e2e, pytest.mark.kafka, pytest.mark.timeout(600)]


def test_the_demo_ends_by_itself_with_every_study_whole(tmp_path: Path) -> None:
    require_kafka()
    report = tmp_path / "out.json"
    options = ["--data", str(tmp_path / "data"), "--phantoms", "4", "--exit", "--json", str(report)]
    command = [sys.executable, "-m", "services.cli", "demo", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(report.read_text())
    assert told["complete"]
    assert len(told["studies"]) == 4 + 8
    for study in told["studies"]:
        assert study["diagnosed"]
        assert study["embedded"]
        assert study["searchable"]
        assert (study["decision"] == "finding") == bool(study["maps"])
        assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in study["maps"])
        assert (study["task"] == "brain-mr") == (study["source"] == "phantom")
    assert any(study["decision"] == "finding" for study in told["studies"])
    assert told["dead_letters"] == []
    for part in ("esearch use only", told["page"], told["endpoints"]["kafka"], "similis.diagnosis.brain-mr.v1"):
        assert part in done.stdout
