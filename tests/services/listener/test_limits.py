"""What a sender may not do, over real loopback associations, and what the audit log says of it."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from listener_harness import (
    MR,
    Running,
    Sample,
    associate,
    encode,
    make_dataset,
    make_sample,
    rejection,
    wait_for,
)
from prometheus_client import REGISTRY
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT = "1.2.840.10008.5.1.4.1.1.2"


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_peer_cannot_take_all_associations(start_listener: Callable[..., Running]) -> None:
    listener = start_listener(max_associations_per_peer=2)
    with listener.send(), listener.send() as second:
        assert rejection(listener.host, listener.port) == (2, 3, 1)  # temporary congestion
        assert second.store(make_sample()).Status == 0x0000
    wait_for(lambda: metric("similis_listener_associations_open") == 0)
    with listener.send() as again:
        assert again.store(make_sample()).Status == 0x0000


@pytest.mark.parametrize(
    ("access", "diagnostic"),
    [
        ({"called_ae_titles": ["OTHER"]}, 7),
        ({"calling_ae_titles": ["CT*"]}, 3),
        ({"calling_ae_titles": ["TESTSCU@192.0.2.0/24"]}, 3),
    ],
)
def test_who_is_not_on_the_lists_is_rejected_with_the_reason(
    start_listener: Callable[..., Running], access: dict[str, object], diagnostic: int, tmp_path: Path
) -> None:
    audit = tmp_path / "audit.jsonl"
    listener = start_listener(access=access, audit={"file": audit})
    assert rejection(listener.host, listener.port) == (1, 1, diagnostic)
    listener.stop()
    assert any(record["EventIdentification"]["EventID"]["csd-code"] == "110113" for record in records(audit))


def test_a_peer_that_is_not_on_the_list_is_closed_before_it_is_read(start_listener: Callable[..., Running]) -> None:
    listener = start_listener(access={"peers": ["192.0.2.0/24"]})
    with (
        socket.create_connection((listener.host, listener.port), timeout=5) as peer,
        contextlib.suppress(ConnectionResetError),
    ):
        assert peer.recv(100) == b""
    assert metric("similis_listener_associations_total", outcome="refused") >= 1


def test_only_the_sop_classes_of_the_setting_are_negotiated(start_listener: Callable[..., Running]) -> None:
    listener = start_listener(sop_classes=["1.2.840.10008.5.1.4.1.1.4*"])
    assoc = associate(listener.host, listener.port, (MR, ExplicitVRLittleEndian), (CT, ExplicitVRLittleEndian))
    assert [context.abstract_syntax for context in assoc.accepted_contexts] == [MR]
    assert [context.result for context in assoc.rejected_contexts] == [3]
    assoc.release()


def test_an_association_that_sends_too_many_objects_is_aborted(start_listener: Callable[..., Running]) -> None:
    listener = start_listener(max_objects_per_association=2)
    samples = [make_sample(study="1.2.9") for _ in range(3)]
    with listener.send() as sender:
        connection = sender.assoc.dul.socket.socket
        assert [sender.store(sample).Status for sample in samples[:2]] == [0, 0]
        with pytest.raises(AssertionError, match="lost"):
            sender.store(samples[2])
        connection.close()
    assert len(list(listener.manifest("1.2.9").instances())) == 2


def test_a_conflict_that_is_kept_aside_is_durable_and_changes_nothing(start_listener: Callable[..., Running]) -> None:
    listener = start_listener(conflicts="keep-aside")
    sample = make_sample()
    other = make_sample(study=sample.study, series=sample.series, sop=sample.sop, fill=9)
    elsewhere = make_sample(sop=sample.sop, fill=7)
    before = metric("similis_listener_conflicting_objects_total")
    with listener.send() as sender:
        for each in (sample, other, elsewhere):
            assert sender.store(each).Status == 0x0000
    ((_, entry),) = listener.manifest(sample.study).instances()
    assert listener.archive.get(entry.archive_key).endswith(sample.dataset)
    aside = sorted((listener.settings.listener.journal_dir / "conflicting").rglob("*.dcm"))
    kept = {file.parent.name: file.read_bytes() for file in aside}
    assert len(aside) == len(kept) == 2
    assert kept[sample.study].endswith(other.dataset)
    assert kept[elsewhere.study].endswith(elsewhere.dataset)
    assert metric("similis_listener_conflicting_objects_total") == before + 2
    wait_for(lambda: not listener.journal_files)
    assert len(listener.publisher.events) == 1


def test_a_sender_slower_than_the_least_rate_is_cut_off_and_leaves_nothing(
    start_listener: Callable[..., Running],
) -> None:
    listener = start_listener(pdu_timeout_s=0.4, min_receive_bytes_per_s=1000)
    assoc = associate(listener.host, listener.port)
    connection = assoc.dul.socket.socket
    context = assoc.accepted_contexts[0].context_id
    # A P-DATA-TF PDU of one long fragment, of which a byte comes now and then: never silent for long.
    connection.sendall(struct.pack(">BxIIBB", 4, 60_006, 60_002, context, 1))
    began_s, cut = time.monotonic(), False
    while time.monotonic() - began_s < 10 and not cut:
        try:
            connection.sendall(b"\0")
        except OSError:
            cut = True
        time.sleep(0.05)
    assert cut
    assoc.kill()
    wait_for(lambda: metric("similis_listener_associations_open") == 0)
    assert not list((listener.settings.listener.journal_dir / "receiving").iterdir())


def test_the_audit_log_tells_what_each_association_brought(
    start_listener: Callable[..., Running], tmp_path: Path
) -> None:
    audit = tmp_path / "audit.jsonl"
    listener = start_listener(audit={"file": audit, "accepted": True})
    sample = make_sample(patient_id="SECRET-4711")
    with listener.send(calling="SCANNER1") as sender:
        sender.store(sample)
        sender.store(sample)
        sender.store(make_sample(study=sample.study, sop=sample.sop, patient_id="SECRET-4711", fill=1))
        sender.store(sample, dataset=sample.dataset[:-3])
    manifest = listener.manifest(sample.study)
    listener.stop()
    text = audit.read_text()
    codes = [record["EventIdentification"]["EventID"]["csd-code"] for record in records(audit)]
    assert codes[0] == codes[-2] == "110100" or codes[0] == "110100"
    assert "110104" in codes  # DICOM Instances Transferred
    assert "SCANNER1" in text
    assert sample.study in text
    assert manifest.patient_pseudonyms[0] in text
    assert "SECRET" not in text
    assert "Phantom^" not in text


def test_a_study_closes_by_the_times_of_its_sender(start_listener: Callable[..., Running], tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("studies:\n  - {calling_ae: 'FAST*', quiet_s: 0.1}\n")
    listener = start_listener(study_quiet_s=30, rules_file=rules)
    fast, slow = make_sample(), make_sample()
    with listener.send(calling="SLOW") as sender:
        sender.store(slow)
    with listener.send(calling="FAST1") as sender:
        sender.store(fast)
    listener.manifest(fast.study, timeout_s=5)
    assert [event.study_instance_uid for _, event in listener.publisher.events] == [fast.study]


def drip(connection: socket.socket, data: bytes, *, for_s: float) -> bool:
    """Send a byte now and then, never silent for long; whether the connection was cut."""
    until_s = time.monotonic() + for_s
    for byte in data:
        if time.monotonic() > until_s:
            return False
        try:
            connection.sendall(bytes([byte]))
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_a_request_that_drips_in_is_cut_off_by_artim(start_listener: Callable[..., Running]) -> None:
    listener = start_listener(acse_timeout_s=0.5)
    with socket.create_connection((listener.host, listener.port), timeout=10) as peer:
        assert drip(peer, b"\x01\0\0\0\x10\0" + bytes(4096), for_s=8)
    wait_for(lambda: metric("similis_listener_associations_open") == 0)


def test_a_pause_between_messages_is_not_taken_for_slowness(start_listener: Callable[..., Running]) -> None:
    listener = start_listener(pdu_timeout_s=0.3, network_timeout_s=20, min_receive_bytes_per_s=100_000)
    with listener.send() as sender:
        assert sender.store(make_sample()).Status == 0x0000
        time.sleep(1)
        assert sender.store(make_sample()).Status == 0x0000


def test_an_object_does_not_come_in_by_the_context_of_another_class(start_listener: Callable[..., Running]) -> None:
    listener = start_listener(sop_classes=[MR])
    study, series, sop = generate_uid(), generate_uid(), generate_uid()
    ds = make_dataset(study=study, series=series, sop=sop)
    ds.SOPClassUID = CT
    with listener.send() as sender:
        status = sender.store(Sample(encode(ds), study, series, sop), sop_class=CT)
    assert status.Status == 0xA900
    assert listener.journal_files == []


def test_stopping_waits_for_nobody_who_sends_without_end(start_listener: Callable[..., Running]) -> None:
    listener = start_listener(pdu_timeout_s=600)
    assoc = associate(listener.host, listener.port)
    connection = assoc.dul.socket.socket
    connection.sendall(struct.pack(">BxIIBB", 4, 60_006, 60_002, assoc.accepted_contexts[0].context_id, 1))
    listener.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "dicom-association"]
    assoc.kill()
    connection.close()


def test_rules_drop_and_refuse_and_leave_nothing(start_listener: Callable[..., Running], tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "rules:\n"
        "  - {name: no tests, when: {calling_ae: DROP*}, then: drop}\n"
        "  - {name: not these, when: {modality: MR, calling_ae: REFUSE}, then: refuse, status: 0xA900}\n"
    )
    listener = start_listener(rules_file=rules)
    before = metric("similis_listener_rule_decisions_total", rule="no tests", action="drop")
    with listener.send(calling="DROPPER") as sender:
        assert sender.store(make_sample()).Status == 0x0000
    with listener.send(calling="REFUSE") as sender:
        status = sender.store(make_sample())
        assert (status.Status, status.ErrorComment) == (0xA900, "Refused by rule not these")
    assert listener.journal_files == []
    assert metric("similis_listener_rule_decisions_total", rule="no tests", action="drop") == before + 1
    kept = make_sample()
    with listener.send() as sender:
        assert sender.store(kept).Status == 0x0000
    listener.manifest(kept.study)
    assert len(listener.publisher.events) == 1
