"""Set a task's saliency maps beside others, on lesions known to the pixel.

fresh phantoms ─▶ frame with most of the lesion ─▶ maps ─▶ localisation, insertion, deletion ─▶ report and pictures
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.training.dataset.cases import Case, DatasetError
from services.training.explain_evaluation.compared_maps import compared_maps
from services.training.explain_evaluation.contact_sheet import contact_sheet
from services.training.explain_evaluation.lesion_frames import lesion_frames
from services.training.explain_evaluation.measured_maps import MeasuredFrame, measured_maps
from services.training.explain_evaluation.page import explain_page
from services.training.explain_evaluation.report import (
    FIGURES,
    LOWER_IS_BETTER,
    Better,
    ExplainReport,
    MethodFigures,
    ReferenceFigures,
)
from services.training.features.case_features import Progress
from services.training.measures.bootstrap import BOOTSTRAPS, Estimate, bootstrap, exact_share
from services.training.measures.scores import Ints
from shared.errors import WeightsError
from shared.events import Reliability
from shared.pixels import PixelLimits
from shared.saliency.faithfulness import FaithfulnessParameters
from shared.saliency.fills import FILLS, FillName
from shared.saliency.forwards import encoder_forward
from shared.saliency.heads import TorchHead
from shared.saliency.modes import ModeName, mode_of
from shared.saliency.reliability import Verdict, judge_map
from shared.saliency.vit_cx import METHOD, Parameters
from shared.vision.backbone import Backbone
from shared.vision.explain_reference import PASSING_SHARE
from shared.vision.tasks import Task

ON_SHEET = 10


@dataclass(frozen=True, slots=True)
class MapOptions:
    """How to measure.

    Attributes:
        seed: Of noise, random orders and bootstrap.
        draws: Bootstrap samples.
        deltas: Of ViT-CX; the first is the one that others are set beside.
        rise_masks: 0: without RISE.
        mode: How ViT-CX is run.
        fill: What stands where a mask of ViT-CX or RISE removes the image.
        faithfulness: How insertion and deletion are measured.
        command: Makes the report again, without paths.
    """

    seed: int = 0
    draws: int = BOOTSTRAPS
    deltas: tuple[float, ...] = (0.1, 0.05)
    rise_masks: int = 500
    mode: ModeName = "auto"
    fill: FillName = "mean"
    faithfulness: FaithfulnessParameters = field(default_factory=FaithfulnessParameters)
    command: str = "not stated"


@dataclass(frozen=True, slots=True)
class EvaluatedMaps:
    """A report and its pictures, PNG bytes."""

    report: ExplainReport
    page: bytes
    sheet: bytes

    def write(self, folder: Path, markdown: str) -> None:
        """`explain.json`, `explain.md`, `explain.png` and `overlays.png` in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "explain.json").write_text(self.report.model_dump_json(indent=1) + "\n", encoding="utf-8")
        (folder / "explain.md").write_text(markdown, encoding="utf-8")
        (folder / "explain.png").write_bytes(self.page)
        (folder / "overlays.png").write_bytes(self.sheet)


def evaluate_maps(
    task: Task,
    cases: Sequence[Case],
    backbone: Backbone,
    options: MapOptions,
    *,
    limits: PixelLimits | None = None,
    progress: Progress | None = None,
) -> EvaluatedMaps:
    """All figures of all methods. Blocks for minutes to hours; nothing is written.

    Args:
        task: The head.
        cases: Of findings, that training never saw, with exact masks.
        backbone: The head's.
        options: How to measure.
        limits: Of what is decoded.
        progress: Called after each frame.

    Raises:
        DatasetError: a case has no mask, or the head judges none of them right.
        WeightsError: the head does not read this backbone's features.
        NotExplainableError: a method makes no map of a frame.
    """
    if task.head.backbone_id != backbone.id:
        raise WeightsError(f"the head of {task.name} reads {task.head.backbone_id}, the backbone is {backbone.id}")
    fill = FILLS[options.fill]
    methods = compared_maps(
        backbone, deltas=options.deltas, rise_masks=options.rise_masks, mode=options.mode, fill=fill
    )
    frames, left_out = measured_maps(
        lesion_frames(cases, backbone.input_size_px, limits or PixelLimits()),
        TorchHead(task.head, backbone.device),
        encoder_forward(backbone),
        methods,
        parameters=options.faithfulness,
        device=backbone.device,
        seed=options.seed,
        total=len(cases),
        progress=progress,
    )
    if not frames:
        raise DatasetError(f"the head judges none of {left_out} frames right: there is no decision to explain")
    names = [method.name for method in methods]
    estimates = _estimates(frames, names, options)
    judged = _judged(frames, names[0], task, Parameters(delta=options.deltas[0], fill=fill), options.faithfulness)
    report = ExplainReport(
        task=task.name,
        title=task.definition.title,
        head_id=task.head.id,
        backbone_id=backbone.id,
        mode=mode_of(options.mode, backbone).name,
        frames=len(frames),
        patients=len({frame.lesion.patient for frame in frames}),
        left_out=left_out,
        area=round(float(np.median([frame.lesion.area for frame in frames])), 4),
        chance={figure: estimates["by chance", figure] for figure in ("insertion", "deletion")},
        ends={
            name: round(float(np.mean([getattr(frame.maps[names[0]].faithfulness, name) for frame in frames])), 4)
            for name in ("p_original", "p_blurred", "p_filled")
        },
        methods=tuple(
            MethodFigures(
                method=name,
                figures={figure: estimates[name, figure] for figure in FIGURES},
                forwards=round(float(np.mean([frame.maps[name].made.forwards for frame in frames])), 1),
            )
            for name in names
        ),
        better=_better(estimates, names),
        beside_random=_reference_figures(frames, names[0], judged, task),
        # As JSON gives it back: lists, not tuples.
        faithfulness=json.loads(json.dumps(asdict(options.faithfulness))),
        seed=options.seed,
        bootstraps=options.draws,
        command=options.command,
    )
    page = explain_page(report, frames, title=task.name)
    sheet = contact_sheet(frames[:ON_SHEET], names[0], judged[:ON_SHEET], title=task.name)
    return EvaluatedMaps(report, page, sheet)


