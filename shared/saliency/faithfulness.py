"""Insertion and deletion: does the probability follow the map's order? (Petsiuk, Das, Saenko: RISE, BMVC 2018)

    deletion     pixels go in the map's order, the strongest first: a faithful map makes p_c fall early
    insertion    pixels come into the blurred image in the same order: a faithful map makes p_c rise early

Each figure is the area under p_c over the share of pixels changed. It is worth nothing alone: a head that is sure of
everything has a high insertion whatever the map. So the same figures of random orders stand beside it.

Differences from the authors' code: the steps are a choice (theirs are equal ones of one row of pixels, `equal_shares`);
only the frame's own pixels count, the bars of the letterbox stay as they are; pixels that the map holds equal come
in random order, not by rows; random orders move whole cells, as maps from patches do, not single pixels, since salt
and pepper upsets a model for reasons of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from shared.saliency.faithfulness_games import Curves, FaithfulnessParameters, Floats, PixelGames
from shared.saliency.heads import Scorer
from shared.vision.transform import Letterbox

__all__ = [
    "Curves",
    "Faithfulness",
    "FaithfulnessParameters",
    "PixelGames",
    "Scorer",
    "faithfulness_of",
    "measure_faithfulness",
]


@dataclass(frozen=True, slots=True, eq=False)
class Faithfulness:
    """Both figures of a map beside those of chance.

    Attributes:
        insertion: Area under insertion in the map's order.
        deletion: Area under deletion.
        insertion_by_chance: The same of random orders, mean of k.
        deletion_by_chance: Likewise.
        p_original: p_c of the image; insertion ends there.
        p_blurred: p_c of the blurred image; insertion starts there. Near p_original, insertion says little.
        p_filled: p_c with every pixel replaced; deletion ends there.
        curves: Of the map's order.
        seed: Of the random orders.
        parameters: How it was measured.
    """

    insertion: float
    deletion: float
    insertion_by_chance: float
    deletion_by_chance: float
    p_original: float
    p_blurred: float
    p_filled: float
    seed: int
    curves: Curves
    parameters: FaithfulnessParameters = field(default_factory=FaithfulnessParameters)

    @property
    def is_better_than_chance(self) -> bool:
        """Whether both figures are on the good side of the random orders'."""
        return self.insertion > self.insertion_by_chance and self.deletion < self.deletion_by_chance

    @property
    def lead(self) -> float:
        """Over chance, -2 to 2: by how much insertion is above that of random orders, plus deletion below theirs."""
        return self.insertion - self.insertion_by_chance + self.deletion_by_chance - self.deletion

    def facts(self) -> dict[str, Any]:
        """Ready for JSON."""
        names = ("insertion", "deletion", "insertion_by_chance", "deletion_by_chance")
        ends = ("p_original", "p_blurred", "p_filled")
        return {
            **{name: round(float(getattr(self, name)), 4) for name in (*names, *ends)},
            "is_better_than_chance": self.is_better_than_chance,
            "seed": self.seed,
            "forwards": self.parameters.forwards,
            **asdict(self.parameters),
        }


def measure_faithfulness(
    scorer: Scorer,
    x: Tensor,
    values: Floats,
    target: int,
    *,
    seed: int,
    content: Letterbox | None = None,
    parameters: FaithfulnessParameters | None = None,
) -> Faithfulness:
    """Insertion and deletion of a map, beside chance. The same arguments give the same figures.

    Args:
        scorer: Of the model that is explained; its fast forward will do.
        x: (3, H, W), normalised, on the scorer's device.
        values: (H, W), the map; only its order counts.
        target: The class that it explains.
        seed: Of the random orders, such as the map's own.
        content: Where the frame lies in x; None: everywhere.
        parameters: By default the cheap ones.

    Raises:
        NotExplainableError: a score is not finite.
        ValueError: the map is of another size than x, or not finite.
    """
    games = PixelGames(scorer, x, target, content=content, parameters=parameters)
    return faithfulness_of(games, values, seed)


def faithfulness_of(
    games: PixelGames, values: Floats, seed: int, chance: Sequence[Curves] | None = None
) -> Faithfulness:
    """As `measure_faithfulness`, of one of several maps of the same image.

    Args:
        games: Of the image.
        values: (H, W), the map.
        seed: Of the random orders.
        chance: Their curves, where they are known already: they do not depend on the map.
    """
    orders = [games.order_of(values, seed), *(games.random_orders(seed) if chance is None else ())]
    own, *played = games.play(orders)
    by_chance = played if chance is None else chance
    return Faithfulness(
        insertion=own.insertion_auc,
        deletion=own.deletion_auc,
        insertion_by_chance=float(np.mean([curves.insertion_auc for curves in by_chance])),
        deletion_by_chance=float(np.mean([curves.deletion_auc for curves in by_chance])),
        p_original=games.p_original,
        p_blurred=games.p_blurred,
        p_filled=games.p_filled,
        seed=seed,
        curves=own,
        parameters=games.parameters,
    )
