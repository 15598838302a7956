"""Every operation of the OpenAPI document, with values that fit it and values that do not, asked of a real service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis.core
import pytest
import requests
import schemathesis
from hypothesis import given, seed
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.fuzz.query.answers import Answer, FindingError
from tests.fuzz.query.document import Api, setting_of
from tests.fuzz.query.running import Service
from tests.fuzz.scale import SEED, share_of_query

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
OPERATIONS = [(path, method) for path, operations in Api.read().document["paths"].items() for method in operations]
CASES = max(2, share_of_query(0.4) // len(OPERATIONS))


@pytest.fixture(scope="module", autouse=True)
def failures_of_other_tests_are_printed() -> Iterator[None]:
    """Schemathesis silences Hypothesis' printer for the whole process; afterwards it is as it was."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hypothesis.core, "RepresentationPrinter", hypothesis.core.RepresentationPrinter)
        yield


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as opened:
        yield opened


@pytest.fixture(scope="module")
def schema(only_service: Service) -> Any:
    document = requests.get(f"{only_service.url}/openapi.json", timeout=10).json()
    return schemathesis.openapi.from_dict(document, config=schemathesis.Config())


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_an_operation_answers_as_documented(
    service: Service, session: requests.Session, schema: Any, path: str, method: str
):
    operation = schema[path][method]
    takes = bool(operation.body) or bool(operation.path_parameters) or bool(operation.query)
    fits = operation.as_strategy(GenerationMode.POSITIVE)
    cases = st.one_of(fits, operation.as_strategy(GenerationMode.NEGATIVE)) if takes else fits

    @seed(SEED)
    @setting_of(CASES)
    @given(st.data())
    def ask(data: st.DataObject) -> None:
        case = data.draw(cases)
        _use_known(case, service, data)
        _ask(case, service, session)

    ask()


def _use_known(case: Case, service: Service, data: st.DataObject) -> None:
    """Put what the service knows in place of some values: a random UID is one that it never heard of."""

    def put(place: object) -> None:
        if isinstance(place, dict):
            for name in place:
                if name in service.known and data.draw(st.integers(0, 3)):
                    place[name] = data.draw(st.sampled_from(service.known[name]))
                else:
                    put(place[name])
        elif isinstance(place, list):
            for item in place:
                put(item)

    for container in (case.path_parameters, case.query, case.body):
        put(container)


def _ask(case: Case, service: Service, session: requests.Session) -> None:
    response = case.call(base_url=service.url, session=session, timeout=20)
    sent = response.request
    told = f"{sent.method} {sent.url} {sent.headers} {(sent.body or b'')[:1500]!r}"
    headers = tuple((name.lower(), value) for name, values in response.headers.items() for value in values)
    service.check(Answer(response.status_code, headers, response.content, str(sent.method)), told)
    try:
        # Of a stream of events the document describes the whole, and Schemathesis looks at each.
        is_stream = "text/event-stream" in response.headers.get("content-type", [""])[0]
        case.validate_response(response, checks=CHECKS[:-1] if is_stream else CHECKS)
    except FailureGroup as found:
        raise FindingError(str(found)) from None
