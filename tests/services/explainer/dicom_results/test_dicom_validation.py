"""Two validators of others: dicom3tools' dciodvfy on every kind, DCMTK's dsrdump on documents."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from services.explainer.dicom_results import DicomResult, key_objects, source_frame
from shared.events import ResultKind
from tests.services.explainer.dicom_results.sources import CHECKED, SOURCES, UNRELIABLE, WITH_GEOMETRY, facts, results

pytestmark = pytest.mark.peers

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


@pytest.mark.parametrize("reliability", [CHECKED, UNRELIABLE], ids=["checked", "unreliable"])
@pytest.mark.parametrize("name", SOURCES)
def test_dciodvfy_finds_no_error(name: str, reliability: dict[str, object], tmp_path: Path) -> None:
    make, number = SOURCES[name]
    ds = make()
    made = [*results(ds, number, **reliability).values()]
    made.append(key_objects([source_frame(ds, number)], facts(number, **reliability)))
    assert len(made) == 3 + (name in WITH_GEOMETRY) + (reliability is CHECKED)
    for result in made:
        report = _run("dciodvfy", "-new", result, tmp_path)
        errors = [line for line in report.splitlines() if line.startswith("Error")]
        assert not errors, (result.kind, errors)
        assert report, "no answer is no verdict"


@pytest.mark.parametrize("body_part", ["KNEE", "BRAIN", "BREAST", "", "SOMETHING"])
@pytest.mark.parametrize("side", ["", "L"])
def test_dciodvfy_finds_no_error_whatever_side_and_body_part(body_part: str, side: str, tmp_path: Path) -> None:
    ds = SOURCES["CT"][0]()
    if body_part:
        ds.BodyPartExamined = body_part
    if side and body_part != "BRAIN":
        ds.Laterality = side
    for result in results(ds).values():
        errors = [line for line in _run("dciodvfy", "-new", result, tmp_path).splitlines() if line.startswith("Error")]
        assert not errors, (result.kind, errors)


def test_dciodvfy_does_find_an_error_where_there_is_one(tmp_path: Path) -> None:
    result = results(SOURCES["CT"][0]())[ResultKind.SEGMENTATION]
    broken = DicomResult(
        result.kind,
        result.sop_class_uid,
        result.sop_instance_uid,
        result.series_instance_uid,
        result.data.replace(b"BINARY", b"BINERY"),
        result.sha256,
    )
    assert "Error" in _run("dciodvfy", "-new", broken, tmp_path)


def test_dcmtk_reads_the_documents(tmp_path: Path) -> None:
    ds = SOURCES["enhanced MR"][0]()
    report, selection = results(ds, 4)[ResultKind.MEASUREMENT_REPORT], key_objects([source_frame(ds, 4)], facts(4))
    words = _run("dsrdump", "+Pl", report, tmp_path)
    assert "Verification Flag   : UNVERIFIED" in words
    assert "RESEARCH USE ONLY" in words
    assert "MRe image" in words
    assert "Key Object Selection Document" in _run("dsrdump", "+Pl", selection, tmp_path)


def _run(name: str, option: str, result: DicomResult, folder: Path) -> str:
    found = shutil.which(name, path=SYSTEM_PATH)
    if found is None:
        if os.environ.get("SIMILIS_REQUIRE_PEERS") == "1":
            pytest.fail(f"{name} is not installed, and SIMILIS_REQUIRE_PEERS=1")
        pytest.skip(f"{name} is not installed")
    path = folder / "result.dcm"
    path.write_bytes(result.data)
    done = subprocess.run([found, option, str(path)], capture_output=True, timeout=60, check=False)
    return (done.stdout + done.stderr).decode(errors="replace")
