"""The API's description as a file, and the check that the file is still true."""

from __future__ import annotations

from pathlib import Path

import yaml

from services.query.http import build_app
from services.query.settings import QuerySection
from shared.health import Health


def render_openapi() -> str:
    """The OpenAPI 3.1 document as YAML. Connects to nothing and loads no model."""
    document = build_app(QuerySection(), Health()).openapi()
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)


def export_openapi(path: Path) -> None:
    """Write the document to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_openapi(), encoding="utf-8")


def check_openapi(path: Path) -> list[str]:
    """What is wrong with the document at `path`, in plain words; empty if it is up to date."""
    try:
        kept = path.read_text(encoding="utf-8")
    except OSError:
        return [f"{path} is missing: export it"]
    return [] if kept == render_openapi() else [f"{path} does not describe the API as it is now: export it again"]
