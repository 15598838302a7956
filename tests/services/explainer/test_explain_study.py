"""The step: policy, files, idempotence, and what it refuses."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from prometheus_client import REGISTRY

from services.explainer.explain_study import wanted_frames
from services.explainer.frame_explainer import SaliencyExplainer
from services.explainer.settings import ExplainerSection
from shared.archive import instance_key
from shared.errors import (
    ArchiveObjectMissingError,
    ArchiveUnavailableError,
    ModelMismatchError,
    NotExplainableError,
    UndecodablePixelsError,
)
from shared.events import Decision, StudyExplained
from shared.saliency.seeds import noise_seed
from shared.vision.tasks import ExplainPolicy
from shared.vision.transform import letterbox_box, to_model_input
from tests.services.explainer.conftest import with_explainer

FOLDER = "explanations/1.2.3/1/brain-mr"
STEM = f"{FOLDER}/1.2.3.4.5-1"


class CountingExplainer:
    """Counts how often maps are made."""

    def __init__(self, inner):
        self.inner, self.calls = inner, 0
        self.backbone_id, self.variant = inner.backbone_id, inner.variant

    def explain_all(self, requests):
        self.calls += 1
        return self.inner.explain_all(requests)


def test_a_finding_is_explained_by_a_map_an_overlay_and_a_record(step, archive, diagnosed, head):
    explained = step(diagnosed)

    (made,) = explained.maps
    assert explained.event_id == StudyExplained.identify(diagnosed, step.make.variant(step.tasks["brain-mr"]))
    assert (made.map_key, made.overlay_key, made.record_key) == (f"{STEM}.npy", f"{STEM}.png", f"{STEM}.json")
    values = np.load(io.BytesIO(archive.get(made.map_key)))
    assert values.dtype == np.float32
    assert values.shape == (48, 48)
    assert (made.value_min, made.value_max) == (values.min(), values.max())
    assert Image.open(io.BytesIO(archive.get(made.overlay_key))).format == "PNG"
    record = json.loads(archive.get(made.record_key))
    assert record["notice"] == "research use only"
    assert record["seed"] == made.seed == noise_seed("1.2.3", "1.2.3.4.5", 1, head.id)
    assert record["parameters"]["delta"] == 0.1
    assert record["mask_count"] == made.mask_count
    assert record["head_id"] == head.id
    assert (
        record["instance_sha256"]
        == hashlib.sha256(archive.get(instance_key("1.2.3", "1.2.3.4", "1.2.3.4.5"))).hexdigest()
    )
    box = letterbox_box(40, 30, 1.5, 48)
    assert record["letterbox"] == {"top": box.top, "left": box.left, "height": box.height, "width": box.width}
    assert StudyExplained.model_validate_json(archive.get(f"{FOLDER}/explained.json")) == explained


def test_the_map_explains_the_predicted_label_by_the_heads_own_probability(step, archive, diagnosed, head, backbone):
    step(diagnosed)

    (frame,) = step.make.reader.read(archive.get(instance_key("1.2.3", "1.2.3.4", "1.2.3.4.5")))
    joined = backbone.encode_inputs(to_model_input(frame, 48)[None]).joined()
    expected = head.probabilities(head.logits(joined))[0, head.labels.index("glioma-like")]
    record = json.loads(archive.get(f"{STEM}.json"))
    assert record["target_label"] == "glioma-like"
    assert record["target_probability"] == pytest.approx(expected, abs=1e-5)


def test_redelivery_repeats_the_event_without_making_the_map_again(step, diagnosed):
    counting = CountingExplainer(step.make.explainer)
    step = with_explainer(step, counting)

    first, again = step(diagnosed), step(diagnosed)

    assert first == again
    assert counting.calls == 1


@pytest.mark.parametrize("lost", ["explained.json", "1.2.3.4.5-1.npy", "1.2.3.4.5-1.png", "1.2.3.4.5-1.json"])
def test_a_crash_before_the_last_file_makes_the_same_map_again(step, archive, diagnosed, lost):
    first = step(diagnosed)
    values = archive.get(f"{STEM}.npy")
    del archive.objects[f"{FOLDER}/{lost}"]

    again = step(diagnosed)

    assert archive.get(f"{STEM}.npy") == values
    assert again.event_id == first.event_id
    assert again.maps == first.maps


def test_an_unreadable_summary_is_made_anew(step, archive, diagnosed):
    archive.put(f"{FOLDER}/explained.json", b"{")

    assert step(diagnosed).maps


def test_another_models_explanation_does_not_stand_for_this_one(step, archive, diagnosed):
    step(diagnosed)
    summary = json.loads(archive.get(f"{FOLDER}/explained.json"))
    summary["event_id"] = "00000000-0000-5000-8000-000000000000"
    archive.put(f"{FOLDER}/explained.json", json.dumps(summary).encode())

    assert step(diagnosed).event_id == StudyExplained.identify(diagnosed, step.make.variant(step.tasks["brain-mr"]))


@pytest.mark.parametrize("decision", [d for d in Decision if d is not Decision.FINDING])
def test_only_findings_are_explained_by_default(diagnosed, decision):
    other = diagnosed.model_copy(update={"decision": decision})

    assert not wanted_frames(other, ExplainPolicy())
    assert wanted_frames(other, ExplainPolicy(policy="all"))
    assert not wanted_frames(diagnosed, ExplainPolicy(policy="none"))


def test_a_diagnosis_without_a_finding_leaves_no_file_and_no_event(step, archive, diagnosed):
    skipped = {"task": "brain-mr", "outcome": "skipped"}
    before = REGISTRY.get_sample_value("similis_explainer_studies_total", skipped) or 0

    assert step(diagnosed.model_copy(update={"decision": Decision.NO_FINDING, "label": "normal"})) is None

    assert not list(archive.list("explanations"))
    assert REGISTRY.get_sample_value("similis_explainer_studies_total", skipped) == before + 1


def test_policy_all_explains_what_has_a_label_and_nothing_else(with_policy, diagnosed):
    everything = with_policy("all")

    normal = everything(diagnosed.model_copy(update={"decision": Decision.NO_FINDING, "label": "normal"}))

    assert normal.maps[0].target_label == "normal"
    assert everything(diagnosed.model_copy(update={"decision": Decision.ABSTAINED, "label": None})) is None


def test_the_policy_says_how_many_frames(with_policy, archive, diagnosed):
    archive.put(
        instance_key("1.2.3", "1.2.3.4", "1.2.3.4.6"), archive.get(instance_key("1.2.3", "1.2.3.4", "1.2.3.4.5"))
    )

    explained = with_policy("findings", 2)(diagnosed)

    assert [made.sop_instance_uid for made in explained.maps] == ["1.2.3.4.5", "1.2.3.4.6"]
    assert explained.maps[0].seed != explained.maps[1].seed


@pytest.mark.parametrize("field", ["backbone_id", "head_id", "task", "label"])
def test_a_diagnosis_by_another_model_is_refused_with_both_names(step, diagnosed, head, field):
    with pytest.raises(ModelMismatchError) as refused:
        step(diagnosed.model_copy(update={field: "another"}))

    assert "another" in str(refused.value)
    assert head.id in str(refused.value) or "tiny@0" in str(refused.value)


def test_a_missing_object_is_permanent(step, archive, diagnosed):
    archive.objects.clear()

    with pytest.raises(ArchiveObjectMissingError):
        step(diagnosed)


def test_a_truncated_object_is_permanent(step, archive, diagnosed):
    key = instance_key("1.2.3", "1.2.3.4", "1.2.3.4.5")
    archive.put(key, archive.get(key)[:-500])

    with pytest.raises(UndecodablePixelsError):
        step(diagnosed)


def test_a_frame_that_is_not_in_the_object_is_permanent(step, diagnosed):
    beyond = diagnosed.evidence[0].model_copy(update={"frame_number": 9})

    with pytest.raises(UndecodablePixelsError):
        step(diagnosed.model_copy(update={"evidence": (beyond,)}))


def test_nothing_is_announced_if_a_file_cannot_be_stored(step, archive, diagnosed, monkeypatch):
    store = type(archive).put

    def full_disk(self, key, data):
        if key.endswith(".png"):
            raise ArchiveUnavailableError("disk full")
        store(self, key, data)

    monkeypatch.setattr(type(archive), "put", full_disk)

    with pytest.raises(ArchiveUnavailableError):
        step(diagnosed)
    assert not archive.exists(f"{FOLDER}/explained.json")


def test_a_head_that_gives_nan_is_permanent(step, diagnosed, backbone):
    broken = replace(backbone, load_model=lambda: _with_nan(backbone.model))

    with pytest.raises(NotExplainableError):
        with_explainer(step, SaliencyExplainer(broken, ExplainerSection()))(diagnosed)


def _with_nan(model):
    from copy import deepcopy

    broken = deepcopy(model)
    broken.layernorm.weight[0] = float("nan")
    return broken


def test_the_seed_depends_on_study_object_frame_and_head_and_fits_32_bits():
    base = ("1.2", "1.2.3", 1, "head@a")
    others = [("1.3", *base[1:]), ("1.2", "1.2.4", 1, "head@a"), ("1.2", "1.2.3", 2, "head@a"), (*base[:3], "head@b")]

    seeds = {noise_seed(*key) for key in (base, *others)}

    assert len(seeds) == 5
    assert noise_seed(*base) == noise_seed(*base)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_the_fill_changes_what_stands_for_removed_pixels(backbone, head, archive, step):
    (frame,) = step.make.reader.read(archive.get(instance_key("1.2.3", "1.2.3.4", "1.2.3.4.5")))

    grey, black = (
        SaliencyExplainer(backbone, ExplainerSection(fill=fill)).explain(frame, head, "normal", 1)
        for fill in ("mean", "black")
    )

    assert grey.mask_count == black.mask_count
    assert not np.allclose(grey.values, black.values)
    assert black.parameters["fill"] == pytest.approx((-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225))
