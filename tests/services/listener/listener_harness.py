"""A whole listener in a thread of this process, and a sender that can send any bytes."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import TracebackType

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, Association
from pynetdicom.dimse_primitives import C_STORE

from services.listener.composition import listening
from services.listener.part10 import encode_file_head
from services.listener.ports import MemoryPublisher
from services.listener.settings import ListenerSection, ListenerSettings
from services.listener.store import StoreObject, StoreRequest
from shared.archive import LocalArchive
from shared.manifest import StudyManifest
from shared.settings import ArchiveSettings

MR = "1.2.840.10008.5.1.4.1.1.4"


@dataclass(frozen=True)
class Sample:
    """An object to be sent."""

    dataset: bytes
    study: str
    series: str
    sop: str
    sop_class: str = MR
    transfer_syntax: str = ExplicitVRLittleEndian


def encode(ds: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian = transfer_syntax != "1.2.840.10008.1.2.2"
    buffer.is_implicit_VR = transfer_syntax == "1.2.840.10008.1.2"
    write_dataset(buffer, ds)
    return buffer.getvalue()


def make_dataset(*, study: str, series: str, sop: str, patient_id: str = "PHANTOM-1", fill: int = 0) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID = MR
    ds.SOPInstanceUID = sop
    ds.StudyDate = "20250310"
    ds.Modality = "MR"
    ds.PatientName = "Phantom^Synthetic"
    ds.PatientID = patient_id
    ds.PatientBirthDate = "19640311"
    ds.PatientSex = "F"
    ds.BodyPartExamined = "BRAIN"
    ds.StudyInstanceUID = study
    ds.SeriesInstanceUID = series
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows = 8
    ds.Columns = 8
    ds.BitsAllocated = 16
    ds.BitsStored = 12
    ds.HighBit = 11
    ds.PixelRepresentation = 0
    ds.PixelData = bytes([fill % 256, 0]) * 64
    return ds


def make_sample(
    *, study: str | None = None, series: str | None = None, sop: str | None = None, **options: object
) -> Sample:
    study, series, sop = study or generate_uid(), series or generate_uid(), sop or generate_uid()
    ds = make_dataset(study=study, series=series, sop=sop, **options)  # type: ignore[arg-type]
    return Sample(encode(ds), study, series, sop)


def journal_name(sample: Sample, calling_ae_title: str) -> str:
    """The name of the sample's file in the journal."""
    head = encode_file_head(
        sop_class_uid=sample.sop_class, sop_instance_uid=sample.sop, transfer_syntax_uid=sample.transfer_syntax
    )
    sha256 = hashlib.sha256(head + sample.dataset).hexdigest()
    return f"{sample.sop}.{sha256}.{calling_ae_title.encode().hex()}.dcm"


def store(step: StoreObject, sample: Sample) -> int:
    """The status that the step answers `sample` with, without a network."""
    reception = step.begin(StoreRequest(1, "SCU", "SIMILIS", sample.sop_class, sample.sop, sample.transfer_syntax))
    reception.write(sample.dataset)
    return reception.finish().status


@dataclass
class Sender:
    """One association to the listener."""

    assoc: Association

    def store(
        self, sample: Sample, *, sop: str | None = None, sop_class: str | None = None, dataset: bytes | None = None
    ) -> Dataset:
        """C-STORE of exactly these bytes, whatever they are; the response's status elements."""
        contexts = [
            context
            for context in self.assoc.accepted_contexts
            if (context.abstract_syntax, context.transfer_syntax[0]) == (sample.sop_class, sample.transfer_syntax)
        ]
        request = C_STORE()
        request.MessageID = 1
        request.Priority = 2
        request.AffectedSOPClassUID = sop_class or sample.sop_class
        request.AffectedSOPInstanceUID = sop or sample.sop
        request.DataSet = BytesIO(sample.dataset if dataset is None else dataset)
        self.assoc._reactor_checkpoint.clear()
        self._await_pause()
        try:
            self.assoc.dimse.send_msg(request, contexts[0].context_id)
            response = self._response()
        finally:
            self.assoc._reactor_checkpoint.set()
        status = Dataset()
        assert response is not None, "no response: the association was lost"
        status.Status = response.Status
        status.ErrorComment = response.ErrorComment
        return status

    def _await_pause(self) -> None:
        """Until pynetdicom's own loop rests, which would take the response for a request."""
        seen = 0
        while seen < 2 and self.assoc.is_established:
            seen = seen + 1 if self.assoc._is_paused else 0
            time.sleep(0.002)

    def _response(self) -> C_STORE | None:
        """The response, or None as soon as the association is lost."""
        deadline_s = time.monotonic() + 20
        while time.monotonic() < deadline_s:
            _, response = self.assoc.dimse.get_msg(block=False)
            if response is not None:
                return response  # type: ignore[return-value]
            if self.assoc.acse.is_aborted() or not self.assoc.dul.is_alive():
                return None
            time.sleep(0.001)
        return None

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        connection = self.assoc.dul.socket.socket if self.assoc.dul.socket else None
        if self.assoc.is_established and not self.assoc.acse.is_aborted():
            self.assoc.release()
        else:
            self.assoc.kill()
        self.assoc.join(5)
        if connection is not None:
            connection.close()  # pynetdicom forgets to when the peer was killed


