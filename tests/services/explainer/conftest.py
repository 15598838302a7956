"""A tiny random backbone, its head, and a study of one synthetic slice in an archive."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from transformers import Dinov2Config, Dinov2Model

from services.explainer.explain_study import ExplainStudy
from services.explainer.frame_explainer import SaliencyExplainer
from services.explainer.make_maps import MakeMaps
from services.explainer.map_files import MapFiles
from services.explainer.overlay import OverlayStyle
from services.explainer.ports import FrameExplainer, NoOutbox
from services.explainer.settings import ExplainerSection
from services.explainer.trust import MeasuredTrust
from shared import ids
from shared.archive import MemoryArchive, instance_key, manifest_key
from shared.events import ClassScore, Decision, EvidenceFrame, StudyDiagnosed
from shared.pixels import PixelLimits
from shared.pixels.frame_reader import FrameReader
from shared.saliency.faithfulness import FaithfulnessParameters
from shared.settings import VisionSettings
from shared.vision.backbone import Backbone, load_backbone
from shared.vision.heads import LinearHead
from shared.vision.tasks import ExplainPolicy, Task, TaskClass, TaskDefinition

STUDY, SERIES, SOP = "1.2.3", "1.2.3.4", "1.2.3.4.5"
LABELS = ("normal", "glioma-like", "meningioma-like")
DIM = 32


@pytest.fixture(scope="session")
def backbone(tmp_path_factory) -> Backbone:
    torch.manual_seed(3)
    config = Dinov2Config(
        hidden_size=DIM, num_hidden_layers=2, num_attention_heads=4, patch_size=8, image_size=48, mlp_ratio=2
    )
    model = Dinov2Model(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=0.15)
    folder = tmp_path_factory.mktemp("backbone") / "tiny"
    model.save_pretrained(folder)
    settings = VisionSettings(backbone=str(folder), input_size_px=48, device="cpu", precision="float32")
    return replace(load_backbone(settings), id="tiny@0")


@pytest.fixture(scope="session")
def head(backbone) -> LinearHead:
    rng = np.random.default_rng(5)
    features = backbone.encode_inputs(np.zeros((1, 3, 48, 48), np.float32)).joined().shape[1]

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    return LinearHead(
        task="brain-mr",
        labels=LABELS,
        weight=0.3 * draw(len(LABELS), features),
        bias=draw(len(LABELS)),
        feature_mean=draw(features),
        feature_scale=1 + draw(features) ** 2,
        temperature=1.7,
        backbone_id=backbone.id,
    )


@pytest.fixture
def task(head) -> Task:
    definition = TaskDefinition(
        name="brain-mr",
        title="Brain MR, phantom classes",
        modalities=("MR",),
        explain=ExplainPolicy(policy="findings", max_frames=1),
        classes=tuple(TaskClass(label=label, is_finding=label != "normal") for label in LABELS),
    )
    return Task(definition, head, {})


def mr_slice(rows: int = 40, columns: int = 30, frames: int = 1) -> bytes:
    """A DICOM file: bright disc on a ramp; pixels are 1.5 times as high as wide."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = MRImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = SOP
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = STUDY, SERIES, "MR"
    ds.Rows, ds.Columns, ds.SamplesPerPixel = rows, columns, 1
    ds.PhotometricInterpretation, ds.PixelRepresentation = "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelSpacing = ["1.5", "1.0"]
    if frames > 1:
        ds.NumberOfFrames = frames
    y, x = np.mgrid[:rows, :columns]
    pixels = 8 * y + 4 * x
    pixels[(y - rows // 3) ** 2 + (x - columns // 2) ** 2 < 30] += 900
    ds.PixelData = np.stack([pixels + 40 * k for k in range(frames)]).astype("<u2").tobytes()
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture
def archive() -> MemoryArchive:
    archive = MemoryArchive()
    archive.put(instance_key(STUDY, SERIES, SOP), mr_slice())
    return archive


@pytest.fixture
def step(archive, backbone, task) -> ExplainStudy:
    explainer = SaliencyExplainer(backbone, ExplainerSection())
    trust = MeasuredTrust(explainer.model_input, explainer.scorer, FaithfulnessParameters())
    files = MapFiles(archive, OverlayStyle(size_px=320), dicom=True, region_share=0.5)
    return ExplainStudy(
        archive=archive,
        tasks={task.name: task},
        make=MakeMaps(archive, explainer, trust, FrameReader.in_process(PixelLimits()), files),
        outbox=NoOutbox(),
    )


def with_explainer(step: ExplainStudy, explainer: FrameExplainer) -> ExplainStudy:
    """The step with another explainer."""
    return replace(step, make=replace(step.make, explainer=explainer))


@pytest.fixture
def with_policy(step, task):
    """The step under another policy."""

    def changed(policy: str, max_frames: int = 1) -> ExplainStudy:
        explain = ExplainPolicy(policy=policy, max_frames=max_frames)
        definition = task.definition.model_copy(update={"explain": explain})
        return replace(step, tasks={task.name: replace(task, definition=definition)})

    return changed


def evidence(sop: str = SOP, number: int = 1) -> EvidenceFrame:
    return EvidenceFrame(
        series_instance_uid=SERIES,
        sop_instance_uid=sop,
        frame_number=number,
        probability=0.9,
        point_id=ids.point_id("tiny@0", sop, number),
    )


@pytest.fixture
def diagnosed(backbone, head) -> StudyDiagnosed:
    return StudyDiagnosed(
        event_id=StudyDiagnosed.identify(STUDY, 1, "brain-mr", backbone.id, head.id),
        occurred_at=datetime(2026, 1, 2, tzinfo=UTC),
        study_instance_uid=STUDY,
        revision=1,
        task="brain-mr",
        decision=Decision.FINDING,
        reason="for a test",
        label="glioma-like",
        confidence=0.9,
        classes=(ClassScore(label="glioma-like", probability=0.9, is_finding=True),),
        evidence=(evidence(), evidence("1.2.3.4.6")),
        frames_embedded=2,
        partial=False,
        manifest_key=manifest_key(STUDY, 1),
        backbone_id=backbone.id,
        head_id=head.id,
        duration_s=1.0,
    )
