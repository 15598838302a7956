"""Every transfer syntax and every storage SOP class: negotiated, and stored as sent."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pynetdicom.sop_class import _STORAGE_CLASSES

from services.listener.negotiation import STORAGE_COMMITMENT, TRANSFER_SYNTAXES, VERIFICATION
from tests.conformance.kept import assert_as_sent
from tests.conformance.wire import Request, Wire
from tests.services.listener.listener_harness import MR, Running, Sample, encode, make_dataset

IMPLICIT = ("1.2.840.10008.1.2", "1.2.840.10008.1.20")
UNCOMPRESSED = (*IMPLICIT, "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205")
# Their pixels lie elsewhere, or follow as a stream: the data set has none.
WITHOUT_PIXELS = (
    "1.2.840.10008.1.2.4.94",
    "1.2.840.10008.1.2.4.95",
    "1.2.840.10008.1.2.4.204",
    "1.2.840.10008.1.2.4.205",
    "1.2.840.10008.1.2.7.1",
    "1.2.840.10008.1.2.7.2",
    "1.2.840.10008.1.2.7.3",
)
OTHER_SERVICES = sorted(
    uid
    for uid, (name, kind, *_) in UID_dictionary.items()
    if kind in ("SOP Class", "Meta SOP Class") and name and "Storage" not in name
)
MAX_CONTEXTS = 128  # PS3.8 section 9.3.2.2: odd numbers from 1 to 255
STUDY = generate_uid()
CLASSES = sorted(set(_STORAGE_CLASSES.values()))
OBJECTS = {
    **{f"{MR} {uid}": UID(uid).name for uid in sorted(TRANSFER_SYNTAXES)},
    **{f"{uid} {ExplicitVRLittleEndian}": UID(uid).name for uid in CLASSES},
}


def object_in(transfer_syntax: str) -> Sample:
    """An object as a sender encodes it in this transfer syntax; what is encapsulated is no real image."""
    series, sop = generate_uid(), generate_uid()
    ds = make_dataset(study=STUDY, series=series, sop=sop)
    if transfer_syntax in WITHOUT_PIXELS:
        del ds.PixelData
        ds.PixelDataProviderURL = "https://pixels.invalid/1"
    elif transfer_syntax not in (*UNCOMPRESSED, *DEFLATED):
        ds.PixelData = encapsulate([b"a frame of any bytes"], has_bot=True)
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    encoding = dict.fromkeys(IMPLICIT, "1.2.840.10008.1.2").get(transfer_syntax, transfer_syntax)
    data = encode(ds, encoding)
    if transfer_syntax in DEFLATED:
        # PS3.5 section A.5: raw deflate, padded to an even length.
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflate.compress(data) + deflate.flush()
        data += b"\0" * (len(data) % 2)
    return Sample(data, STUDY, series, sop, transfer_syntax=transfer_syntax)


def object_of(sop_class: str) -> Sample:
    """The least that names an object of this class."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid()
    ds.PatientID = "PHANTOM-1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, generate_uid()
    return Sample(encode(ds), STUDY, ds.SeriesInstanceUID, ds.SOPInstanceUID, sop_class=sop_class)


def send_all(listener: Running, samples: Iterable[Sample]) -> dict[str, tuple[Sample, int]]:
    """By SOP class or transfer syntax, what was sent and its status; as many associations as it takes."""
    left: Iterator[Sample] = iter(samples)
    sent: dict[str, tuple[Sample, int]] = {}
    while some := list(itertools.islice(left, MAX_CONTEXTS)):
        with listener.send(*((sample.sop_class, sample.transfer_syntax) for sample in some)) as sender:
            assert len(sender.assoc.accepted_contexts) == len(some)
            for sample in some:
                sent[f"{sample.sop_class} {sample.transfer_syntax}"] = sample, sender.store(sample).Status
    return sent


@pytest.fixture(scope="module")
def stored(listener: Running) -> dict[str, tuple[Sample, int]]:
    sent = send_all(listener, itertools.chain(map(object_in, sorted(TRANSFER_SYNTAXES)), map(object_of, CLASSES)))
    assert_as_sent(listener, *(sample for sample, status in sent.values() if status == 0))
    return sent


@pytest.mark.parametrize("key", OBJECTS, ids=OBJECTS.get)
def test_objects_in_every_syntax_and_of_every_class_are_stored_as_sent(
    stored: dict[str, tuple[Sample, int]], key: str
) -> None:
    _, status = stored[key]
    assert status == 0x0000  # and then `stored` has compared its bytes


def test_every_transfer_syntax_of_the_standard_that_encodes_data_sets_is_tried() -> None:
    """PS3.6 table A-1 has 61 of them in the pydicom that is installed; a new one is to be looked at."""
    assert len(TRANSFER_SYNTAXES) == 61
    assert len(CLASSES) == 170


def test_one_context_with_all_transfer_syntaxes_is_accepted_in_the_senders_first_choice(listener: Running) -> None:
    for first in ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2"):
        proposed = [first, *sorted(TRANSFER_SYNTAXES - {first})]
        with listener.send((MR, proposed)) as sender:
            [context] = sender.assoc.accepted_contexts
            assert context.transfer_syntax == [first]


def test_an_object_in_another_syntax_than_negotiated_is_refused(listener: Running) -> None:
    sample = object_in("1.2.840.10008.1.2.2")
    with listener.send((sample.sop_class, "1.2.840.10008.1.2.1")) as sender:
        assert sender.store(replace(sample, transfer_syntax="1.2.840.10008.1.2.1")).Status == 0xC000


def test_no_other_service_of_the_standard_is_accepted(listener: Running) -> None:
    """Not even where pynetdicom calls it otherwise than pydicom (Modality Worklist), or does not know it."""
    asked = [uid for uid in OTHER_SERVICES if uid not in (VERIFICATION, STORAGE_COMMITMENT) and uid not in CLASSES]
    assert len(asked) > 90
    for start in range(0, len(asked), MAX_CONTEXTS):
        contexts = [(uid, (ExplicitVRLittleEndian,)) for uid in asked[start : start + MAX_CONTEXTS]]
        with Wire.associate(listener, Request(contexts)) as wire:
            assert wire.accepted is not None
            answers = zip(contexts, wire.accepted.presentation_context, strict=True)
            assert [uid for (uid, _), context in answers if context.result_reason != 3] == []


@pytest.mark.parametrize(
    "sop_class",
    [
        "1.2.840.10008.5.1.4.1.1.6",
        "1.2.840.10008.5.1.1.29",
        "1.2.840.10008.5.1.4.1.1.999.1",
        "1.2.826.0.1.3680043.2.1143.9",
    ],
    ids=["retired ultrasound", "hardcopy", "of a later edition", "private"],
)
def test_storage_classes_that_pynetdicom_does_not_know_are_stored(listener: Running, sop_class: str) -> None:
    sample = object_of(sop_class)
    with listener.send((sop_class, sample.transfer_syntax)) as sender:
        assert sender.store(sample).Status == 0x0000
