"""A small archive and index as listener, embedder and explainer would leave them. All of it is synthetic."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from shared import archive as keys
from shared.archive import Archive
from shared.events import (
    ClassScore,
    Decision,
    EvidenceFrame,
    ExplanationMap,
    StudyDiagnosed,
    StudyExplained,
)
from shared.ids import point_id
from shared.manifest import InstanceEntry, SeriesEntry, StudyManifest
from shared.pixels import PixelLimits, read_frames
from shared.pixels.frame import Frame
from shared.vector_index.memory import MemoryIndex
from shared.vector_index.port import FramePayload, FramePoint
from shared.vision.transform import letterbox_box, letterboxed

ROOT = "2.25.4711"
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
PATIENT_NAME = "Synthetic^Verysecret"
PATIENT_ID = "PID-0815-SECRET"
CALLING_AE = "MODALITY9SECRET"
START = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
LABELS = ("normal", "glioma-like", "meningioma-like", "metastasis-like")
TASK = "brain-mr"
HEAD = "brain-mr@0123456789ab"


@dataclass(frozen=True, slots=True)
class FakeFeatures:
    vectors: NDArray[np.float32]
    patches: NDArray[np.float32] | None = None

    @property
    def cls(self) -> NDArray[np.float32]:
        return self.vectors

    def embeddings(self) -> NDArray[np.float32]:
        return self.vectors


@dataclass(frozen=True, slots=True)
class FakeEncoder:
    """A working encoder: a fixed random projection of a small grey picture."""

    id: str = "fake@000000000000-t1"
    dim: int = 24
    input_size_px: int = 64

    def encode(self, frames: Sequence[Frame]) -> FakeFeatures:
        projection = np.random.default_rng(7).normal(size=(16 * 16, self.dim))
        small = np.stack([self._grey(frame) for frame in frames])
        vectors = (small - small.mean(axis=1, keepdims=True) + 1e-3) @ projection
        patches = np.stack([self._patches(frame) for frame in frames])
        unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        return FakeFeatures(unit, patches)

    def _patches(self, frame: Frame) -> NDArray[np.float32]:
        """(64, D) patch tokens of an 8 x 8 grid: a fixed random projection of each patch's own pixels."""
        square = letterboxed(frame, self.input_size_px)
        grey = square if square.ndim == 2 else square.mean(axis=2)
        cells = grey.reshape(8, 8, 8, 8).transpose(0, 2, 1, 3).reshape(64, 64)
        projection = np.random.default_rng(8).normal(size=(64, self.dim))
        return np.asarray((cells - cells.mean(axis=1, keepdims=True) + 1e-3) @ projection, np.float32)

    def _grey(self, frame: Frame) -> NDArray[np.float64]:
        square = letterboxed(frame, 16)
        return np.asarray(square if square.ndim == 2 else square.mean(axis=2), np.float64).ravel()


@dataclass(frozen=True, slots=True)
class SeededStudy:
    uid: str
    series: str
    sops: tuple[str, ...]
    files: tuple[bytes, ...]
    pseudonym: str
    diagnosed: StudyDiagnosed | None
    map_name: str | None


