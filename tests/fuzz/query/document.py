"""What can be asked, by the OpenAPI document, and how much of it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import yaml
from hypothesis import HealthCheck, Phase, settings

from tests.fuzz.query.running import REPOSITORY, Service

PATH: Final = REPOSITORY / "schemas" / "openapi.yaml"


@dataclass(frozen=True, slots=True)
class Api:
    """What the OpenAPI document says can be asked."""

    document: dict[str, Any]

    @classmethod
    def read(cls) -> Api:
        """From the kept document, which a test holds true."""
        return cls(yaml.load(PATH.read_text(), yaml.CSafeLoader))

    @property
    def paths(self) -> list[str]:
        """All, with their parameters in braces."""
        return list(self.document["paths"])

    @property
    def queries(self) -> list[str]:
        """Names of all query parameters."""
        names = {
            parameter["name"]
            for operations in self.document["paths"].values()
            for operation in operations.values()
            for parameter in operation.get("parameters", ())
            if parameter["in"] == "query"
        }
        return sorted(names)

    @property
    def examples(self) -> list[object]:
        """Bodies that are right."""
        found: list[object] = []
        for schema in self.document["components"]["schemas"].values():
            if "additionalProperties" in schema:
                found += schema.get("examples", [])
        return found

    def json_routes(self, service: Service) -> list[tuple[str, str]]:
        """Method and target of every route that takes JSON, with known values in its path."""
        return [
            (method.upper(), path.format(**{name: values[0] for name, values in service.known.items()}))
            for path, operations in self.document["paths"].items()
            for method, operation in operations.items()
            if "application/json" in operation.get("requestBody", {}).get("content", {})
        ]


def setting_of(cases: int) -> Callable[[Any], Any]:
    """So many cases, the same each time."""
    ignored = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=ignored,
    )
