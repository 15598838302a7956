"""The deletion and insertion games on one image, see `faithfulness`: parameters, orders of pixels, curves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d, pad

from shared.saliency.heads import Scorer
from shared.saliency.maps import finite
from shared.vision.transform import Letterbox

Floats = NDArray[np.float32]
Ranks = NDArray[np.int64]

CHEAP: Final = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 0.8, 1.0)
"""Denser where few pixels are changed: there a lesion is gone, or all there."""


@dataclass(frozen=True, slots=True)
class FaithfulnessParameters:
    """What the definition leaves open. By default 39 forward passes, about as many as a ViT-CX map takes.

    Attributes:
        shares: Of the frame's pixels changed, rising from 0 to 1; p_c is asked at each.
        fill: Deletion's substrate, per channel, in normalised pixel units; 0 is the mean colour of ImageNet.
        blur: Insertion's substrate: standard deviation of a Gaussian over the frame, as a share of its longer side.
            The authors' kernel is about .015 wide at 224, which left up to .74 of p_c on eight phantom frames; .05
            left none (docs/explanations.md).
        random_orders: k; the chance figures are the mean of so many.
        cell_px: Side of the cells that random orders move.
        batch_size: Images in one forward pass. It does not change the result.

    Raises:
        ValueError: a value is out of range.
    """

    shares: tuple[float, ...] = CHEAP
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0)
    blur: float = 0.05
    random_orders: int = 2
    cell_px: int = 14
    batch_size: int = 8

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in zip(self.shares, self.shares[1:], strict=False))
        if len(self.shares) < 2 or self.shares[0] != 0.0 or self.shares[-1] != 1.0 or not rising:
            raise ValueError(f"shares must rise from 0 to 1, not {self.shares}")
        if not (self.blur > 0 and self.random_orders >= 1 and self.cell_px >= 1 and self.batch_size >= 1):
            raise ValueError("blur must be positive; random_orders, cell_px and batch_size at least 1")

    @property
    def forwards(self) -> int:
        """Images that go through the model for one map: both ends of both curves are shared by all orders."""
        return 2 * (len(self.shares) - 2) * (1 + self.random_orders) + 3


def equal_shares(pixels: int, step: int) -> tuple[float, ...]:
    """The shares of steps of `step` pixels, as the authors take."""
    return (*(done / pixels for done in range(0, pixels, step)), 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """p_c along one order of the pixels.

    Attributes:
        shares: (S,) changed so far, the counts of pixels rounded.
        deletion: (S,)
        insertion: (S,)
    """

    shares: NDArray[np.float64]
    deletion: NDArray[np.float64]
    insertion: NDArray[np.float64]

    @property
    def deletion_auc(self) -> float:
        """Area under deletion, 0 to 1: the lower, the better the order."""
        return float(np.trapezoid(self.deletion, self.shares))

    @property
    def insertion_auc(self) -> float:
        """Area under insertion, 0 to 1: the higher, the better the order."""
        return float(np.trapezoid(self.insertion, self.shares))


class PixelGames:
    """Both games on one image; as many orders as wanted share the ends of the curves."""

    def __init__(
        self,
        scorer: Scorer,
        x: Tensor,
        target: int,
        *,
        content: Letterbox | None = None,
        parameters: FaithfulnessParameters | None = None,
    ) -> None:
        """Three images through the model.

        Args:
            scorer: Of the model that is explained.
            x: (3, H, W), normalised, on the scorer's device.
            target: The explained class c.
            content: Where the frame lies in x; None: everywhere.
            parameters: By default the cheap ones.

        Raises:
            NotExplainableError: a score is not finite.
        """
        self.parameters = parameters or FaithfulnessParameters()
        self._scorer, self._x, self._target = scorer, x, target
        self.content = content or Letterbox(0, 0, x.shape[1], x.shape[2])
        box = self.content
        self._rows, self._columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
        frame = x[:, self._rows, self._columns]
        self._filled, self._blurred = x.clone(), x.clone()
        self._filled[:, self._rows, self._columns] = x.new_tensor(self.parameters.fill)[:, None, None]
        blurred = gaussian_blurred(frame, self.parameters.blur * max(box.height, box.width))
        self._blurred[:, self._rows, self._columns] = blurred
        pixels = box.height * box.width
        self._counts = [round(share * pixels) for share in self.parameters.shares]
        ends = self._scores(iter((x, self._blurred, self._filled)))
        self.p_original, self.p_blurred, self.p_filled = (float(value) for value in ends)

    def play(self, orders: Sequence[Ranks]) -> list[Curves]:
        """The curves of orders, each (h, w) ranks of the frame's pixels, 0 the first to change.

        Raises:
            NotExplainableError: a score is not finite.
        """
        inner = self._counts[1:-1]
        found = self._scores(self._images(orders, inner)).reshape(len(orders), 2, len(inner))
        shares = np.array(self._counts) / self._counts[-1]
        return [
            Curves(
                shares,
                np.concatenate([[self.p_original], deletion, [self.p_filled]]),
                np.concatenate([[self.p_blurred], insertion, [self.p_original]]),
            )
            for deletion, insertion in found
        ]

    def order_of(self, values: Floats, seed: int) -> Ranks:
        """(h, w) ranks of the frame's pixels by a map (H, W), the highest first; equal ones in random order.

        Raises:
            ValueError: the map is of another size than the image, or not finite.
        """
        if values.shape != tuple(self._x.shape[1:]) or not np.isfinite(values).all():
            raise ValueError(f"a map of {values.shape}, finite or not, does not fit an image of {self._x.shape[1:]}")
        return ranked(values[self._rows, self._columns], np.random.default_rng(seed))

    def random_orders(self, seed: int) -> list[Ranks]:
        """k orders that know nothing of the image, in whole cells."""
        random, cell = np.random.default_rng([seed, 1]), self.parameters.cell_px
        height, width = self.content.height, self.content.width
        rows, columns = np.arange(height) // cell, np.arange(width) // cell
        grid = (rows[-1] + 1, columns[-1] + 1)
        return [
            ranked(random.random(grid).astype(np.float32)[np.ix_(rows, columns)], random)
            for _ in range(self.parameters.random_orders)
        ]

    def _images(self, orders: Sequence[Ranks], counts: Sequence[int]) -> Iterator[Tensor]:
        for ranks in orders:
            rank = torch.full(self._x.shape[1:], self._counts[-1], dtype=torch.int64)  # the bars never change
            rank[self._rows, self._columns] = torch.from_numpy(ranks)
            rank = rank.to(self._x.device)
            for before, after in ((self._x, self._filled), (self._blurred, self._x)):
                for count in counts:
                    yield torch.where(rank < count, after, before)

    @torch.inference_mode()
    def _scores(self, images: Iterator[Tensor]) -> NDArray[np.float64]:
        """p_c of images, in batches: only one batch of them is in memory."""
        found: list[float] = []
        while batch := [image for _, image in zip(range(self.parameters.batch_size), images, strict=False)]:
            found += finite(self._scorer(torch.stack(batch)))[:, self._target].double().tolist()
        return np.array(found)


def ranked(values: Floats, random: np.random.Generator) -> Ranks:
    """(h, w) ranks, 0 for the highest value; equal ones in random order."""
    flat = values.ravel()
    order = np.lexsort((random.random(flat.size), -flat))
    ranks = np.empty(flat.size, np.int64)
    ranks[order] = np.arange(flat.size)
    return ranks.reshape(values.shape)


def gaussian_blurred(frame: Tensor, sigma_px: float) -> Tensor:
    """A (C, H, W) image under a Gaussian cut at three standard deviations; beyond its edge the edge goes on."""
    radius = math.ceil(3 * sigma_px)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma_px) ** 2)
    kernel = (kernel / kernel.sum()).to(frame)
    channels = frame[:, None]
    channels = conv2d(pad(channels, (0, 0, radius, radius), mode="replicate"), kernel[None, None, :, None])
    return conv2d(pad(channels, (radius, radius, 0, 0), mode="replicate"), kernel[None, None, None, :])[:, 0]
