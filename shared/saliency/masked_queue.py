"""One queue of forward passes for the masked images of many images, of whatever studies.

The next image is looked at only when the ones at hand no longer fill a batch, so that what is in memory does
not grow with the number of images: one batch of masked images, and a feature grid or two.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from shared.errors import NotExplainableError
from shared.saliency.forwards import Forward
from shared.saliency.maps import Outcome, SaliencyMap


class Masked(Protocol):
    """A method's work on one image: images to run, rows to take, at last a map. See `vit_cx.ViTCX`."""

    @property
    def waiting(self) -> int:
        """Images that can be run now. 0 once all rows were taken means that the map is there."""

    def images(self, count: int) -> Tensor:
        """(count, 3, H, W): the next `count` of them."""

    def take(self, rows: Tensor) -> None:
        """Take the feature rows of the images that `images` gave first. More images may wait then.

        Raises:
            NotExplainableError: they lead to no map.
        """

    def result(self) -> SaliencyMap:
        """The map, once all rows were taken."""


Start = Callable[[], Masked]
"""Begins the work on one image, with its clean forward pass; raises NotExplainableError."""


def run_masked(
    upcoming: Callable[[], Start | None],
    forward: Forward,
    *,
    batch_size: int,
    progress: Callable[[], None] = lambda: None,
) -> Iterator[Outcome]:
    """Run masked images until there are none, in batches filled across images.

    Args:
        upcoming: The next image, or None if there is none now; asked when there is room for one.
        forward: Runs a batch of masked images.
        batch_size: Images in a batch.
        progress: Called after each forward pass; what it raises ends the run.

    Yields:
        The outcomes, in the order of `upcoming`, as soon as they are there.
    """
    queue: deque[_Place] = deque()
    while True:
        while sum(place.waiting for place in queue) < batch_size and (start := upcoming()) is not None:
            queue.append(_Place(start))
            progress()
        if not queue:
            return
        if _ran(queue, forward, batch_size):
            progress()
        while queue and queue[0].waiting == 0:
            yield queue.popleft().outcome()


class _Place:
    """An image in the queue: its work, or why there is none."""

    @torch.inference_mode()
    def __init__(self, start: Start) -> None:
        self._state: Masked | NotExplainableError
        try:
            self._state = start()
        except NotExplainableError as error:
            self._state = error

    @property
    def waiting(self) -> int:
        return 0 if isinstance(self._state, NotExplainableError) else self._state.waiting

    def images(self, count: int) -> Tensor:
        assert not isinstance(self._state, NotExplainableError)
        return self._state.images(count)

    def take(self, rows: Tensor) -> None:
        if not isinstance(self._state, NotExplainableError):
            try:
                self._state.take(rows)
            except NotExplainableError as error:
                self._state = error

    @torch.inference_mode()
    def outcome(self) -> Outcome:
        return self._state if isinstance(self._state, NotExplainableError) else self._state.result()


@torch.inference_mode()
def _ran(queue: Iterable[_Place], forward: Forward, batch_size: int) -> bool:
    """Run the next images of the places at the front, at most `batch_size`; False if there are none."""
    batch: list[tuple[_Place, Tensor]] = []
    room = batch_size
    for place in queue:
        if count := min(place.waiting, room):
            batch.append((place, place.images(count)))
            room -= count
    if not batch:
        return False
    rows = forward(torch.cat([images for _, images in batch]))
    for (place, _), part in zip(batch, torch.split(rows, [len(images) for _, images in batch]), strict=True):
        place.take(part)
    return True
