from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from services.query.app import check_openapi, export_openapi

KEPT = Path(__file__).resolve().parents[3] / "schemas" / "openapi.yaml"


def test_the_kept_document_describes_the_api():
    assert check_openapi(KEPT) == []


def test_drift_and_absence_are_told(tmp_path: Path):
    path = tmp_path / "openapi.yaml"
    assert "missing" in check_openapi(path)[0]
    export_openapi(path)
    assert check_openapi(path) == []
    path.write_text(path.read_text().replace("/v1/search", "/v2/search"))
    assert "export it again" in check_openapi(path)[0]


def test_the_document_needs_no_model():
    code = (
        "import sys; from services.query.openapi import render_openapi; render_openapi(); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False, timeout=120).returncode == 0