def associate(host: str, port: int, *contexts: tuple[str, str | list[str]], calling: str = "TESTSCU") -> Association:
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    for abstract, syntaxes in contexts or ((MR, ExplicitVRLittleEndian),):
        ae.add_requested_context(abstract, syntaxes)
    return ae.associate(host, port, ae_title="SIMILIS")


def item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def association_request(*contexts: bytes, calling: str = "STRANGE") -> bytes:
    """An A-ASSOCIATE-RQ, PS3.8 section 9.3.2, with these presentation context items."""
    user = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3")
    items = item(0x10, b"1.2.840.10008.3.1.1.1") + b"".join(contexts) + item(0x50, user)
    body = struct.pack(">HH16s16s32x", 1, 0, b"SIMILIS".ljust(16), calling.encode().ljust(16)) + items
    return struct.pack(">BBI", 1, 0, len(body)) + body


def rejection(host: str, port: int, *, calling: str = "TESTSCU") -> tuple[int, int, int]:
    """Result, source and reason of the A-ASSOCIATE-RJ that a request gets."""
    context = item(0x20, b"\x01\0\0\0" + item(0x30, MR.encode()) + item(0x40, ExplicitVRLittleEndian.encode()))
    with socket.create_connection((host, port), timeout=10) as peer:
        peer.sendall(association_request(context, calling=calling))
        answer = peer.recv(100)
    assert answer[:7] == b"\x03\0\0\0\0\4\0", answer
    return answer[7], answer[8], answer[9]


@dataclass
class Running:
    """A listener in a thread with an event loop of its own."""

    settings: ListenerSettings
    publisher: MemoryPublisher = field(default_factory=MemoryPublisher)
    host: str = ""
    port: int = 0
    stow_url: str | None = None

    def start(self) -> Running:
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(20)
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with listening(self.settings, self.publisher) as (self.host, self.port, self.stow_url):
                self._ready.set()
                await self._stop.wait()
        except BaseException as error:
            self._error = error
            self._ready.set()

    @property
    def error(self) -> BaseException | None:
        """What ended it before its time."""
        return self._error

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()

    def send(self, *contexts: tuple[str, str | list[str]], calling: str = "TESTSCU") -> Sender:
        assoc = associate(self.host, self.port, *contexts, calling=calling)
        assert assoc.is_established
        return Sender(assoc)

    @property
    def archive(self) -> LocalArchive:
        return LocalArchive(Path(self.settings.archive.url))

    @property
    def journal_files(self) -> list[Path]:
        return [path for path in (self.settings.listener.journal_dir / "incoming").rglob("*") if path.is_file()]

    def manifest(self, study: str, revision: int = 1, timeout_s: float = 10) -> StudyManifest:
        """The manifest of a published revision, once its event is out."""
        wait_for(
            lambda: any((e.study_instance_uid, e.revision) == (study, revision) for _, e in self.publisher.events),
            timeout_s,
        )
        return StudyManifest.model_validate_json(self.archive.get(f"manifests/{study}/{revision}.json"))


def wait_for(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    done = threading.Event()
    for _ in range(int(timeout_s / 0.02)):
        if condition():
            return
        done.wait(0.02)
    raise AssertionError("it did not happen in time")


def make_settings(folder: Path, **options: object) -> ListenerSettings:
    defaults: dict[str, object] = {
        "port": 0,
        "journal_dir": folder / "journal",
        "pseudonym_key_file": folder / "pseudonym.key",
        "generate_pseudonym_key": True,
        "crosswalk_file": folder / "crosswalk",
        "study_quiet_s": 0.2,
        "min_free_disk_bytes": 0,
        "min_free_disk_files": 0,
        "publish_retry_s": 0.05,
    }
    section = ListenerSection(**(defaults | options))  # type: ignore[arg-type]
    return ListenerSettings(listener=section, archive=ArchiveSettings(url=str(folder / "archive")))
