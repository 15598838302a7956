"""Train a task: nothing goes live, a candidate comes of it.

encode ─▶ refuse leaks ─▶ fit (training) ─▶ calibrate ─▶ measure (test, held out) ─▶ candidate
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import yaml

from services.training.card.curves import card_curves
from services.training.card.describe import Described, card_of
from services.training.card.figures import card_figures
from services.training.card.model_card import ModelCard
from services.training.dataset.cases import SPLITS, Case, Dataset, SplitName
from services.training.dataset.leakage import Leak, find_leaks, refuse_leaks, without_leaks
from services.training.dataset.splits import check_parts, split_cases
from services.training.dataset.training_objects import TRAINING_OBJECTS_FILE, as_text, objects_of
from services.training.features.case_features import CaseEncoder, CaseFeatures, Encoder, Progress, frame_choice
from services.training.fit.calibration import operating_point
from services.training.fit.head import fit_head
from services.training.fit.linear_probe import case_classes, case_logits
from services.training.fit.neighbours import fit_neighbours
from services.training.fit.task_space import fit_projection
from services.training.fit.unfamiliar import fit_familiarity, study_distance
from services.training.train_options import TrainOptions
from services.training.versions import CARD_FILE, DEFINITION_FILE, HEAD_FILE, MARKDOWN_FILE
from shared.pixels import PixelLimits
from shared.vision.curves import CURVES_FILE, Curves
from shared.vision.familiarity import limit_of
from shared.vision.heads import LinearHead
from shared.vision.tasks import TaskDefinition

_STEPS: Final = 4


@dataclass(frozen=True, slots=True)
class Trained:
    """A candidate, in memory.

    Attributes:
        figures: PNG bytes by file name.
        training_objects: See `training_objects.objects_of`; empty: they are not kept.
        curves: What the figures show, as numbers.
    """

    definition: TaskDefinition
    head: LinearHead
    card: ModelCard
    figures: Mapping[str, bytes]
    training_objects: tuple[str, ...] = ()
    curves: Curves | None = None

    def write(self, folder: Path) -> None:
        """Write the task's files into `folder`."""
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        self.head.save(folder / HEAD_FILE)
        (folder / DEFINITION_FILE).write_bytes(_definition_bytes(self.definition))
        (folder / CARD_FILE).write_text(self.card.model_dump_json(indent=1) + "\n", encoding="utf-8")
        (folder / MARKDOWN_FILE).write_text(self.card.markdown(), encoding="utf-8")
        if self.training_objects:
            (folder / TRAINING_OBJECTS_FILE).write_text(as_text(self.training_objects), encoding="ascii")
        if self.curves is not None:
            (folder / CURVES_FILE).write_text(self.curves.model_dump_json(indent=1) + "\n", encoding="utf-8")
        for name, data in self.figures.items():
            (folder / "figures" / name).write_bytes(data)


def train_task(
    definition: TaskDefinition,
    dataset: Dataset,
    backbone: Encoder,
    options: TrainOptions,
    *,
    held_out: Mapping[str, Sequence[Case]] | None = None,
    cache_dir: Path | None = None,
    limits: PixelLimits | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Fit, calibrate and measure a head. Nothing is written but the cache. Blocks for minutes.

    Args:
        definition: The task; its limits are chosen anew.
        dataset: Labelled cases.
        backbone: Frozen.
        options: How to train.
        held_out: More cases to measure on, by title: a source that training never saw.
        cache_dir: Where features are kept; None: nowhere.
        limits: Of what is decoded.
        progress: Called as work goes on.

    Raises:
        DatasetError: the cases cannot train a head, or leak between splits.
        WeightsError: a fitted value is not finite.
    """
    labels = tuple(entry.label for entry in definition.classes)
    finding = np.array([entry.is_finding for entry in definition.classes], np.bool_)

    choose = frame_choice(definition)

    def step(done: int) -> None:
        if progress:
            progress("fitting and measuring", done, _STEPS)

    drawn, how = split_cases(dataset.cases, options.seed)
    encoder = CaseEncoder(backbone, cache_dir, limits, keep_patches=dataset.has_masks)
    parts, leaks, moved = _without_leaks(
        {name: encoder.encode(drawn[name], choose=choose, title=name, progress=progress) for name in SPLITS},
        drop_duplicates=options.drop_duplicates,
    )
    step(0)
    fitted = fit_head(
        parts,
        task=definition.name,
        labels=labels,
        finding=finding,
        backbone_id=backbone.id,
        grouping=options.grouped_by,
        seed=options.seed,
        fitted_frames=options.fitted_frames,
        cross_fitted=options.cross_fitted,
    )
    parts, probe, scores, classes = fitted.parts, fitted.probe, fitted.scores, fitted.classes
    training, calibration = parts["training"], parts["calibration"]
    step(1)
    reader = CaseEncoder(backbone, cache_dir, limits, lens=probe.head.lens)
    elsewhere = {
        title: reader.encode(cases, choose=choose, title=title, progress=progress)
        for title, cases in (held_out or {}).items()
    }
    neighbours = fit_neighbours(training, labels, finding, options.seed)
    space = fit_projection(training, probe.rows, labels, probe.head, finding, options.seed)
    step(2)
    head = replace(
        fitted.head,
        projection=space.projection,
        familiarity=fit_familiarity(probe.head, probe.rows.joined),
    )
    probabilities = head.probabilities(scores + np.where(finding, 0.0, fitted.calibration.offset))
    point = operating_point(probabilities, classes, finding, options.aim, options.target)
    distances = [study_distance(head, case) for case in calibration]
    definition = definition.model_copy(
        update={
            "abstain_below": point.abstain_below,
            "ood_distance_above": round(limit_of(distances), 4),
        }
    )
    card = card_of(
        Described(
            definition=definition,
            definition_sha256=hashlib.sha256(_definition_bytes(definition)).hexdigest(),
            head=head,
            kind=dataset.kind,
            description=dataset.description,
            patients_known=dataset.patients_known,
            split=how,
            parts=parts,
            leaks=leaks,
            moved=moved,
            held_out=elsewhere,
            probe=probe,
            neighbours=neighbours,
            space=space,
            calibration=fitted.calibration,
            scores=scores,
            classes=classes,
            point=point,
            options=options,
        )
    )
    step(3)
    test = parts["test"]
    probabilities, truth = head.probabilities(case_logits(head, test, finding)), case_classes(test, labels)
    figures = card_figures(probabilities, truth, labels, f"{definition.name}, test")
    curves = card_curves(head.id, probabilities, truth, labels)
    step(4)
    objects = () if dataset.kind == "phantom" else objects_of(parts)
    return Trained(definition, head, card, figures, objects, curves)


def _without_leaks(
    parts: dict[SplitName, list[CaseFeatures]], *, drop_duplicates: bool
) -> tuple[dict[SplitName, list[CaseFeatures]], list[Leak], int]:
    leaks = find_leaks(parts)
    if not drop_duplicates:
        refuse_leaks(leaks)
        return parts, leaks, 0
    parts, moved = without_leaks(parts, leaks)
    check_parts({name: [features.case for features in cases] for name, cases in parts.items()})
    return parts, leaks, moved


def _definition_bytes(definition: TaskDefinition) -> bytes:
    values = definition.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()
