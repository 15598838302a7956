"""A phantom recipe's virtual subjects as cases. Research use only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.training.dataset.cases import Case, CaseImages, Dataset, DatasetError
from services.training.phantoms.recipe import PhantomRecipe

FIRST_TRAINING_SEED: Final = 10**12  # above every seed that `similis phantom` uses: a demo study is no training study
_SEEDS_A_RUN: Final = 10**7
_HELD_OUT: Final = 9 * 10**6  # within a run's seeds: subjects on sources that training never saw


def phantom_dataset(
    recipe: PhantomRecipe, *, subjects: int, seed: int, contrast: float = 4.0, hold_out: Sequence[str] = ()
) -> Dataset:
    """Subjects on the sources that are not held out, classes and sources in turn.

    Raises:
        DatasetError: there are too few subjects, or no source is left.
    """
    if not 10 * len(recipe.labels) <= subjects < _HELD_OUT:
        raise DatasetError(f"a phantom training needs at least {10 * len(recipe.labels)} subjects")
    if unknown := set(hold_out) - set(recipe.sources):
        raise DatasetError(f"{recipe.task} has no source {', '.join(sorted(unknown))}: {', '.join(recipe.sources)}")
    sources = [source for source in recipe.sources if source not in hold_out]
    if not sources:
        raise DatasetError("every source is held out: nothing is left to train on")
    first = FIRST_TRAINING_SEED + seed * _SEEDS_A_RUN
    return Dataset(
        phantom_cases(recipe, range(first, first + subjects), contrast, sources),
        "phantom",
        f"phantom recipe {recipe.task} {recipe.version}, contrast {contrast:g}, on {', '.join(sources)}",
        patients_known=True,
        has_masks=True,
    )


def held_out_cases(
    recipe: PhantomRecipe, source: str, *, subjects: int, seed: int, contrast: float
) -> tuple[Case, ...]:
    """Fresh subjects on one source."""
    first = FIRST_TRAINING_SEED + seed * _SEEDS_A_RUN + _HELD_OUT
    return phantom_cases(recipe, range(first, first + subjects), contrast, [source])


def phantom_cases(
    recipe: PhantomRecipe, seeds: range, contrast: float, sources: Sequence[str] = ()
) -> tuple[Case, ...]:
    """One case for each seed, made when its images are read; classes in turn, then sources in turn.

    Args:
        recipe: The recipe.
        seeds: The virtual subjects.
        contrast: Of the lesions.
        sources: What to build on; empty: the recipe's own choice for each seed.
    """
    return tuple(
        _case(
            recipe,
            seed,
            recipe.labels[k % len(recipe.labels)],
            contrast,
            sources[k // len(recipe.labels) % len(sources)] if sources else None,
        )
        for k, seed in enumerate(seeds)
    )


def _case(recipe: PhantomRecipe, seed: int, label: str, contrast: float, source: str | None) -> Case:
    def load() -> CaseImages:
        study = recipe.study(seed, label, contrast=contrast, source=source)
        names = tuple(f"{study.study_id}/{number}" for number in range(1, len(study.objects) + 1))
        return CaseImages(names, study.objects, study.frame_labels, study.subgroup, study.masks)

    facts = f"{recipe.task} {recipe.version} {seed} {label} {contrast!r} {source or ''}"
    return Case(
        study=f"phantom-{seed}",
        patient=f"phantom-{seed}",
        label=label,
        load=load,
        source=source or "",
        identity=facts,
    )
