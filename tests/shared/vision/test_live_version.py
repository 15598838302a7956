"""Which version of a task is live."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.vision.live_version import LiveVersion, live_folder, read_live

VERSION = "0123456789ab-01234567"


def test_without_a_live_file_the_task_is_as_installed(tmp_path: Path):
    assert read_live(tmp_path) == LiveVersion()
    assert live_folder(tmp_path) == tmp_path


def test_a_live_file_names_a_version_folder(tmp_path: Path):
    (tmp_path / "versions" / VERSION).mkdir(parents=True)
    (tmp_path / "live.json").write_text(json.dumps({"version": VERSION, "a later field": 1}))
    assert live_folder(tmp_path) == tmp_path / "versions" / VERSION
    (tmp_path / "live.json").write_text(json.dumps({"version": None}))
    assert live_folder(tmp_path) == tmp_path


@pytest.mark.parametrize("version", ["..", "../../x", "", "0123456789ab", "0123456789AB-01234567", 3, [VERSION]])
def test_no_name_leads_out_of_the_versions(tmp_path: Path, version):
    (tmp_path / "live.json").write_text(json.dumps({"version": version}))
    with pytest.raises(ConfigurationError, match="does not say which version is live"):
        live_folder(tmp_path)


def test_a_version_that_is_not_there_is_an_error(tmp_path: Path):
    (tmp_path / "live.json").write_text(json.dumps({"version": VERSION}))
    with pytest.raises(ConfigurationError, match="is not there"):
        live_folder(tmp_path)
