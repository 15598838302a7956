"""What FastAPI leaves out of the OpenAPI document: nulls in examples, and what an answer is."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final

from services.query import explanation_schema, label_schema, requests, schema, search_schema

_MODULES: Final[tuple[ModuleType, ...]] = (schema, search_schema, label_schema, explanation_schema, requests)


def complete_examples(document: dict[str, Any]) -> None:
    """Give each schema its model's examples as they are: FastAPI drops every null, and then they no longer fit."""
    for name, described in document["components"]["schemas"].items():
        for module in _MODULES:
            extra = getattr(getattr(module, name, None), "model_config", {}).get("json_schema_extra")
            if isinstance(extra, dict) and "examples" in extra:
                described["examples"] = extra["examples"]


def describe_answers(document: dict[str, Any]) -> None:
    """Describe a successful answer by its schema's own words."""
    schemas = document["components"]["schemas"]
    for operations in document["paths"].values():
        for operation in operations.values():
            for answer in operation["responses"].values():
                if answer["description"] == "Successful Response":
                    of_json = answer.get("content", {}).get("application/json", {}).get("schema", {})
                    name = of_json.get("$ref", "").rpartition("/")[2]
                    answer["description"] = schemas[name]["description"] if name else "Done; there is nothing to tell."
