"""Phantom recipes by task. Each is imported when it is asked for: some read large templates."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from services.training.phantoms.recipe import PhantomRecipe

_RECIPES: Final = {
    "brain-mr": "services.training.phantoms.brain_mr:BrainMr",
    "lung-ct": "services.training.phantoms.lung_ct:LungCt",
    "blood-smear": "services.training.phantoms.blood_smear:BloodSmear",
    "retina-fundus": "services.training.phantoms.retina_fundus:RetinaFundus",
}

NAMES: Final = tuple(_RECIPES)
"""Tasks that have a phantom recipe."""


def recipe(name: str) -> PhantomRecipe:
    """The phantom recipe of the task `name`.

    Raises:
        ValueError: there is none.
    """
    if name not in _RECIPES:
        raise ValueError(f"no phantom recipe {name!r}: there are {', '.join(NAMES)}")
    module, attribute = _RECIPES[name].split(":")
    made: PhantomRecipe = getattr(import_module(module), attribute)()
    return made
