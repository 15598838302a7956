"""The published events: schemas, samples, and what counts as a breaking change."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from shared import schemas
from shared.delivery.cloudevents import from_record, to_record
from shared.errors import ConfigurationError, MalformedEventError
from shared.events import EVENT_CLASSES, Event, StudyDiagnosed, StudyReceived

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "schemas"
SAMPLES = [
    (event, path)
    for event in EVENT_CLASSES
    for path in sorted((schemas.schema_path(KEPT, event).parent / "samples").glob("*.json"))
]


def validator(event: type[Event]) -> Draft202012Validator:
    schema = json.loads(schemas.schema_path(KEPT, event).read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


def test_the_kept_schemas_are_those_of_the_code() -> None:
    assert schemas.check(KEPT) == []


@pytest.mark.parametrize(("event", "path"), SAMPLES, ids=lambda value: getattr(value, "stem", ""))
def test_every_golden_sample_is_valid_and_comes_back_unchanged(event: type[Event], path: Path) -> None:
    sample = json.loads(path.read_text())
    validator(event).validate(sample)
    read = event.model_validate(sample)
    # what an older sample does not have yet comes back as a default
    assert json.loads(read.model_dump_json(exclude_unset=True)) == sample


@pytest.mark.parametrize(("event", "path"), SAMPLES, ids=lambda value: getattr(value, "stem", ""))
def test_a_record_carries_a_sample_there_and_back(event: type[Event], path: Path) -> None:
    sent = event.model_validate_json(path.read_bytes())
    key, value, headers = to_record(sent, "test")
    assert key == sent.study_instance_uid.encode()
    assert from_record(event, value, headers) == sent
    validator(event).validate(json.loads(value))


def test_an_event_of_a_later_version_with_a_new_field_is_still_read() -> None:
    event, path = SAMPLES[0]
    later = json.loads(path.read_text()) | {"a_field_of_tomorrow": 1}
    assert event.model_validate(later) == event.model_validate_json(path.read_bytes())


def test_events_are_frozen() -> None:
    event, path = SAMPLES[0]
    with pytest.raises(ValidationError):
        event.model_validate_json(path.read_bytes()).revision = 2


@given(st.binary(max_size=200))
def test_bytes_that_are_no_event_are_malformed_and_nothing_else(value: bytes) -> None:
    with pytest.raises(MalformedEventError):
        from_record(StudyReceived, value, [])


def test_an_error_about_a_malformed_record_does_not_quote_it() -> None:
    secret = {"study_instance_uid": "DOE^JANE", "patient_pseudonyms": "DOE^JANE", "revision": "DOE^JANE"}
    with pytest.raises(MalformedEventError) as caught:
        from_record(StudyReceived, json.dumps(secret).encode(), [])
    assert "DOE" not in str(caught.value)
    assert caught.value.__cause__ is None


def break_by(change: str) -> dict[str, Any]:
    schema = copy.deepcopy(schemas.json_schema(StudyDiagnosed))
    fields, nested = schema["properties"], schema["$defs"]["EvidenceFrame"]
    match change:
        case "removed":
            del fields["reason"]
        case "removed inside":
            del nested["properties"]["point_id"]
            nested["required"].remove("point_id")
        case "retyped":
            fields["frames_embedded"]["type"] = "string"
        case "newly required":
            schema["required"].append("mixed_patients")
        case "required no more":
            schema["required"].remove("reason")
        case "other limits":
            nested["properties"]["frame_number"]["exclusiveMinimum"] = 5
        case "new limits":
            fields["reason"]["maxLength"] = 5
        case "enum grown":
            schema["$defs"]["Decision"]["enum"].append("perhaps")
        case "nullable no more":
            fields["label"] = {"type": "string"}
        case "format dropped":
            del fields["event_id"]["format"]
    return schema


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("removed", "reason was removed"),
        ("removed inside", "evidence.point_id was removed"),
        ("retyped", "frames_embedded.: 'integer' became 'string'"),
        ("newly required", "mixed_patients became required"),
        ("required no more", "reason is required no more"),
        ("other limits", "evidence.frame_number.: 0 became 5"),
        ("new limits", "reason.: maxLength was added"),
        ("enum grown", "decision."),
        ("nullable no more", "label.: anyOf was removed"),
        ("format dropped", "event_id.: format was removed"),
    ],
)
def test_a_breaking_change_is_named(change: str, named: str) -> None:
    found = schemas.incompatibilities(schemas.json_schema(StudyDiagnosed), break_by(change))
    assert any(named in problem for problem in found), found


def test_a_new_optional_field_and_new_words_break_nothing() -> None:
    old = schemas.json_schema(StudyDiagnosed)
    new = copy.deepcopy(old)
    new["properties"]["ward"] = {"type": "string", "default": ""}
    new["$defs"]["EvidenceFrame"]["properties"]["note"] = {"type": "string", "default": ""}
    new["properties"]["reason"]["description"] = "Better words."
    new["title"] = "Other"
    assert schemas.incompatibilities(old, new) == []


def exported(folder: Path) -> Path:
    schemas.export(folder)
    for event, path in SAMPLES:
        sample = schemas.schema_path(folder, event).parent / "samples" / path.name
        sample.parent.mkdir(exist_ok=True)
        sample.write_bytes(path.read_bytes())
    return folder


def test_export_refuses_to_overwrite_a_schema_it_would_break(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    kept = schemas.schema_path(folder, StudyDiagnosed)
    # The kept one knows a field that the code has no more.
    schema = json.loads(kept.read_text())
    schema["properties"]["old_field"] = {"type": "string"}
    kept.write_text(json.dumps(schema))
    with pytest.raises(ConfigurationError, match="old_field was removed"):
        schemas.export(folder)
    assert any("old_field was removed" in problem for problem in schemas.check(folder))
    assert "old_field" in kept.read_text()


@pytest.mark.parametrize("damage", ["schema", "sample", "no sample", "asyncapi", "missing"])
def test_drift_is_reported(tmp_path: Path, damage: str) -> None:
    folder = exported(tmp_path)
    assert schemas.check(folder) == []
    kept = schemas.schema_path(folder, StudyReceived)
    [sample] = (kept.parent / "samples").iterdir()
    match damage:
        case "schema":
            kept.write_text(kept.read_text().replace("A study is complete", "A study may be complete"))
        case "sample":
            sample.write_text(sample.read_text().replace('"revision": 1', '"revision": 0'))
        case "no sample":
            sample.unlink()
        case "asyncapi":
            (folder / schemas.ASYNCAPI).write_text("asyncapi: 3.0.0\n")
        case "missing":
            kept.unlink()
    assert len(schemas.check(folder)) == 1


def test_the_asyncapi_document_holds_together() -> None:
    document = schemas.asyncapi()
    assert document["asyncapi"] == "3.0.0"

    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if "$ref" in node else []
            return own + [found for value in node.values() for found in references(value)]
        return [found for item in node for found in references(item)] if isinstance(node, list) else []

    for reference in references(document):
        node: Any = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
    assert [channel["address"] for channel in document["channels"].values()] == [
        "similis.study.received.v1",
        "similis.diagnosis.{task}.v1",
        "similis.explanation.requested.v1",
        "similis.study.explained.v1",
    ]
