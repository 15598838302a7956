"""The demo's parts that need no running system."""

import io
import json
from pathlib import Path

import pydicom
from rich.console import Console

from services.demo.follow import Followed
from services.demo.report import DemoReport, StudyResult, show
from services.demo.studies import real_studies


def record(study: str, revision: int, decision: str) -> bytes:
    return json.dumps({"study_instance_uid": study, "revision": revision, "decision": decision, "maps": []}).encode()


def test_the_real_files_are_ct_mr_and_cr() -> None:
    studies = real_studies()
    modalities = {pydicom.dcmread(study.files[0], stop_before_pixels=True).Modality for study in studies}
    assert modalities == {"CT", "MR", "CR"}
    assert len({study.study_instance_uid for study in studies}) == len(studies) == 8


def test_a_finding_is_done_only_when_its_own_revision_is_explained() -> None:
    followed = Followed()
    assert not followed.is_done("1.2")
    followed.take("similis.diagnosis.brain-mr.v1", b"1.2", record("1.2", 1, "finding"))
    assert not followed.is_done("1.2")
    followed.take("similis.study.explained.v1", b"1.2", record("1.2", 1, ""))
    assert followed.is_done("1.2")
    followed.take("similis.diagnosis.brain-mr.v1", b"1.2", record("1.2", 2, "finding"))
    assert not followed.is_done("1.2")
    # A late repeat of an older revision changes nothing.
    followed.take("similis.diagnosis.brain-mr.v1", b"1.2", record("1.2", 1, "no-finding"))
    assert not followed.is_done("1.2")


def test_no_finding_needs_no_explanation() -> None:
    followed = Followed()
    followed.take("similis.diagnosis.none.v1", b"1.3", record("1.3", 1, "no-task"))
    assert followed.is_done("1.3")


def test_a_dead_letter_of_any_content_is_noted() -> None:
    followed = Followed()
    followed.take("similis.study.received.v1.dlq", b"\xff", b"\x00 no JSON")
    followed.take("similis.study.received.v1.dlq", b"1.4", b"")
    assert followed.is_done("1.4"), "a dead-lettered study is not waited for"
    assert followed.dead[:1] == [{"topic": "similis.study.received.v1.dlq", "key": "\ufffd"}]


def result(**changes: object) -> StudyResult:
    values: dict[str, object] = {
        "study_instance_uid": "2.25.1",
        "source": "phantom",
        "truth": "glioma-like",
        "objects": 8,
        "diagnosed": True,
        "embedded": True,
        "searchable": True,
        "explained": True,
        "revision": 1,
        "task": "brain-mr",
        "decision": "finding",
        "reason": "",
        "label": "glioma-like",
        "confidence": 0.9,
        "modalities": ("MR",),
        "frames_embedded": 8,
        "neighbours": (),
        "maps": (),
    }
    return StudyResult.model_validate(values | changes)


def test_every_missing_part_makes_a_study_incomplete() -> None:
    assert result().complete
    assert result(explained=None).complete
    for missing in ("diagnosed", "embedded", "searchable", "explained"):
        assert not result(**{missing: False}).complete


def test_the_report_says_research_use_only_and_shows_what_is_missing(tmp_path: Path) -> None:
    report = DemoReport(
        complete=False,
        studies=(result(explained=False),),
        dead_letters=({"topic": "t.dlq", "key": "1.2"},),
        page="http://127.0.0.1:1",
        endpoints={"kafka": "127.0.0.1:2", "dicom": {"ae_title": "SIMILIS", "host": "127.0.0.1", "port": 3}},
        topics=("similis.diagnosis.brain-mr.v1",),
        archive=tmp_path,
        push_s=1.0,
        wait_s=2.0,
        total_s=3.0,
    )
    console = Console(record=True, width=200, file=io.StringIO())
    show(console, report)
    text = console.export_text()
    for part in ("research use only", "missing", "t.dlq", "http://127.0.0.1:1", "similis.diagnosis.brain-mr.v1"):
        assert part in text.lower()
    assert "research use only" in report.model_dump_json()
