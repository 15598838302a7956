"""RISE, for comparison (Petsiuk, Das, Saenko: BMVC 2018, arXiv 1806.07421).

Random coarse grids of 0 and 1 (probability p1 of 1), up-sampled bilinearly with a random shift, mask the image;
the map is 1/(N p1) sum_i p_c(x M_i) M_i. It needs thousands of masks to be smooth.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from shared.saliency.forwards import ExplainedModel
from shared.saliency.maps import Request, SaliencyMap, chosen, finite

METHOD: Final = "rise"


@dataclass(frozen=True, slots=True)
class RiseParameters:
    """The paper's for ImageNet, but for the number of masks (4,000 there).

    Attributes:
        masks: N.
        cells: Side of the coarse grid.
        kept: p1, the probability that a cell is kept.
        fill: What stands where a mask removes the image, per channel, in normalised pixel units.
    """

    masks: int = 500
    cells: int = 7
    kept: float = 0.5
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0)


class Rise:
    """RISE of one image. `masked_queue` runs many at a time."""

    def __init__(
        self, model: ExplainedModel, request: Request, parameters: RiseParameters | None = None, *, mode: str = "exact"
    ) -> None:
        """One forward pass, for p(x)."""
        self._parameters, self._request, self._mode = parameters or RiseParameters(), request, mode
        p_x = finite(request.head(model.clean(request.x[None])))[0]
        self._c = chosen(p_x, request.target)
        self._probability = float(p_x[self._c])
        self._random = np.random.default_rng(request.seed)
        self._sum = torch.zeros(request.x.shape[1:], dtype=torch.float64, device=request.x.device)
        self._scores: list[Tensor] = []
        self._pending: list[Tensor] = []
        self._fill = request.x.new_tensor(self._parameters.fill)[:, None, None]
        self._made = 0

    @property
    def waiting(self) -> int:
        """Images that can be run now."""
        return self._parameters.masks - self._made

    def images(self, count: int) -> Tensor:
        """x M_i for the next `count` masks, float32 (count, 3, H, W)."""
        masks = torch.stack([self._mask() for _ in range(count)]).to(self._request.x.device)
        self._made += count
        self._pending.append(masks)
        kept = masks[:, None]
        return self._request.x * kept + self._fill * (1.0 - kept)

    def take(self, rows: Tensor) -> None:
        """The scores of what `images` gave first."""
        scores, masks = finite(self._request.head(rows))[:, self._c], self._pending.pop(0)
        self._scores.append(scores)
        self._sum += torch.tensordot(scores.double(), masks.double(), dims=1)

    def result(self) -> SaliencyMap:
        """The map, once all scores were taken."""
        count = self._parameters.masks
        return SaliencyMap(
            values=(self._sum / count / self._parameters.kept).float().cpu().numpy(),
            method=METHOD,
            mode=self._mode,
            seed=self._request.seed,
            target=self._c,
            probability=self._probability,
            forwards=1 + count,
            scores=torch.cat(self._scores).cpu().numpy(),
            facts=asdict(self._parameters),
        )

    def _mask(self) -> Tensor:
        """(H, W) in [0, 1]: a coarse grid one cell larger than the image, cut out at a random place."""
        cells, (height, width) = self._parameters.cells, self._sum.shape
        cell_h, cell_w = -(-height // cells), -(-width // cells)
        grid = torch.from_numpy((self._random.random((cells, cells)) < self._parameters.kept).astype(np.float32))
        size = ((cells + 1) * cell_h, (cells + 1) * cell_w)
        full = interpolate(grid[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        top, left = int(self._random.integers(cell_h)), int(self._random.integers(cell_w))
        return full[top : top + height, left : left + width]