@dataclass(slots=True)
class Seed:
    archive: Archive
    index: MemoryIndex
    encoder: FakeEncoder
    size: int = 48
    studies: list[SeededStudy] = field(default_factory=list)

    def study(
        self,
        number: int,
        *,
        label: str | None = "normal",
        decision: Decision | None = Decision.NO_FINDING,
        patient: int | None = None,
        modality: str = "MR",
        body_part: str | None = "BRAIN",
        slices: int = 5,
        revision: int = 1,
        explained: bool = False,
        sex: str = "F",
        age_band: str = "60-69",
        study_date: str = "20240517",
    ) -> SeededStudy:
        """One study. `decision` None: received, not judged."""
        uid, series = f"{ROOT}.{number}", f"{ROOT}.{number}.1"
        pseudonym = hashlib.sha256(f"{patient if patient is not None else number}".encode()).hexdigest()[:32]
        # The manifest's order is not the order in space: the slices are numbered backwards.
        sops = tuple(f"{series}.{place}" for place in range(slices))
        files = tuple(
            mr_slice(
                uid,
                series,
                sop,
                picture(number, label or "normal", place / max(1, slices - 1), self.size),
                instance_number=slices - place,
                position_mm=6.0 * (slices - place),
            )
            for place, sop in enumerate(sops)
        )
        entries = []
        for sop, data in zip(sops, files, strict=True):
            key = keys.instance_key(uid, series, sop)
            self.archive.put(key, data)
            digest = hashlib.sha256(data).hexdigest()
            entries.append(
                InstanceEntry(
                    sop_instance_uid=sop,
                    sop_class_uid=MR_IMAGE,
                    transfer_syntax_uid=str(ExplicitVRLittleEndian),
                    archive_key=key,
                    size_bytes=len(data),
                    sha256=digest,
                    number_of_frames=1,
                    patient_pseudonym=pseudonym,
                    sex=sex,
                    age_band=age_band,
                    is_new=True,
                )
            )
        manifest = StudyManifest(
            study_instance_uid=uid,
            revision=revision,
            created_at=START + timedelta(minutes=number),
            study_date=study_date,
            calling_ae_titles=(CALLING_AE,),
            patient_pseudonyms=(pseudonym,),
            mixed_patients=False,
            series=(
                SeriesEntry(
                    series_instance_uid=series, modality=modality, body_part=body_part, instances=tuple(entries)
                ),
            ),
        )
        self.archive.put(keys.manifest_key(uid, revision), manifest.model_dump_json().encode())
        diagnosed, name = None, None
        if decision is not None:
            diagnosed = self._judge(manifest, label, decision)
            self._index(manifest, files, diagnosed, study_date)
            if explained:
                name = self._explain(manifest, files, diagnosed)
        seeded = SeededStudy(uid, series, sops, files, pseudonym, diagnosed, name)
        self.studies.append(seeded)
        return seeded

    def _judge(self, manifest: StudyManifest, label: str | None, decision: Decision) -> StudyDiagnosed:
        task = "none" if decision is Decision.NO_TASK else TASK
        said = label if decision in (Decision.FINDING, Decision.NO_FINDING) else None
        sops = [instance.sop_instance_uid for _, instance in manifest.instances()]
        series = manifest.series[0].series_instance_uid
        middle = [sops[len(sops) // 2], *sops[: max(0, len(sops) // 2)][-1:]]
        confidence = {Decision.FINDING: 0.87, Decision.NO_FINDING: 0.93}.get(decision)
        rest = (1 - (confidence or 0.4)) / 3
        top = label or "normal"
        diagnosed = StudyDiagnosed(
            event_id=StudyDiagnosed.identify(
                manifest.study_instance_uid, manifest.revision, task, self.encoder.id, HEAD if task == TASK else None
            ),
            occurred_at=manifest.created_at + timedelta(seconds=9),
            study_instance_uid=manifest.study_instance_uid,
            revision=manifest.revision,
            task=task,
            decision=decision,
            reason=REASONS[decision],
            label=said,
            confidence=confidence,
            classes=()
            if task == "none"
            else tuple(
                ClassScore(
                    label=name,
                    probability=(confidence or 0.4) if name == top else rest,
                    is_finding=name != "normal",
                )
                for name in LABELS
            ),
            evidence=()
            if task == "none"
            else tuple(
                EvidenceFrame(
                    series_instance_uid=series,
                    sop_instance_uid=sop,
                    frame_number=1,
                    probability=0.9,
                    point_id=point_id(self.encoder.id, sop, 1),
                )
                for sop in middle
            ),
            frames_embedded=len(sops),
            partial=False,
            modalities=(manifest.series[0].modality,),
            manifest_key=keys.manifest_key(manifest.study_instance_uid, manifest.revision),
            backbone_id=self.encoder.id,
            head_id=HEAD if task == TASK else None,
            duration_s=1.0,
        )
        key = keys.diagnosis_key(manifest.study_instance_uid, manifest.revision, task)
        self.archive.put(key, diagnosed.model_dump_json().encode())
        return diagnosed

    def _index(
        self, manifest: StudyManifest, files: Sequence[bytes], diagnosed: StudyDiagnosed, study_date: str
    ) -> None:
        points = []
        for (series, instance), data in zip(manifest.instances(), files, strict=True):
            frame = read_frames(data, limits=PixelLimits())[0]
            points.append(
                FramePoint(
                    point_id(self.encoder.id, instance.sop_instance_uid, 1),
                    self.encoder.encode([frame]).embeddings()[0],
                    FramePayload(
                        study_instance_uid=manifest.study_instance_uid,
                        series_instance_uid=series.series_instance_uid,
                        sop_instance_uid=instance.sop_instance_uid,
                        frame_number=1,
                        revision=manifest.revision,
                        modality=series.modality,
                        body_part=series.body_part,
                        patient_pseudonym=instance.patient_pseudonym,
                        sex=instance.sex,
                        age_band=instance.age_band,
                        study_date=int(study_date),
                        backbone_id=self.encoder.id,
                        task=diagnosed.task,
                        decision=diagnosed.decision.value,
                        label=diagnosed.label,
                    ),
                )
            )
        self.index.upsert(points)

    def _explain(self, manifest: StudyManifest, files: Sequence[bytes], diagnosed: StudyDiagnosed) -> str:
        evidence = diagnosed.evidence[0]
        name = f"{evidence.sop_instance_uid}-{evidence.frame_number}"
        uid, revision = manifest.study_instance_uid, manifest.revision
        at = [instance.sop_instance_uid for _, instance in manifest.instances()].index(evidence.sop_instance_uid)
        frame = read_frames(files[at], limits=PixelLimits())[0]
        box = letterbox_box(*frame.pixels.shape[:2], frame.pixel_aspect, 224)
        rows, columns = np.mgrid[0:224, 0:224]
        values = (0.02 + 0.2 * np.exp(-((rows - 90) ** 2 + (columns - 140) ** 2) / 900)).astype(np.float32)
        buffer, png = io.BytesIO(), io.BytesIO()
        np.save(buffer, values)
        Image.fromarray((frame.pixels * 255).astype(np.uint8)).save(png, "PNG")
        record = {
            "notice": "research use only",
            "overlay_scale": {"low": 42 * float(values.min()), "high": 42 * float(values.max())},
            "letterbox": {"top": box.top, "left": box.left, "height": box.height, "width": box.width},
        }
        stored = {
            suffix: keys.explanation_key(uid, revision, diagnosed.task, f"{name}.{suffix}")
            for suffix in ("npy", "png", "json")
        }
        self.archive.put(stored["npy"], buffer.getvalue())
        self.archive.put(stored["png"], png.getvalue())
        self.archive.put(stored["json"], json.dumps(record).encode())
        explained = StudyExplained(
            event_id=StudyExplained.identify(diagnosed, "ViT-CX"),
            occurred_at=diagnosed.occurred_at + timedelta(seconds=20),
            study_instance_uid=uid,
            revision=revision,
            task=diagnosed.task,
            label=diagnosed.label or "",
            maps=(
                ExplanationMap(
                    series_instance_uid=evidence.series_instance_uid,
                    sop_instance_uid=evidence.sop_instance_uid,
                    frame_number=1,
                    target_label=diagnosed.label or "",
                    map_key=stored["npy"],
                    overlay_key=stored["png"],
                    record_key=stored["json"],
                    method="ViT-CX",
                    mode="exact-float32",
                    seed=7,
                    mask_count=42,
                    value_min=float(values.min()),
                    value_max=float(values.max()),
                ),
            ),
            backbone_id=diagnosed.backbone_id,
            head_id=HEAD,
            duration_s=12.0,
        )
        key = keys.explanation_key(uid, revision, diagnosed.task, "explained.json")
        self.archive.put(key, explained.model_dump_json().encode())
        return name


REASONS = {
    Decision.FINDING: "Highest calibrated probability, above the task's threshold.",
    Decision.NO_FINDING: "Highest calibrated probability, above the task's threshold.",
    Decision.ABSTAINED: "The highest probability, 40 %, is below the task's threshold of 55 %.",
    Decision.OUT_OF_DISTRIBUTION: "The frames are unlike those the task was trained on.",
    Decision.NO_TASK: "No task takes CT of this body part.",
}


def picture(number: int, label: str, height: float, size: int) -> NDArray[np.uint16]:
    """A head-like disc with texture of its own and, for a finding, a bright or dark spot: 12-bit."""
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[0:size, 0:size] / size - 0.5
    bulge = 0.36 + 0.08 * np.sin(np.pi * height)
    radius = np.hypot(rows / (1.1 + 0.1 * rng.random()), columns)
    brain = np.where(radius < bulge, 0.45 + 0.15 * np.sin(9 * rows + rng.random() * 6) * np.cos(8 * columns), 0.0)
    brain = np.where(np.abs(radius - bulge) < 0.025, 0.8, brain)
    spot = np.hypot(rows + 0.1, columns - 0.12)
    if label == "glioma-like":
        brain = np.where(spot < 0.11 + 0.02 * np.sin(30 * rows), 0.85, brain)
    elif label == "meningioma-like":
        brain = np.where(np.hypot(rows - 0.2, columns + 0.22) < 0.09, 0.95, brain)
    elif label == "metastasis-like":
        brain = np.where((spot < 0.07) & (spot > 0.035), 0.95, brain)
    noisy = brain + rng.normal(0, 0.02, brain.shape)
    return (np.clip(noisy, 0, 1) * 4095).astype(np.uint16)


def mr_slice(
    study: str,
    series: str,
    sop: str,
    pixels: NDArray[np.uint16],
    *,
    instance_number: int,
    position_mm: float,
) -> bytes:
    """One MR slice as a Part-10 file, with identity in its header."""
    dataset = Dataset()
    dataset.SOPClassUID = MR_IMAGE
    dataset.SOPInstanceUID = sop
    dataset.StudyInstanceUID = study
    dataset.SeriesInstanceUID = series
    dataset.PatientName = PATIENT_NAME
    dataset.PatientID = PATIENT_ID
    dataset.Modality = "MR"
    dataset.StudyDate = "20240517"
    dataset.InstanceNumber = instance_number
    dataset.ImagePositionPatient = [0.0, 0.0, position_mm]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [1.0, 1.0]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def not_an_image() -> bytes:
    """A DICOM object without pixels."""
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    dataset.SOPInstanceUID = f"{ROOT}.999.1.1"
    dataset.PatientName = PATIENT_NAME
    dataset.Modality = "SR"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def png(pixels: NDArray[np.uint16]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((pixels // 16).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def fill(seed: Seed) -> None:
    """A mix of everything that the page must tell apart."""
    number = 0
    for label in LABELS:
        for turn in range(4):
            number += 1
            finding = label != "normal"
            seed.study(
                number,
                label=label,
                decision=Decision.FINDING if finding else Decision.NO_FINDING,
                explained=finding and turn < 2,
                sex="FM"[turn % 2],
                age_band=("50-59", "60-69")[turn % 2],
                study_date=f"2024051{turn}",
            )
    seed.study(20, decision=Decision.ABSTAINED)
    seed.study(21, decision=Decision.OUT_OF_DISTRIBUTION)
    seed.study(22, decision=Decision.NO_TASK, label=None, modality="CT", body_part="CHEST", slices=1)
    seed.study(23, decision=None, label=None)
