"""The same pixels in many encodings give the same diagnosis, through the real decoders and the real backbone."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest
from embedder_studies import STUDY, SeriesSpec, archive_study, dicom, made_up_task
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from services.embedder.app import open_decoder
from services.embedder.embed_study import EmbedStudy
from services.embedder.settings import EmbedderSection
from shared.archive import LocalArchive
from shared.pixels import PixelLimits
from shared.pixels.pool_frames import DecodeInProcess, DecodeRequest
from shared.vector_index.memory import MemoryIndex

SLICES = 3
SIZE = 96


def pixels(n: int) -> np.ndarray:
    """A soft disc with a bright spot, 12 bits."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    disc = 900 * (np.hypot(x, y) < 0.42) + 400 * np.cos(9 * x + n) * np.cos(7 * y)
    spot = 1400 * np.exp(-(((x - 0.1) ** 2 + (y + 0.05 * n) ** 2) / 0.004))
    noise = np.random.default_rng(n).normal(0, 25, (SIZE, SIZE))
    return np.clip(600 + disc + spot + noise, 0, 4095).astype(np.uint16)


def plain(n: int) -> Dataset:
    dataset = dcmread(io.BytesIO(dicom(f"1.2.826.1.1.{n + 1}", position=float(n), size=SIZE)))
    dataset.WindowCenter, dataset.WindowWidth = 1500, 3000
    dataset.PixelData = pixels(n).tobytes()
    return dataset


def written(dataset: Dataset, syntax: str, **how: bool) -> bytes:
    dataset.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=not how, **how)
    return buffer.getvalue()


def native(syntax: str) -> Callable[[int], bytes]:
    return lambda n: written(plain(n), syntax)


def big_endian(n: int) -> bytes:
    dataset = plain(n)
    dataset.PixelData = pixels(n).byteswap().tobytes()
    return written(dataset, ExplicitVRBigEndian, implicit_vr=False, little_endian=False, force_encoding=True)


def compressed(syntax: str) -> Callable[[int], bytes]:
    def encode(n: int) -> bytes:
        dataset = plain(n)
        dataset.compress(syntax, generate_instance_uid=False)
        return written(dataset, syntax)

    return encode


def lossless_jpeg(n: int) -> bytes:
    dataset = plain(n)
    dataset.PixelData = encapsulate([imagecodecs.ljpeg_encode(pixels(n), bitspersample=12)])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    return written(dataset, JPEGLosslessSV1)


def inverted(n: int) -> bytes:
    dataset = plain(n)
    dataset.PhotometricInterpretation = "MONOCHROME1"
    dataset.PixelData = (4095 - pixels(n)).tobytes()
    # The window mirrored: PS3.3 section C.11.2.1.2.1 takes half a step off the centre.
    dataset.WindowCenter = 4095 - 1500 + 1
    return written(dataset, ExplicitVRLittleEndian)


def signed(n: int) -> bytes:
    dataset = plain(n)
    dataset.PixelRepresentation, dataset.RescaleIntercept, dataset.RescaleSlope = 1, 2048, 1
    dataset.PixelData = (pixels(n).astype(np.int16) - 2048).tobytes()
    return written(dataset, ExplicitVRLittleEndian)


def wide(n: int) -> bytes:
    dataset = plain(n)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 32, 32, 31
    dataset.PixelData = pixels(n).astype(np.uint32).tobytes()
    return written(dataset, ExplicitVRLittleEndian)


def shifted(n: int) -> bytes:
    dataset = plain(n)
    dataset.PixelData = np.roll(pixels(n), 20, axis=1).tobytes()
    return written(dataset, ExplicitVRLittleEndian)


ENCODINGS: dict[str, Callable[[int], bytes]] = {
    "implicit little endian": native(ImplicitVRLittleEndian),
    "explicit big endian": big_endian,
    "deflated": native(DeflatedExplicitVRLittleEndian),
    "RLE": compressed(RLELossless),
    "JPEG-LS": compressed(JPEGLSLossless),
    "JPEG 2000": compressed(JPEG2000Lossless),
    "lossless JPEG": lossless_jpeg,
    "MONOCHROME1": inverted,
    "signed, rescaled": signed,
    "32 bits": wide,
}


@pytest.fixture(scope="module")
def step(tmp_path_factory, real_backbone):
    backbone = real_backbone
    task = made_up_task(backbone.id, backbone.dim, bias=(0.0, 0.0))
    # A head that looks: the made-up one's weights are too small to matter.
    task = replace(task, head=replace(task.head, weight=task.head.weight * 30))
    decoder = open_decoder(EmbedderSection(decode_workers=2), backbone.input_size_px, PixelLimits())
    archive = LocalArchive(tmp_path_factory.mktemp("archive"))
    built = EmbedStudy(archive, backbone, (task,), MemoryIndex(backbone.dim), PixelLimits(), decoder=decoder)
    yield built
    built.close()


@pytest.fixture(scope="module")
def diagnose(step):
    def diagnosed(encode: Callable[[int], bytes], study: str):
        index = MemoryIndex(step.encoder.dim)
        series = SeriesSpec({f"1.2.826.1.1.{n + 1}": encode(n) for n in range(SLICES)})
        (event,) = replace(step, index=index)(archive_study(step.archive, series, study=study))
        vectors = {point.payload.sop_instance_uid: point.vector for point in index.scroll(limit=10)}
        return event, np.stack([vectors[f"1.2.826.1.1.{n + 1}"] for n in range(SLICES)])

    return diagnosed


@pytest.fixture(scope="module")
def reference(diagnose):
    return diagnose(native(ExplicitVRLittleEndian), STUDY)


@pytest.mark.parametrize("name", ENCODINGS)
def test_the_same_pixels_give_the_same_diagnosis(diagnose, reference, name):
    expected, vectors = reference
    event, others = diagnose(ENCODINGS[name], f"{STUDY}.{2 + list(ENCODINGS).index(name)}")
    assert event.frames_embedded == SLICES
    assert not event.partial
    assert (event.decision, event.label) == (expected.decision, expected.label)
    # What is not the same to the last bit has gone through bfloat16 where the machine has it.
    for one, other in zip(event.classes, expected.classes, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=0.02)
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.02)
    assert {frame.sop_instance_uid for frame in event.evidence} == {
        frame.sop_instance_uid for frame in expected.evidence
    }
    assert (others * vectors).sum(axis=1).min() > 0.9999


@pytest.mark.parametrize("name", ENCODINGS)
def test_the_decoders_give_the_same_squares_to_float32_rounding(name):
    decoder = DecodeInProcess(224, PixelLimits())
    for n in range(SLICES):
        plain_one, other = (
            next(next(decoder.objects([request(encode(n))]))).square
            for encode in (native(ExplicitVRLittleEndian), ENCODINGS[name])
        )
        np.testing.assert_allclose(other, plain_one, rtol=0, atol=2e-6)


def request(data: bytes) -> DecodeRequest:
    return DecodeRequest("key", data, hashlib.sha256(data).hexdigest(), (1,))


def test_other_pixels_give_another_score(diagnose, reference):
    expected, vectors = reference
    event, others = diagnose(shifted, f"{STUDY}.99")
    assert event.classes[0].probability != pytest.approx(expected.classes[0].probability, abs=1e-3)
    assert np.abs(others - vectors).max() > 1e-3
