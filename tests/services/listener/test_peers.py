"""Senders that are not pynetdicom: DCMTK."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from listener_harness import Running, encode, make_dataset
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

pytestmark = pytest.mark.peers

# pynetdicom installs applications of the same names into the environment's bin folder.
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/opt/homebrew/bin"


def tool(name: str) -> str:
    found = shutil.which(name, path=SYSTEM_PATH)
    if found is None:
        if os.environ.get("SIMILIS_REQUIRE_PEERS") == "1":
            pytest.fail(f"DCMTK's {name} is not installed, and SIMILIS_REQUIRE_PEERS=1")
        pytest.skip(f"DCMTK's {name} is not installed")
    return found


def call(name: str, listener: Running, *arguments: str | Path, ok: bool = True) -> str:
    options = [one for one in arguments if isinstance(one, str)]
    files = [str(one) for one in arguments if isinstance(one, Path)]
    command = [tool(name), "-v", "-aec", "SIMILIS", *options, listener.host, str(listener.port), *files]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "TCP_NODELAY": "1"},
    )
    output = done.stdout + done.stderr
    assert (done.returncode == 0) == ok, output
    return output


def sample_file(name: str) -> Path:
    return Path(get_testdata_file(name, download=False))


def assert_kept(listener: Running, ds: Dataset) -> None:
    manifest = listener.manifest(ds.StudyInstanceUID)
    (entry,) = [entry for _, entry in manifest.instances() if entry.sop_instance_uid == ds.SOPInstanceUID]
    kept = dcmread(listener.archive.root / entry.archive_key)
    assert kept.SOPInstanceUID == ds.SOPInstanceUID
    assert kept.get("PixelData") == ds.get("PixelData")


def test_echoscu_is_answered_with_many_contexts(listener: Running) -> None:
    call("echoscu", listener)
    call("echoscu", listener, "-pts", "38", "-ppc", "128")


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "rtplan.dcm", "reportsi.dcm"])
def test_storescu_stores_uncompressed_objects(listener: Running, name: str) -> None:
    call("storescu", listener, sample_file(name))
    assert_kept(listener, dcmread(sample_file(name)))


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("-xw", "JPEG2000.dcm"),
        ("-xr", "MR_small_RLE.dcm"),
        ("-xb", "MR_small_bigendian.dcm"),
        ("-xi", "MR_small_implicit.dcm"),
        ("-xd", "image_dfl.dcm"),
    ],
)
def test_storescu_stores_in_the_transfer_syntax_it_proposes(listener: Running, option: str, name: str) -> None:
    call("storescu", listener, option, sample_file(name))
    ds = dcmread(sample_file(name))
    ((_, entry),) = listener.manifest(ds.StudyInstanceUID).instances()
    assert entry.transfer_syntax_uid == ds.file_meta.TransferSyntaxUID
    assert_kept(listener, ds)


def test_storescu_with_small_pdus_and_a_user_identity(listener: Running) -> None:
    call("storescu", listener, "-pdu", "4096", "--max-send-pdu", "4096", "-usr", "u", sample_file("CT_small.dcm"))
    assert_kept(listener, dcmread(sample_file("CT_small.dcm")))


def test_storescu_that_aborts_leaves_its_study_complete(listener: Running) -> None:
    call("storescu", listener, "--abort", sample_file("CT_small.dcm"))
    assert_kept(listener, dcmread(sample_file("CT_small.dcm")))


def test_storescu_is_told_why_an_object_is_refused(start_listener: Callable[..., Running]) -> None:
    listener = start_listener(max_object_bytes=1000)
    output = call("storescu", listener, "+C", sample_file("CT_small.dcm"), ok=False)
    assert "OutOfResources" in output


def test_dcmsend_stores_a_study(listener: Running, tmp_path: Path) -> None:
    study, series = generate_uid(), generate_uid()
    for number in range(12):
        ds = make_dataset(study=study, series=series, sop=generate_uid(), fill=number)
        ds.ensure_file_meta()
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        ds.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    call("dcmsend", listener, *sorted(tmp_path.glob("*.dcm")))
    entries = [entry for _, entry in listener.manifest(study).instances()]
    assert len(entries) == 12
    for path in tmp_path.glob("*.dcm"):
        ds = dcmread(path)
        (entry,) = [entry for entry in entries if entry.sop_instance_uid == ds.SOPInstanceUID]
        assert encode(ds) in listener.archive.get(entry.archive_key)
