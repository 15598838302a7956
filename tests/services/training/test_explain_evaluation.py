"""Maps set beside known lesions: each figure on maps whose worth is known, and the whole on a small network."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
import yaml
from labelled_images import DEFINITION, LABELS, SIDE, dicom, picture, png
from scipy import ndimage
from typer.testing import CliRunner

from services.training.dataset.cases import Case, CaseImages, DatasetError
from services.training.dataset.phantom_dataset import FIRST_TRAINING_SEED
from services.training.evaluation.request import FIRST_SEED as FIRST_EVALUATION_SEED
from services.training.explain_evaluation import request as request_module
from services.training.explain_evaluation.command import evaluate_app
from services.training.explain_evaluation.compared_maps import CENTRE, RANDOM, centre_prior, compared_maps, random_map
from services.training.explain_evaluation.evaluate_maps import (
    EvaluatedMaps,
    MapOptions,
    _better,
    _estimates,
    _judged,
    _reference_figures,
    evaluate_maps,
)
from services.training.explain_evaluation.grad_cam import grad_cam
from services.training.explain_evaluation.infidelity import Removals, infidelity, removals
from services.training.explain_evaluation.lesion_frames import LesionFrame, lesion_frames, mask_on_input
from services.training.explain_evaluation.localisation import localise
from services.training.explain_evaluation.markdown import explain_markdown
from services.training.explain_evaluation.random_network import random_network
from services.training.explain_evaluation.range_reference import range_reference
from services.training.explain_evaluation.report import FIGURES, ExplainReport
from services.training.explain_evaluation.request import ExplainRequest, lesion_cases, reference_cases
from services.training.phantoms.recipe import LabelledStudy
from services.training.settings import TrainSettings
from shared.errors import ConfigurationError, WeightsError
from shared.pixels import Frame, PixelLimits
from shared.saliency.faithfulness import FaithfulnessParameters
from shared.saliency.forwards import encoder_forward, explained
from shared.saliency.heads import TorchHead
from shared.saliency.maps import Request
from shared.saliency.vit_cx import Parameters
from shared.vision.backbone import Backbone, load_backbone
from shared.vision.explain_reference import LEAST_MAPS, REFERENCE_FILE, ExplainReference, RandomMap
from shared.vision.heads import LinearHead
from shared.vision.tasks import Task
from shared.vision.transform import Letterbox, letterboxed
from shared.vision.weights import backbone_id

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "shared" / "vision"))

from small_models import save_small, small_settings

SIZE = 56
BOX = Letterbox(8, 0, 40, SIZE)
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE]
LESION = np.hypot(ROWS - 20, COLUMNS - 33) < 5
CHEAP = FaithfulnessParameters(shares=(0.0, 0.1, 0.5, 1.0), random_orders=1)


def lesion_mask(seed: int) -> np.ndarray:
    """What of `picture(seed, "spot")` is spot: the pixels that a normal picture of the seed has not."""
    return picture(seed, "spot") != picture(seed, "normal")


def spot_case(seed: int) -> Case:
    """Three slices of a spot, the second without it and the third with a part of it, in two objects."""
    spot, normal, mask = picture(seed, "spot"), picture(seed, "normal"), lesion_mask(seed)
    part = mask & (np.cumsum(mask).reshape(mask.shape) < mask.sum() // 2)
    uid = f"1.2.{seed}"
    objects = (
        dicom([normal, np.where(part, spot, normal)], uid=f"{uid}.1", study=uid, patient=f"secret-{seed}"),
        dicom([spot], uid=f"{uid}.2", study=uid, patient=f"secret-{seed}"),
    )
    masks = (np.zeros_like(mask), part, mask)
    images = CaseImages(("a", "b"), objects, ("normal", "spot", "spot"), {}, masks)
    return Case(study=f"s{seed}", patient=f"p{seed}", label="spot", load=lambda: images)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = save_small(tmp_path_factory.mktemp("backbone") / "small", initializer_range=0.2)
    return replace(load_backbone(small_settings(folder, input_size_px=SIZE, batch_size=8)), id="small@0")


@pytest.fixture(scope="module")
def task(backbone: Backbone) -> Task:
    """A head that calls every picture a spot, for reasons of its own."""
    random = np.random.default_rng(5)
    width = 4 * backbone.dim
    head = LinearHead(
        task="shapes",
        labels=LABELS,
        weight=random.normal(0, 0.15, (len(LABELS), width)).astype(np.float32),
        bias=np.array([-9.0, 9.0, -9.0], np.float32),
        feature_mean=np.zeros(width, np.float32),
        feature_scale=np.ones(width, np.float32),
        temperature=9.0,
        backbone_id=backbone.id,
    )
    return Task(DEFINITION, head, {})


@pytest.fixture(scope="module")
def evaluated(task: Task, backbone: Backbone) -> EvaluatedMaps:
    wrong = replace(spot_case(900), label="bar")  # the head never says bar
    options = MapOptions(
        draws=100, deltas=(0.1, 0.02), rise_masks=12, faithfulness=CHEAP, command="similis evaluate explain shapes"
    )
    return evaluate_maps(task, [spot_case(1), wrong, spot_case(2), spot_case(3)], backbone, options)


class TestLocalisation:
    def test_a_map_that_is_the_lesion_has_the_best_figures(self) -> None:
        found = localise(LESION.astype(np.float32), LESION, BOX)
        assert found == pytest.approx({"pointing": 1.0, "energy": 1.0, "auroc": 1.0, "iou": 1.0})

    def test_its_reverse_has_the_worst(self) -> None:
        found = localise(1 - LESION.astype(np.float32), LESION, BOX)
        assert found == {"pointing": 0.0, "energy": 0.0, "auroc": 0.0, "iou": 0.0}

    def test_a_flat_map_has_what_chance_gives(self) -> None:
        share = LESION.sum() / (BOX.height * BOX.width)
        hits = [localise(np.ones((SIZE, SIZE), np.float32), LESION, BOX, seed=seed) for seed in range(60)]
        assert hits[0]["energy"] == pytest.approx(share)
        assert hits[0]["auroc"] == 0.5
        assert np.mean([one["pointing"] for one in hits]) < 0.2
        assert np.mean([one["iou"] for one in hits]) < 0.1

    def test_half_a_lesion_is_a_third_of_overlap(self) -> None:
        values = np.zeros((SIZE, SIZE), np.float32)
        places = np.flatnonzero(LESION)
        values.ravel()[places[: len(places) // 2]] = 2.0
        values[9, : len(places)] = 1.0
        found = localise(values, LESION, BOX)
        half = len(places) // 2
        assert found["iou"] == pytest.approx(half / (2 * len(places) - half))
        assert found["pointing"] == 1.0

    def test_what_a_map_says_of_the_bars_does_not_count(self) -> None:
        values = LESION.astype(np.float32)
        values[:8] = values[48:] = 5.0
        assert localise(values, LESION, BOX) == localise(LESION.astype(np.float32), LESION, BOX)


class TestInfidelity:
    """A model whose answer is a weighted sum of the pixels: what it loses with a square is known by hand."""

    weights = np.zeros((SIZE, SIZE), np.float32)
    weights[12:30, 20:40] = np.random.default_rng(1).random((18, 20), np.float32) / 1000

    def removed(self, fill: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Removals:
        def score(pixels: torch.Tensor) -> torch.Tensor:
            lost = (pixels.sum(dim=1) * torch.from_numpy(self.weights)).sum(dim=(1, 2))
            return torch.stack([1 - lost, lost], dim=1)

        return removals(score, torch.ones(3, SIZE, SIZE), 1, BOX, seed=5, count=40, fill=fill, batch_size=7)

    def test_squares_lie_in_the_frame_and_cost_what_they_hide(self) -> None:
        found = self.removed((1.0, 0.5, 0.0))
        assert found.side_px == 8
        assert found.corners.shape == (40, 2)
        assert (found.corners >= (BOX.top, BOX.left)).all()
        assert (found.corners + 8 <= (BOX.top + BOX.height, BOX.left + BOX.width)).all()
        lost = [1.5 * self.weights[row : row + 8, column : column + 8].sum() for row, column in found.corners]
        np.testing.assert_allclose(found.drops, lost, atol=1e-5)

    def test_a_map_that_tells_every_drop_has_none_at_any_scale_and_offset(self) -> None:
        found = self.removed()
        for told in (3 * self.weights, 0.01 * self.weights - 4):
            assert infidelity(told, found) == pytest.approx(0, abs=1e-4)

    def test_its_reverse_a_flat_map_and_one_from_elsewhere_tell_nothing(self) -> None:
        found = self.removed()
        assert infidelity(-self.weights, found) == 1.0
        assert infidelity(np.full((SIZE, SIZE), 0.3, np.float32), found) == pytest.approx(1.0)
        assert infidelity(random_map((SIZE, SIZE), 3), found) > 0.8

    def test_it_is_what_the_best_line_leaves_of_the_drops(self) -> None:
        corners = np.array([[8, 0], [8, 8], [16, 0], [16, 8]])
        values = np.zeros((SIZE, SIZE), np.float32)
        values[8, 8], values[16, 0], values[16, 8] = 1, 2, 3
        found = Removals(corners, 8, np.array([0.0, 0.1, 0.4, 0.3]))  # the best line: 0.02 + 0.12 sum
        left = np.array([0.0, 0.1, 0.4, 0.3]) - (0.02 + 0.12 * np.arange(4))
        assert infidelity(values, found) == pytest.approx((left**2).sum() / 0.1)
        assert np.isnan(infidelity(values, Removals(corners, 8, np.full(4, 0.2))))


class TestLesionFrames:
    def test_the_frame_with_most_of_the_lesion_is_taken(self) -> None:
        (found,) = lesion_frames([spot_case(4)], SIZE, PixelLimits())
        assert found.content == Letterbox(0, 0, SIZE, SIZE)
        assert found.area == pytest.approx(lesion_mask(4).mean(), rel=0.2)
        bright = letterboxed(found.frame, SIZE)
        assert bright[found.mask].mean() > bright[~found.mask].mean() + 0.3

    def test_a_mask_lies_where_the_frame_lies(self) -> None:
        pixels = np.zeros((30, 60), np.float32)
        pixels[5:15, 40:52] = 1.0
        mask = mask_on_input(pixels > 0, Frame(pixels, 1), SIZE)
        centre = ndimage.center_of_mass(mask)
        assert centre == pytest.approx(ndimage.center_of_mass(letterboxed(Frame(pixels, 1), SIZE)), abs=0.5)
        assert not mask[:14].any()

    def test_a_tiny_lesion_is_a_pixel_at_least(self) -> None:
        mask = np.zeros((400, 400), bool)
        mask[100, 100] = True
        found = mask_on_input(mask, Frame(mask.astype(np.float32), 1), SIZE)
        assert 1 <= found.sum() <= 4
        assert found[13:16, 13:16].any()

    def test_a_case_without_a_mask_is_refused(self) -> None:
        images = CaseImages(("a",), (png(picture(1, "normal")),), masks=(np.zeros((SIDE, SIDE), bool),))
        with pytest.raises(DatasetError, match="no lesion mask"):
            next(lesion_frames([Case("s", "p", "spot", lambda: images)], SIZE, PixelLimits()))


class TestMethods:
    def test_the_centre_prior_and_the_random_map_see_nothing(self) -> None:
        prior = centre_prior((SIZE, SIZE), BOX)
        assert prior.argmax() in (27 * SIZE + 27, 27 * SIZE + 28, 28 * SIZE + 27, 28 * SIZE + 28)
        assert np.array_equal(random_map((SIZE, SIZE), 1), random_map((SIZE, SIZE), 1))
        assert not np.array_equal(random_map((SIZE, SIZE), 1), random_map((SIZE, SIZE), 2))

    def test_grad_cam_is_the_gradient_weighted_sum_of_the_tokens(self, task: Task, backbone: Backbone) -> None:
        x = torch.from_numpy(np.random.default_rng(0).normal(size=(3, SIZE, SIZE)).astype(np.float32))
        head = TorchHead(task.head, backbone.device)
        with torch.inference_mode():  # as in the service
            found = grad_cam(explained(backbone), Request(x, head, 0, 2))
        # The same from the hidden states: w by hand.
        model = backbone.model
        output = model(pixel_values=x.clone().requires_grad_()[None], output_hidden_states=True)
        middle = model.layernorm(output.hidden_states[round(2 * 5 / 6)])
        patches = middle[:, 1:]
        joined = torch.cat([output.last_hidden_state[:, 0], middle[:, 0], patches.mean(1), patches.amax(1)], dim=1)
        (gradient,) = torch.autograd.grad(head.logits(joined)[0, 2], output.hidden_states[1])
        cam = (output.hidden_states[1][0, 1:] @ gradient[0, 1:].mean(dim=0)).clamp(min=0).detach().reshape(4, 4)
        assert found.shape == (SIZE, SIZE)
        assert found.max() > 0
        np.testing.assert_allclose(found[7::14, 7::14], _sampled(cam), rtol=1e-3, atol=1e-6)

    def test_all_methods_are_there_and_rise_can_be_left_out(self, backbone: Backbone) -> None:
        names = [method.name for method in compared_maps(backbone, deltas=(0.1, 0.05), rise_masks=9)]
        assert names == [
            "ViT-CX, delta 0.1", "ViT-CX, delta 0.05", "rollout", "legrad", "RISE, 9 masks", "grad-cam", CENTRE, RANDOM,
        ]  # fmt: skip
        assert not any("RISE" in method.name for method in compared_maps(backbone, deltas=(0.1,), rise_masks=0))


def _sampled(cam: torch.Tensor) -> np.ndarray:
    """The up-sampled map at the pixels that the test looks at."""
    full = torch.nn.functional.interpolate(cam[None, None], size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return full[0, 0, 7::14, 7::14].numpy()


def test_the_report_has_every_figure_of_every_method(evaluated: EvaluatedMaps, task: Task) -> None:
    report = evaluated.report
    assert (report.frames, report.patients, report.left_out) == (3, 3, 1)
    assert len(report.methods) == 8
    for method in report.methods:
        assert set(method.figures) == set(FIGURES)
        for name, estimate in method.figures.items():
            if name == "seed_stability":
                assert (estimate is None) == (method.method in ("rollout", "legrad", "grad-cam", CENTRE)), method.method
                assert estimate is None or -1 <= estimate.value <= 1
            else:
                assert estimate is not None, (method.method, name)
                assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    forwards = {method.method: method.forwards for method in report.methods}
    assert forwards["RISE, 12 masks"] == 13
    assert forwards[RANDOM] == 0
    assert report.ends["p_original"] > 0.5
    assert report.head_id == task.head.id
    assert report.beside_random.limit is None
    assert report.beside_random.statuses == {"unknown": 3}
    assert ExplainReport.model_validate_json(report.model_dump_json()) == report


def test_the_page_is_readable_and_names_no_patient(evaluated: EvaluatedMaps, tmp_path: Path) -> None:
    text = explain_markdown(evaluated.report, figure="explain.png")
    for words in (
        "Research use only", "phantom results", "rollout", "legrad", "random orders", "is not the best", "unknown",
        "similis evaluate explain shapes", "explain.png", "left out",
    ):  # fmt: skip
        assert words in text
    assert "Fewer than 10 patients" in text
    assert "Fewer than" not in explain_markdown(evaluated.report.model_copy(update={"patients": 10}))
    for before, line in pairwise(text.splitlines()):
        if before.startswith("|") and line.startswith("|"):
            assert before.count("|") == line.count("|"), line
    evaluated.write(tmp_path, text)
    assert {path.name for path in tmp_path.iterdir()} == {"explain.json", "explain.md", "explain.png", "overlays.png"}
    for name in ("explain.png", "overlays.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "explain.json").read_text())["frames"] == 3
    for path in tmp_path.iterdir():
        assert b"secret" not in path.read_bytes()


def test_the_same_seed_gives_the_same_report(task: Task, backbone: Backbone) -> None:
    options = MapOptions(draws=100, deltas=(0.1,), rise_masks=0, faithfulness=CHEAP)
    first, again = (evaluate_maps(task, [spot_case(1)], backbone, options) for _ in range(2))
    assert first == again


def test_a_head_that_is_always_wrong_has_nothing_to_explain(task: Task, backbone: Backbone) -> None:
    with pytest.raises(DatasetError, match="none of 1 frames"):
        evaluate_maps(task, [replace(spot_case(1), label="bar")], backbone, MapOptions(rise_masks=0))
    with pytest.raises(WeightsError, match="the backbone is other"):
        evaluate_maps(task, [spot_case(1)], replace(backbone, id="other"), MapOptions(rise_masks=0))


def test_it_is_told_where_another_method_is_better_and_how_clearly() -> None:
    random = np.random.default_rng(0)

    def frame(number: int) -> SimpleNamespace:
        def measured(**figures: float) -> SimpleNamespace:
            usual = dict.fromkeys(FIGURES, 0.5) | {"seed_stability": float("nan")}
            return SimpleNamespace(figures=usual | figures)

        noise = random.normal(0, 0.1)
        maps = {
            "ViT-CX": measured(pointing=1.0, deletion=0.30 + noise, energy=0.5),
            "rollout": measured(pointing=0.0, deletion=0.20 + noise, energy=0.5 + random.normal(0.001, 0.2)),
            "legrad": measured(pointing=1.0, deletion=0.25 + noise),
        }
        curves = SimpleNamespace(insertion_auc=0.4, deletion_auc=0.6)
        return SimpleNamespace(maps=maps, chance=(curves,), lesion=SimpleNamespace(patient=f"p{number}"))

    names = ["ViT-CX", "rollout", "legrad"]
    estimates = _estimates([frame(number) for number in range(12)], names, MapOptions(draws=200))
    found = {(one.figure, one.method): one for one in _better(estimates, names)}
    assert found["deletion", "rollout"].is_clear
    assert found["deletion", "rollout"].by.value == pytest.approx(0.1)  # lower deletion is better
    assert found["deletion", "legrad"].is_clear
    assert not any(figure == "pointing" for figure, _ in found)
    assert all(not one.is_clear for (figure, _), one in found.items() if figure == "energy")
    # Twelve hits of twelve are not certainty.
    pointing = estimates["ViT-CX", "pointing"]
    assert pointing is not None
    assert (pointing.value, pointing.high) == (1.0, 1.0)
    assert 0.7 < pointing.low < 0.8
    assert estimates["by chance", "deletion"].value == 0.6


class TestReference:
    def test_networks_of_the_same_build_share_nothing_but_it(self, task: Task, backbone: Backbone) -> None:
        (one, head), (again, _), (other, _) = (random_network(backbone, task.head, seed) for seed in (1, 1, 2))
        weights = [network.model.encoder.layer[0].mlp.fc1.weight for network in (one, again, other, backbone)]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])
        assert not torch.equal(weights[0], weights[3])
        assert one.model.config.to_dict() == backbone.model.config.to_dict()
        assert head.labels == task.head.labels
        read = np.abs(head.weight).max(axis=0).reshape(4, backbone.dim) > 0
        assert read.all(axis=1).tolist() == [True, False, True, False]  # class token, mean patch
        assert read.any(axis=1).tolist() == [True, False, True, False]
        assert one.id != backbone.id

    def test_it_leaves_torchs_own_random_numbers_alone(self, task: Task, backbone: Backbone) -> None:
        torch.manual_seed(3)
        expected = torch.rand(2)
        torch.manual_seed(3)
        random_network(backbone, task.head, 1)
        assert torch.equal(torch.rand(2), expected)

    def test_its_fast_forward_is_its_own(self, task: Task, backbone: Backbone) -> None:
        network, _ = random_network(backbone, task.head, 1)
        pixels = torch.randn((3, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            rows = encoder_forward(network)(pixels)
            torch.testing.assert_close(rows, explained(network).clean(pixels), rtol=1e-4, atol=1e-4)
        assert rows.shape[1] == 4 * backbone.dim

    def test_a_reference_holds_the_figures_of_each_case(self, task: Task, backbone: Backbone) -> None:
        cases = [spot_case(number) for number in range(3)]
        first, again = (range_reference(task, cases, backbone, images="three spots", seed=4) for _ in range(2))
        assert first == again
        assert first.n == 3
        assert first.head_id == task.head.id
        assert first.backbone_id == backbone.id
        assert len({one.range for one in first.maps}) == 3
        assert all(0 < one.range < 1 and -2 <= one.lead <= 2 for one in first.maps)
        assert first.limit is None  # too few to tell
        assert first.mode == "adaptive-float32"
        assert "batch_size" not in first.faithfulness
        assert "2 blocks of width 32, patch 14, input 56" in first.architecture
        assert first.parameters["delta"] == 0.1
        assert "secret" not in first.model_dump_json()

    def test_an_evaluation_judges_its_maps_by_it(
        self, task: Task, backbone: Backbone, evaluated: EvaluatedMaps
    ) -> None:
        made = range_reference(task, [spot_case(1)], backbone, images="a spot", faithfulness=CHEAP)
        leads = [RandomMap(lead=k / 100, range=0.01) for k in range(LEAST_MAPS)]
        kept = ExplainReference.of(leads, **made.model_dump(exclude={"format", "notice", "maps", "quantiles"}))

        def frame(lead: float, range_: float) -> SimpleNamespace:
            return SimpleNamespace(
                maps={"ViT-CX": SimpleNamespace(range=range_, faithfulness=SimpleNamespace(lead=lead))}
            )

        frames = [frame(0.18, 1.0), frame(0.19, 0.01), frame(0.5, 0.02), frame(0.5, 0.009)]
        known = replace(task, explain_reference=kept)
        judged = _judged(frames, "ViT-CX", known, Parameters(), CHEAP)
        figures = _reference_figures(frames, "ViT-CX", judged, known)
        assert figures.statuses == {"not-reliable": 2, "checked": 2}
        told = explain_markdown(evaluated.report.model_copy(update={"beside_random": figures}))
        assert "2 checked, 2 not reliable" in told
        assert "random networks" in told
        others = [
            _judged(frames, "ViT-CX", known, Parameters(delta=0.05), CHEAP),
            _judged(frames, "ViT-CX", known, Parameters(), FaithfulnessParameters()),
        ]
        for other in others:
            assert _reference_figures(frames, "ViT-CX", other, known).statuses == {"unknown": 4}


class SpotRecipe:
    """Spots as phantoms, one slice each."""

    task, version, labels, normal, sources = "shapes", 1, LABELS, "normal", ("a", "b")

    def study(self, seed: int, label: str, *, contrast: float = 4.0, source: str | None = None) -> LabelledStudy:
        mask = picture(seed % 1000, label) != picture(seed % 1000, "normal")
        data = dicom([picture(seed % 1000, label)], uid=f"1.2.{seed}.1", study=f"1.2.{seed}", patient="secret")
        return LabelledStudy(f"1.2.{seed}", f"v{seed}", source or "a", label, (data,), (label,), (mask,), {})

    def definition(self) -> dict[str, object]:
        return DEFINITION.model_dump(mode="json")


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_module, "recipe_of", lambda name: SpotRecipe())


class TestRequest:
    @pytest.mark.usefixtures("recipe")
    def test_only_fresh_lesions_are_asked_for(self, task: Task) -> None:
        cases = lesion_cases(ExplainRequest("shapes", studies=5), task)
        assert [case.label for case in cases] == ["spot", "bar", "spot", "bar", "spot"]
        first = int(cases[0].study.removeprefix("phantom-"))
        assert first > FIRST_EVALUATION_SEED + 99_999 * 10**7 + 10**7 > FIRST_TRAINING_SEED
        others, words = reference_cases(ExplainRequest("shapes", reference_maps=4), task)
        assert len(others) == 4
        assert "4 phantoms" in words
        assert not {case.study for case in cases} & {case.study for case in others}

    @pytest.mark.usefixtures("recipe")
    def test_an_unknown_source_is_refused(self, task: Task) -> None:
        with pytest.raises(ConfigurationError, match="no source c: a, b"):
            lesion_cases(ExplainRequest("shapes", source=("c",)), task)

    @pytest.mark.parametrize(
        ("wrong", "told"),
        [
            ({"studies": 0}, "--studies"),
            ({"deltas": (0.0,)}, "--delta"),
            ({"deltas": (0.1, 0.1)}, "--delta"),
            ({"seed": -1}, "--seed"),
            ({"folder": Path("x")}, "no effect without --reference-maps"),
            ({"labels": Path("x"), "reference_maps": 2}, "no effect without --from"),
            ({"draws": 3}, "--bootstraps"),
        ],
    )
    def test_senseless_options_are_refused(self, wrong: dict[str, object], told: str) -> None:
        with pytest.raises(ConfigurationError, match=told):
            ExplainRequest("shapes", **wrong).options()

    def test_the_command_is_told_without_paths(self) -> None:
        told = ExplainRequest("shapes", tasks_dir=Path("/home/someone"), seed=3).command()
        assert "--fill" not in told
        assert " --fill black " in ExplainRequest("shapes", fill="black").command()
        assert ExplainRequest("shapes", fill="black").options().fill == "black"
        assert told.startswith("similis evaluate explain shapes --tasks-dir FOLDER --studies 12")
        assert "someone" not in told


class TestCommand:
    @pytest.fixture
    def tasks(self, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder with the task as installed, its backbone set for all commands."""
        small = save_small(tmp_path / "small", initializer_range=0.2)
        settings = {"BACKBONE": str(small), "INPUT_SIZE_PX": str(SIZE), "DEVICE": "cpu", "PRECISION": "float32"}
        for name, value in settings.items():
            monkeypatch.setenv(f"SIMILIS_VISION__{name}", value)
        monkeypatch.setenv("COLUMNS", "200")
        folder = tmp_path / "tasks" / "shapes"
        folder.mkdir(parents=True)
        replace(task.head, backbone_id=backbone_id(TrainSettings().vision)).save(folder / "head.safetensors")
        (folder / "task.yaml").write_text(yaml.safe_dump(DEFINITION.model_dump(mode="json", exclude_none=True)))
        (folder / "model-card.json").write_text("{}")
        return tmp_path / "tasks"

    def run(self, *words: object, is_refused: bool = False) -> str:
        app = typer.Typer()
        app.add_typer(evaluate_app, name="evaluate")
        ran = CliRunner().invoke(app, ["evaluate", *map(str, words)], catch_exceptions=False)
        assert (ran.exit_code != 0) == is_refused, ran.output
        return ran.output

    @pytest.mark.usefixtures("recipe")
    def test_a_reference_is_kept_beside_the_head_and_then_used(self, tasks: Path, tmp_path: Path) -> None:
        told = self.run("explain", "shapes", "--tasks-dir", tasks, "--reference-maps", 2)
        assert "2 maps of random-weight networks: 19 are the fewest that tell" in told
        assert (tasks / "shapes" / REFERENCE_FILE).exists()
        out = tmp_path / "out"
        told = self.run(
            "explain", "shapes", "--tasks-dir", tasks, "--studies", 2, "--rise-masks", 0, "--delta", 0.1, "--out", out
        )
        assert "Research use only" in told
        report = ExplainReport.model_validate_json((out / "explain.json").read_bytes())
        assert report.beside_random.limit is None
        assert "2 maps" in report.beside_random.reference
        assert report.frames + report.left_out == 2
        assert report.command == (
            "similis evaluate explain shapes --tasks-dir FOLDER --studies 2 --contrast 4 --delta 0.1 --rise-masks 0 "
            "--mode auto --seed 0 --bootstraps 1000"
        )

    def test_the_name_of_a_task_alone_measures_its_head_as_before(self, tasks: Path) -> None:
        assert "--bootstraps" in self.run("shapes", "--help")
        assert "--rise-masks" not in self.run("shapes", "--help")
        assert "--rise-masks" in self.run("explain", "--help")
        for words in (("nothing", "--tasks-dir", tasks), ("--tasks-dir", tasks, "nothing")):
            with pytest.raises(ConfigurationError, match="live task nothing"):
                self.run(*words)


def test_a_lesion_frame_knows_its_area() -> None:
    assert LesionFrame("s", "p", "spot", Frame(np.zeros((4, 4), np.float32), 1), LESION, BOX).area == pytest.approx(
        LESION.sum() / (40 * SIZE)
    )
