"""C-ECHO and C-STORE over real loopback associations."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from listener_harness import (
    MR,
    Running,
    Sample,
    associate,
    association_request,
    encode,
    item,
    make_dataset,
    make_sample,
    rejection,
    wait_for,
)
from prometheus_client import REGISTRY
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from services.listener import journal as journal_module

JPEG_LS = "1.2.840.10008.1.2.4.80"
VERIFICATION = "1.2.840.10008.1.1"


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_an_echo_is_answered(listener: Running) -> None:
    assoc = associate(listener.host, listener.port, (VERIFICATION, ImplicitVRLittleEndian))
    assert assoc.send_c_echo().Status == 0x0000
    assoc.release()


def test_an_object_is_kept_byte_for_byte_and_announced(listener: Running) -> None:
    sample = make_sample()
    with listener.send(calling="SCANNER1") as sender:
        assert sender.store(sample).Status == 0x0000
    manifest = listener.manifest(sample.study)
    ((series, entry),) = manifest.instances()
    file = listener.archive.get(entry.archive_key)
    assert file.endswith(sample.dataset)
    assert entry.sha256 == hashlib.sha256(file).hexdigest()
    assert entry.size_bytes == len(file)
    assert (series.modality, series.body_part, entry.sex, entry.age_band) == ("MR", "BRAIN", "F", "60-69")
    assert (entry.number_of_frames, entry.is_new, manifest.calling_ae_titles) == (1, True, ("SCANNER1",))
    ds = dcmread(listener.archive.root / entry.archive_key)
    assert ds.file_meta.MediaStorageSOPInstanceUID == sample.sop
    assert ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert ds.file_meta.MediaStorageSOPClassUID == MR
    ((topic, event),) = listener.publisher.events
    assert topic == "similis.study.received.v1"
    assert (event.instance_count, event.new_instance_count, event.frame_count) == (1, 1, 1)
    wait_for(lambda: not listener.journal_files)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_uncompressed_transfer_syntaxes_are_kept_as_sent(listener: Running, syntax: str) -> None:
    study, series, sop = generate_uid(), generate_uid(), generate_uid()
    sample = Sample(
        encode(make_dataset(study=study, series=series, sop=sop), syntax), study, series, sop, transfer_syntax=syntax
    )
    with listener.send((MR, syntax)) as sender:
        assert sender.store(sample).Status == 0x0000
    ((_, entry),) = listener.manifest(study).instances()
    assert entry.transfer_syntax_uid == syntax
    assert listener.archive.get(entry.archive_key).endswith(sample.dataset)


@pytest.mark.parametrize(
    "name",
    ["JPEG2000.dcm", "MR_small_RLE.dcm", "image_dfl.dcm", "SC_rgb_jpeg_dcmtk.dcm", "rtplan.dcm", "reportsi.dcm"],
)
def test_real_files_in_many_encodings_are_kept_as_sent(listener: Running, name: str) -> None:
    path = get_testdata_file(name, download=False)
    ds = dcmread(path)
    raw = Path(path).read_bytes()
    dataset = raw[144 + struct.unpack_from("<I", raw, 140)[0] :]
    syntax = ds.file_meta.TransferSyntaxUID
    sample = Sample(dataset, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID, ds.SOPClassUID, syntax)
    with listener.send((ds.SOPClassUID, syntax)) as sender:
        assert sender.store(sample).Status == 0x0000
    ((_, entry),) = listener.manifest(sample.study).instances()
    assert listener.archive.get(entry.archive_key).endswith(dataset)
    assert entry.number_of_frames == (int(ds.get("NumberOfFrames") or 1) if "PixelData" in ds else 0)


@pytest.mark.parametrize("sop_class", ["1.2.826.0.1.3680043.9.9999.1", "1.2.840.10008.5.1.4.1.1.99.99"])
def test_private_and_unknown_storage_classes_are_stored(listener: Running, sop_class: str) -> None:
    study, series, sop = generate_uid(), generate_uid(), generate_uid()
    ds = make_dataset(study=study, series=series, sop=sop)
    ds.SOPClassUID = sop_class
    with listener.send((sop_class, ImplicitVRLittleEndian)) as sender:
        sample = Sample(encode(ds, ImplicitVRLittleEndian), study, series, sop, sop_class, ImplicitVRLittleEndian)
        assert sender.store(sample).Status == 0x0000
    ((_, entry),) = listener.manifest(study).instances()
    assert entry.sop_class_uid == sop_class


def test_unknown_transfer_syntaxes_and_other_services_are_not_accepted(listener: Running) -> None:
    before = metric("similis_listener_presentation_contexts_rejected_total", reason="abstract-syntax")
    assoc = associate(
        listener.host,
        listener.port,
        (MR, "1.2.826.0.1.3680043.9.9999.2"),
        ("1.2.840.10008.5.1.4.1.1.2", ["1.2.826.0.1.3680043.9.9999.2", JPEG_LS, ExplicitVRLittleEndian]),
        ("1.2.840.10008.5.1.4.1.2.2.1", ImplicitVRLittleEndian),  # Study Root Query/Retrieve: FIND
    )
    assert [(cx.abstract_syntax, cx.transfer_syntax) for cx in assoc.accepted_contexts] == [
        ("1.2.840.10008.5.1.4.1.1.2", [JPEG_LS])
    ]
    assoc.release()
    after = metric("similis_listener_presentation_contexts_rejected_total", reason="abstract-syntax")
    assert after == before + 2


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_an_object_of_another_class_or_instance_than_requested_is_refused(listener: Running) -> None:
    sample = make_sample()
    with listener.send() as sender:
        for wrong in ({"sop": "1.2.3"}, {"sop": "../../../tmp/x"}, {"sop_class": "1.2.840.10008.5.1.4.1.1.2"}):
            status = sender.store(sample, **wrong)
            assert status.Status == 0xA900
            assert "differs" in status.ErrorComment
        assert sender.store(sample).Status == 0x0000
    assert len(list(listener.manifest(sample.study).instances())) == 1


@pytest.mark.parametrize("uid", ["../../../etc", "1.2.3/..", "1..2", "", "a.b"])
@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_uids_that_could_leave_the_folder_are_refused(listener: Running, uid: str, keyword: str) -> None:
    sop = generate_uid()
    ds = make_dataset(study=generate_uid(), series=generate_uid(), sop=sop)
    ds[keyword].value = uid
    with listener.send() as sender:
        assert sender.store(Sample(encode(ds), "", "", sop)).Status == 0xC000
    assert listener.journal_files == []


def test_truncated_and_garbage_data_sets_are_refused_and_the_association_goes_on(listener: Running) -> None:
    sample = make_sample()
    with listener.send() as sender:
        for cut in (1, 64, 127, 199, len(sample.dataset) - 10):
            status = sender.store(sample, dataset=sample.dataset[:-cut])
            assert status.Status == 0xC000, cut
            assert len(status.ErrorComment) <= 64
        assert sender.store(sample, dataset=os.urandom(5000)).Status == 0xC000
        assert listener.journal_files == []
        assert sender.store(sample).Status == 0x0000


def test_an_object_over_the_limit_is_refused_and_the_association_goes_on(
    start_listener: Callable[..., Running],
) -> None:
    listener = start_listener(max_object_bytes=2000)
    sample = make_sample()
    large = Sample(sample.dataset + bytes(3_000_000), sample.study, sample.series, sample.sop)
    with listener.send() as sender:
        assert sender.store(large).Status == 0xA700
        assert sender.store(sample).Status == 0x0000


def test_a_full_disk_is_answered_and_the_association_goes_on(
    listener: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = make_sample()
    with listener.send() as sender:
        with monkeypatch.context() as patched:

            def full(descriptor: int) -> None:
                raise OSError(28, "No space left on device")

            patched.setattr(journal_module.os, "fsync", full)
            status = sender.store(sample)
        assert status.Status == 0xA700
        assert listener.journal_files == []
        assert sender.store(sample).Status == 0x0000
    assert len(list(listener.manifest(sample.study).instances())) == 1


def test_the_disk_watermark_refuses_objects(start_listener: Callable[..., Running], tmp_path: Path) -> None:
    listener = start_listener(min_free_disk_bytes=shutil.disk_usage(tmp_path).total)
    with listener.send() as sender:
        assert sender.store(make_sample()).Status == 0xA700


def test_a_repeat_succeeds_and_a_different_object_with_its_uid_is_refused(
    start_listener: Callable[..., Running],
) -> None:
    listener = start_listener()
    sample = make_sample()
    other = make_sample(study=sample.study, series=sample.series, sop=sample.sop, fill=9)
    elsewhere = make_sample(sop=sample.sop)
    conflicts = metric("similis_listener_conflicting_objects_total")

    def repeat(running: Running) -> None:
        with running.send() as sender:
            assert sender.store(sample).Status == 0x0000
            assert sender.store(other).Status == 0x0111
            assert sender.store(elsewhere).Status == 0x0111

    repeat(listener)  # while the study is open
    listener.manifest(sample.study)
    wait_for(lambda: not listener.journal_files)
    repeat(listener)  # after it was published
    listener.stop()
    again = start_listener()
    repeat(again)  # after a restart
    again.stop()
    assert metric("similis_listener_conflicting_objects_total") == conflicts + 6
    assert len(listener.publisher.events) + len(again.publisher.events) == 1
    key = f"instances/{sample.study}/{sample.series}/{sample.sop}.dcm"
    assert list(listener.archive.list("instances")) == [key]
    assert listener.archive.get(key).endswith(sample.dataset)


def test_repeats_and_conflicts_are_known_after_a_restart_before_the_study_is_published(
    start_listener: Callable[..., Running],
) -> None:
    sample = make_sample()
    first = start_listener(study_quiet_s=60)
    with first.send() as sender:
        assert sender.store(sample).Status == 0x0000
    first.stop()
    again = start_listener()
    with again.send() as sender:
        assert sender.store(sample).Status == 0x0000
        assert sender.store(make_sample(study=sample.study, sop=sample.sop, fill=3)).Status == 0x0111
        assert again.publisher.events == []
    manifest = again.manifest(sample.study)
    assert manifest.calling_ae_titles == ("TESTSCU",)
    assert len(list(manifest.instances())) == 1


def test_associations_beyond_the_limit_are_rejected(start_listener: Callable[..., Running]) -> None:
    listener = start_listener(max_associations=2)
    with listener.send() as one, listener.send():
        assert rejection(listener.host, listener.port) == (2, 3, 2)
        assert one.store(make_sample()).Status == 0x0000


@pytest.mark.parametrize(
    "start",
    [
        b"\x01\x00\x00",  # half a PDU header
        b"\x01\x00\x00\x00\x10\x00" + b"\x00" * 100,  # a header and a part of its PDU
        b"\x04\x00\xff\xff\xff\xff" + b"\x00" * 1000,  # a PDU of 4 GiB
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_a_peer_that_stalls_or_sends_nonsense_is_cut_off(start_listener: Callable[..., Running], start: bytes) -> None:
    listener = start_listener(pdu_timeout_s=0.3, acse_timeout_s=0.5)
    with socket.create_connection((listener.host, listener.port), timeout=10) as peer:
        peer.sendall(start)
        while True:
            try:
                if not peer.recv(4096):
                    break
            except ConnectionResetError:
                break
    wait_for(lambda: metric("similis_listener_associations_open") == 0)
    with listener.send() as sender:
        assert sender.store(make_sample()).Status == 0x0000


@pytest.mark.parametrize(
    "context",
    [
        item(0x20, b"\x01\0\0\0" + item(0x30, MR.encode())),
        item(0x20, b"\x02\0\0\0" + item(0x30, MR.encode()) + item(0x40, ExplicitVRLittleEndian.encode())),
        item(0x20, b"\0\0\0\0" + item(0x30, MR.encode()) + item(0x40, ExplicitVRLittleEndian.encode())),
        item(0x20, b"\x01\0\0\0" + item(0x40, ExplicitVRLittleEndian.encode())),
        b"",
    ],
    ids=["no transfer syntax", "even id", "id 0", "no abstract syntax", "no context"],
)
def test_malformed_association_requests_leave_nothing_behind(
    start_listener: Callable[..., Running], context: bytes
) -> None:
    listener = start_listener(network_timeout_s=0.5, acse_timeout_s=0.5)
    with socket.create_connection((listener.host, listener.port), timeout=10) as peer:
        peer.sendall(association_request(context))
        try:
            while peer.recv(4096):
                pass
        except ConnectionResetError:
            pass
    wait_for(lambda: metric("similis_listener_associations_open") == 0)
    with listener.send() as sender:
        assert sender.store(make_sample()).Status == 0x0000


def test_an_idle_association_is_aborted_and_its_study_closed(start_listener: Callable[..., Running]) -> None:
    listener = start_listener(network_timeout_s=0.5)
    sample = make_sample()
    sender = listener.send()
    assert sender.store(sample).Status == 0x0000
    listener.manifest(sample.study)
    wait_for(lambda: not sender.assoc.is_established)


def test_no_identity_leaves_the_object(listener: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    sample = make_sample(patient_id="SECRET-4711")
    with listener.send() as sender:
        assert sender.store(sample).Status == 0x0000
        sender.store(make_sample(study=sample.study, sop=sample.sop, patient_id="SECRET-4711", fill=1))
        sender.store(sample, dataset=sample.dataset[:-3])
    manifest = listener.manifest(sample.study)
    logged = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("pynetdicom"))
    paths = "\n".join(map(str, listener.archive.root.parent.rglob("*")))
    for text in (logged, paths, manifest.model_dump_json(), str(listener.publisher.events)):
        assert "SECRET" not in text
        assert "Phantom^" not in text
