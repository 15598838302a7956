"""DCMTK's senders: echoscu, storescu and dcmsend."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from services.listener.negotiation import TRANSFER_SYNTAXES
from tests.conformance.kept import archived, entries
from tests.conformance.peers import assert_kept, dcmtk, sample, sample_file, tool
from tests.services.listener.listener_harness import Running, encode, make_dataset, wait_for

pytestmark = pytest.mark.peers

EXPLICIT = "1.2.840.10008.1.2.1"


@pytest.fixture
def listener(start_listener: Callable[..., Running]) -> Running:
    """A listener for each test: many of them send the same files."""
    return start_listener()


def write_study(folder: Path, count: int) -> list[Dataset]:
    """A study of `count` files in `folder`."""
    study, series = generate_uid(), generate_uid()
    datasets = []
    for number in range(count):
        ds = make_dataset(study=study, series=series, sop=generate_uid(), fill=number)
        ds.ensure_file_meta()
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.file_meta.TransferSyntaxUID = EXPLICIT
        ds.save_as(folder / f"{number:03}.dcm", enforce_file_format=True)
        datasets.append(ds)
    return datasets


def assert_study_kept(listener: Running, datasets: list[Dataset]) -> None:
    by_sop = entries(listener, datasets[0].StudyInstanceUID, len(datasets))
    assert set(by_sop) == {ds.SOPInstanceUID for ds in datasets}
    for ds in datasets:
        assert encode(ds) in listener.archive.get(by_sop[ds.SOPInstanceUID].archive_key)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-pts", "38", "-ppc", "128"],
        ["-pdu", "4096"],
        ["-pdu", "131072"],
        ["--repeat", "20"],
        ["--abort"],
        ["-aet", "SIXTEEN-LETTERS-"],
    ],
    ids=" ".join,
)
def test_echoscu_is_answered(listener: Running, options: list[str]) -> None:
    dcmtk("echoscu", listener, *options)


def test_echoscu_is_told_that_it_calls_nobody_here(listener: Running) -> None:
    assert "Called AE Title Not Recognized" in dcmtk("echoscu", listener, called="SOMEONE", ok=False)


def test_echoscu_is_told_that_its_title_is_not_let_in(start_listener: Callable[..., Running]) -> None:
    listener = start_listener(access={"calling_ae_titles": ("CT*",)})
    assert "Calling AE Title Not Recognized" in dcmtk("echoscu", listener, "-aet", "MR1", ok=False)
    dcmtk("echoscu", listener, "-aet", "CT1")


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "rtplan.dcm", "reportsi.dcm", "waveform_ecg.dcm"])
def test_storescu_stores_uncompressed_objects(listener: Running, name: str) -> None:
    dcmtk("storescu", listener, sample_file(name))
    assert_kept(listener, name)


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("-xw", "JPEG2000.dcm"),
        ("-xv", "MR_small_jp2klossless.dcm"),
        ("-xt", "MR_small_jpeg_ls_lossless.dcm"),
        ("-xy", "SC_rgb_jpeg_dcmtk.dcm"),
        ("-xx", "JPGExtended.dcm"),
        ("-xr", "MR_small_RLE.dcm"),
        ("-xb", "MR_small_bigendian.dcm"),
        ("-xi", "MR_small_implicit.dcm"),
        ("-xd", "image_dfl.dcm"),
    ],
)
@pytest.mark.parametrize("how", [[], ["-R"], ["+C"]], ids=["all contexts", "required contexts", "combined"])
def test_storescu_stores_in_the_transfer_syntax_it_proposes(
    listener: Running, option: str, name: str, how: list[str]
) -> None:
    dcmtk("storescu", listener, option, *how, sample_file(name))
    ds = sample(name)
    entry = entries(listener, ds.StudyInstanceUID)[ds.SOPInstanceUID]
    if how == ["+C"]:
        # One context with all syntaxes: storescu brings the object into its own first choice, which is accepted.
        assert entry.transfer_syntax_uid in TRANSFER_SYNTAXES
    else:
        assert entry.transfer_syntax_uid == ds.file_meta.TransferSyntaxUID
    if entry.transfer_syntax_uid == ds.file_meta.TransferSyntaxUID:
        assert_kept(listener, name)
    else:
        assert archived(listener, ds).SOPInstanceUID == ds.SOPInstanceUID


@pytest.mark.parametrize("max_pdu_bytes", [4096, 16_384, 131_072, 0])
def test_storescu_keeps_to_the_pdu_length_it_is_told(
    start_listener: Callable[..., Running], max_pdu_bytes: int
) -> None:
    listener = start_listener(max_pdu_bytes=max_pdu_bytes)
    dcmtk("storescu", listener, sample_file("CT_small.dcm"))
    assert_kept(listener, "CT_small.dcm")


def test_storescu_with_small_pdus_and_a_user_identity(listener: Running) -> None:
    dcmtk(
        "storescu",
        listener,
        "-pdu",
        "4096",
        "--max-send-pdu",
        "4096",
        "-usr",
        "u",
        "-pwd",
        "p",
        sample_file("CT_small.dcm"),
    )
    assert_kept(listener, "CT_small.dcm")


def test_storescu_that_insists_on_an_answer_to_its_identity_goes_away(listener: Running) -> None:
    """PS3.7 section D.3.3.7: no answer is given; storescu takes that for a refusal, and releases."""
    output = dcmtk("storescu", listener, "-usr", "u", "-pwd", "p", "-rsp", sample_file("CT_small.dcm"), ok=False)
    assert "User Identity Negotiation" in output
    dcmtk("storescu", listener, sample_file("CT_small.dcm"))


def test_storescu_repeats_an_object(listener: Running) -> None:
    dcmtk("storescu", listener, "--repeat", "5", sample_file("CT_small.dcm"))
    assert_kept(listener, "CT_small.dcm")
    [(_, event)] = listener.publisher.events
    assert (event.revision, event.instance_count) == (1, 1)


def test_storescu_invents_instances(listener: Running) -> None:
    """Each repeat is another object, over an association of its own."""
    dcmtk("storescu", listener, "--repeat", "10", "+II", "+IR", "4", sample_file("CT_small.dcm"))

    def kept() -> int:
        newest = {event.study_instance_uid: event.instance_count for _, event in list(listener.publisher.events)}
        return sum(newest.values())

    wait_for(lambda: kept() == 10)


def test_storescu_that_aborts_leaves_its_study_complete(listener: Running) -> None:
    dcmtk("storescu", listener, "--abort", sample_file("CT_small.dcm"))
    assert_kept(listener, "CT_small.dcm")


@pytest.mark.parametrize("options", [[], ["+C"]])
def test_storescu_is_told_why_an_object_is_refused(start_listener: Callable[..., Running], options: list[str]) -> None:
    listener = start_listener(max_object_bytes=1000)
    output = dcmtk("storescu", listener, *options, sample_file("CT_small.dcm"), ok=False)
    assert "OutOfResources" in output


def test_storescu_goes_on_after_a_refusal(start_listener: Callable[..., Running]) -> None:
    listener = start_listener(max_object_bytes=20_000)
    dcmtk("storescu", listener, "-nh", sample_file("CT_small.dcm"), sample_file("MR_small.dcm"))
    assert_kept(listener, "MR_small.dcm")


def test_storescus_at_the_same_time_store_all_their_objects(listener: Running, tmp_path: Path) -> None:
    datasets = write_study(tmp_path, 40)
    files = sorted(tmp_path.glob("*.dcm"))
    command = [tool("storescu"), "-aec", "SIMILIS", listener.host, str(listener.port)]
    under_way = [subprocess.Popen([*command, *map(str, files[start::4])]) for start in range(4)]
    assert [one.wait(60) for one in under_way] == [0, 0, 0, 0]
    assert_study_kept(listener, datasets)


@pytest.mark.parametrize("options", [[], ["-pdu", "4096", "--max-send-pdu", "4096"]], ids=["as is", "small PDUs"])
def test_dcmsend_stores_a_study(listener: Running, tmp_path: Path, options: list[str]) -> None:
    datasets = write_study(tmp_path, 12)
    dcmtk("dcmsend", listener, *options, *sorted(tmp_path.glob("*.dcm")))
    assert_study_kept(listener, datasets)


MIXED = (
    "CT_small.dcm",
    "MR_small_RLE.dcm",
    "JPEG2000.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "JPGExtended.dcm",
    "image_dfl.dcm",
    "rtplan.dcm",
)


@pytest.mark.parametrize("option", ["-dn", "+dls", "+ma", "-ma"])
def test_dcmsend_stores_many_kinds_of_objects_as_they_are(listener: Running, option: str) -> None:
    """It decompresses what is not accepted; as all is accepted, nothing is."""
    dcmtk("dcmsend", listener, option, *map(sample_file, MIXED))
    for name in MIXED:
        assert_kept(listener, name)
        ds = sample(name)
        if ds.file_meta.TransferSyntaxUID.is_compressed:
            assert archived(listener, ds).file_meta.TransferSyntaxUID == ds.file_meta.TransferSyntaxUID


def test_dcmsend_stores_what_it_decompresses(listener: Running) -> None:
    """Of one SOP class in two JPEG syntaxes, +dly brings the objects in one of them into Explicit VR."""
    names = ("SC_rgb_jpeg_dcmtk.dcm", "JPGExtended.dcm")
    dcmtk("dcmsend", listener, "+dly", *map(sample_file, names))
    kept = {name: archived(listener, sample(name)) for name in names}
    own = {name: sample(name).file_meta.TransferSyntaxUID for name in names}
    decompressed = [name for name in names if kept[name].file_meta.TransferSyntaxUID != own[name]]
    assert [kept[name].file_meta.TransferSyntaxUID for name in decompressed] == [EXPLICIT]


def test_dcmsend_reports_each_object_and_a_conflict(listener: Running, tmp_path: Path) -> None:
    files = [sample_file(name) for name in (*MIXED, "MR_small.dcm")]  # the one that is RLE, too, by its UID
    report = tmp_path / "report.txt"
    dcmtk("dcmsend", listener, "+crf", str(report), *files)
    statuses = re.findall(r"DIMSE Status *: 0x([0-9a-f]{4})", report.read_text())
    assert sorted(statuses) == ["0000"] * len(MIXED) + ["0111"]


def test_storescu_sends_a_data_set_without_file_meta(listener: Running, tmp_path: Path) -> None:
    [ds] = write_study(tmp_path, 1)
    (tmp_path / "bare").write_bytes(encode(ds))
    dcmtk("storescu", listener, "-f", tmp_path / "bare")
    assert_study_kept(listener, [ds])