def _estimates(
    frames: Sequence[MeasuredFrame], names: Sequence[str], options: MapOptions
) -> dict[tuple[str, str], Estimate | None]:
    """Means by (method, figure), and by (method, "figure: gain") over the first method; patients drawn together."""
    first = names[0]
    values: dict[tuple[str, str], NDArray[np.float64]] = {
        (name, figure): np.array([frame.maps[name].figures[figure] for frame in frames])
        for name in names
        for figure in FIGURES
    }
    for figure in FIGURES:
        sign = -1.0 if figure in LOWER_IS_BETTER else 1.0
        for name in names[1:]:
            values[name, f"{figure}: gain"] = sign * (values[name, figure] - values[first, figure])
    for figure in ("insertion", "deletion"):
        areas = [[getattr(curves, f"{figure}_auc") for curves in frame.chance] for frame in frames]
        values["by chance", figure] = np.mean(areas, axis=1)
    keys = {f"{name}|{figure}": (name, figure) for name, figure in values}

    def means(rows: Ints) -> Mapping[str, float]:
        return {text: float(values[key][rows].mean()) for text, key in keys.items()}

    patients = np.array([frame.lesion.patient for frame in frames])
    drawn = bootstrap(means, patients, draws=options.draws, seed=options.seed)
    found = {key: drawn[text] for text, key in keys.items()}
    for name in names:
        hits = values[name, "pointing"]
        if hits.all() or not hits.any():
            # Resampling equal values shows no spread: as if as many patients were all hits, or all misses.
            count = len(np.unique(patients))
            found[name, "pointing"] = exact_share(count if hits.all() else 0, count)
    return found


def _better(estimates: Mapping[tuple[str, str], Estimate | None], names: Sequence[str]) -> tuple[Better, ...]:
    """The best method of each figure at which that is not the first, and all that are clearly better."""
    found = []
    for figure in FIGURES:
        gains = [(name, gain) for name in names[1:] if (gain := estimates[name, f"{figure}: gain"]) is not None]
        above = sorted(((name, gain) for name, gain in gains if gain.value > 0), key=lambda pair: -pair[1].value)
        found += [
            Better(figure=figure, method=name, by=gain, is_clear=gain.low > 0)
            for place, (name, gain) in enumerate(above)
            if place == 0 or gain.low > 0
        ]
    return tuple(found)


def _judged(
    frames: Sequence[MeasuredFrame], name: str, task: Task, parameters: Parameters, measured_by: FaithfulnessParameters
) -> list[Verdict]:
    return [
        judge_map(
            frame.maps[name].faithfulness.lead,
            frame.maps[name].range,
            task.explain_reference,
            head_id=task.head.id,
            method=METHOD,
            parameters=asdict(parameters),
            faithfulness=asdict(measured_by),
        )
        for frame in frames
    ]


def _reference_figures(
    frames: Sequence[MeasuredFrame], name: str, judged: Sequence[Verdict], task: Task
) -> ReferenceFigures:
    kept = task.explain_reference
    return ReferenceFigures(
        leads=tuple(sorted(round(frame.maps[name].faithfulness.lead, 4) for frame in frames)),
        ranges=tuple(sorted(round(frame.maps[name].range, 4) for frame in frames)),
        limit=None if judged[0].limit is None else round(judged[0].limit, 4),
        statuses=dict(Counter(one.reliability.value for one in judged)),
        reference=judged[0].reason
        if kept is None or judged[0].reliability is Reliability.UNKNOWN
        else f"as at most {PASSING_SHARE:.0%} of random networks' maps do, by {kept.n} of them ({kept.weights})",
    )
