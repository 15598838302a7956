"""pynetdicom's and GDCM's senders."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import (
    AE,
    Association,
    StoragePresentationContexts,
    VerificationPresentationContexts,
    build_context,
    build_role,
)
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import AllStoragePresentationContexts

from services.listener import metrics
from tests.conformance.kept import archived, entries
from tests.conformance.peers import assert_kept, run, sample_file, tool
from tests.services.listener.listener_harness import MR, Running, make_dataset

FILES = ("CT_small.dcm", "MR_small.dcm", "rtplan.dcm", "reportsi.dcm")


@pytest.fixture
def listener(start_listener: Callable[..., Running]) -> Running:
    """A listener for each test: many of them send the same files."""
    return start_listener()


def pynetdicom(application: str, listener: Running, *arguments: str | Path, ok: bool = True) -> str:
    command = [sys.executable, "-m", "pynetdicom", application, listener.host, str(listener.port)]
    return run([*command, *arguments, "-v", "-aec", "SIMILIS"], ok=ok)


def test_pynetdicoms_echoscu_is_answered(listener: Running) -> None:
    output = pynetdicom("echoscu", listener, "-pdu", "0", "--repeat", "3")
    assert output.count("Received Echo Response (Status: 0x0000") == 3


def test_pynetdicoms_storescu_stores(listener: Running) -> None:
    pynetdicom("storescu", listener, sample_file("MR_small_implicit.dcm"), "-xi")
    assert_kept(listener, "MR_small_implicit.dcm")


def test_pynetdicoms_storescu_stores_a_folder(listener: Running, tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_bytes(sample_file(name).read_bytes())
    pynetdicom("storescu", listener, tmp_path, "-r", "-cx")
    for name in FILES:
        assert_kept(listener, name)


def test_pynetdicoms_standard_contexts_are_all_accepted(listener: Running) -> None:
    ae = AE("TESTSCU")
    contexts = [*VerificationPresentationContexts, *StoragePresentationContexts]
    assoc = ae.associate(listener.host, listener.port, contexts=contexts, ae_title="SIMILIS")
    assert (len(assoc.accepted_contexts), assoc.rejected_contexts) == (len(contexts), [])
    assert assoc.send_c_echo().Status == 0x0000
    assoc.release()


def test_all_storage_contexts_in_pynetdicoms_default_syntaxes_are_accepted(listener: Running) -> None:
    ae = AE("TESTSCU")
    for start in range(0, len(AllStoragePresentationContexts), 128):
        some = AllStoragePresentationContexts[start : start + 128]
        assoc = ae.associate(listener.host, listener.port, contexts=some, ae_title="SIMILIS")
        assert len(assoc.accepted_contexts) == len(some)
        assoc.release()


def test_pynetdicom_with_every_negotiation_item_stores(listener: Running) -> None:
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.primary_field, identity.secondary_field = 2, b"somebody", b"secret"
    identity.positive_response_requested = True
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 4
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid, extended.service_class_application_information = MR, b"\2\0\3\0\1\0"
    common = SOPClassCommonExtendedNegotiation()
    common.sop_class_uid, common.service_class_uid = MR, "1.2.840.10008.4.2"
    items = [identity, window, extended, common, build_role(MR, scu_role=True, scp_role=True)]
    ds = make_dataset(study=generate_uid(), series=generate_uid(), sop=generate_uid())
    ds.ensure_file_meta()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    assoc = AE("TESTSCU").associate(
        listener.host,
        listener.port,
        contexts=[build_context(MR, "1.2.840.10008.1.2.1")],
        ae_title="SIMILIS",
        ext_neg=items,
    )
    assert assoc.is_established
    assert assoc.acceptor.user_identity is None
    assert assoc.acceptor.sop_class_extended == {MR: b"\2\0\3\0\0\0"}
    assert assoc.send_c_store(ds, msg_id=7, priority=1, originator_aet="MOVER", originator_id=9).Status == 0x0000
    assoc.release()
    assert archived(listener, ds) == ds


def test_pynetdicoms_associations_at_the_same_time_store_all_their_objects(listener: Running) -> None:
    study = generate_uid()
    sent: list[tuple[str, int]] = []

    def associate() -> Association:
        ae = AE("TESTSCU")
        ae.dimse_timeout = 5
        contexts = [build_context(MR, "1.2.840.10008.1.2")]
        return ae.associate(listener.host, listener.port, contexts=contexts, ae_title="SIMILIS")

    def answered(assoc: Association, ds: Dataset) -> tuple[Association, int]:
        """Now and then pynetdicom's own loop takes a response for a request, and it is waited for in vain."""
        for _ in range(4):
            status = assoc.send_c_store(ds)
            if "Status" in status:
                return assoc, status.Status
            assoc = associate()
        raise AssertionError("never answered")

    def send() -> None:
        assoc = associate()
        series = generate_uid()
        for _ in range(10):
            ds = make_dataset(study=study, series=series, sop=generate_uid())
            ds.ensure_file_meta()
            ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
            assoc, status = answered(assoc, ds)
            sent.append((ds.SOPInstanceUID, status))
        assoc.release()

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [status for _, status in sent] == [0x0000] * 80
    assert set(entries(listener, study, 80)) == {sop for sop, _ in sent}


def gdcmscu(listener: Running, *arguments: str | Path) -> None:
    """Its release 3.0 aborts itself once it has released, whoever its peer is: its exit status says nothing."""
    command = [tool("gdcmscu"), "--call", "SIMILIS", "--aetitle", "GDCM", listener.host, str(listener.port)]
    run([*command, *arguments], ok=None)


@pytest.mark.peers
def test_gdcmscu_is_answered(listener: Running) -> None:
    answered = metrics.ECHOES._value.get()
    gdcmscu(listener, "--echo")
    assert metrics.ECHOES._value.get() == answered + 1


@pytest.mark.peers
@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_implicit.dcm", "JPEG2000.dcm", "MR_small_RLE.dcm"])
def test_gdcmscu_stores(listener: Running, name: str) -> None:
    gdcmscu(listener, "--store", "-i", sample_file(name))
    assert_kept(listener, name)
