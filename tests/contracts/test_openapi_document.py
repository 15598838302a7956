"""The OpenAPI document is one that tools understand and people can read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from services.query.openapi import render_openapi

Document = dict[str, Any]

# A report of many tables; its example would be longer than its description.
WITHOUT_EXAMPLE = {"", "Validation"}


@pytest.fixture(scope="module")
def document() -> Document:
    return yaml.load(render_openapi(), yaml.CSafeLoader)


def operations(document: Document) -> Iterator[tuple[str, Document]]:
    for path, found in document["paths"].items():
        for method, operation in found.items():
            yield f"{method.upper()} {path}", operation


def test_it_is_valid(document: Document):
    assert document["openapi"].startswith("3.1")
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_every_operation_has_a_readable_name_of_its_own(document: Document):
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch(r"[a-z]+(_[a-z]+){0,4}", name)] == []


def test_every_operation_answer_and_parameter_is_described(document: Document):
    bare = [
        f"{what}: {place}"
        for what, operation in operations(document)
        for place, text in (
            ("summary", operation.get("summary")),
            ("description", operation.get("description")),
            *((f"answer {status}", answer.get("description")) for status, answer in operation["responses"].items()),
            *((parameter["name"], parameter.get("description")) for parameter in operation.get("parameters", ())),
        )
        if not text or text == "Successful Response"
    ]
    assert bare == []


def test_every_error_is_a_problem_document(document: Document):
    for what, operation in operations(document):
        errors = {status: answer for status, answer in operation["responses"].items() if int(status) >= 400}
        assert {"404", "422", "500", "503"} <= set(errors), what
        for status, answer in errors.items():
            schema = answer["content"]["application/problem+json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ProblemDetails"}, (what, status)


def test_every_body_in_json_has_an_example_that_fits(document: Document):
    schemas = {"ProblemDetails"}
    for _, operation in operations(document):
        bodies = [answer for status, answer in operation["responses"].items() if int(status) < 300]
        for body in (*bodies, operation.get("requestBody", {})):
            schema = body.get("content", {}).get("application/json", {}).get("schema", {})
            schemas.add(schema.get("$ref", "").rpartition("/")[2])
    for name in sorted(schemas - WITHOUT_EXAMPLE):
        examples = document["components"]["schemas"][name].get("examples", [])
        assert examples, f"{name} has no example"
        for example in examples:
            whole = Draft202012Validator({**document, "$ref": f"#/components/schemas/{name}"})
            assert [error.message for error in whole.iter_errors(example)] == [], name
