"""One queue of forward passes for the masked images of many images, of whatever studies.

The next image is looked at only when the ones at hand no longer fill a batch, so that what is in memory does
not grow with the number of images: one batch of masked images, and a feature grid or two.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from shared.errors import NotExplainableError
from shared.saliency.forwards import Forward
from shared.saliency.maps import Ended, SaliencyMap, Unforeseen


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
) -> Iterator[Ended]:
    """Run masked images until there are none, in batches filled across images.

    Args:
        upcoming: The next image, or None if there is none now; asked when there is room for one.
        forward: Runs a batch of masked images.
        batch_size: Images in a batch.
        progress: Called after each forward pass; what it raises ends the run.

    Yields:
        How they ended, in the order of `upcoming`, as soon as they have. Only what `forward` and `progress` raise
        ends the run.
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
    """An image in the queue: its work, or why there is none. What its own work raises stays with it."""

    @torch.inference_mode()
    def __init__(self, start: Start) -> None:
        self._work: Masked | None = None
        self._failure: NotExplainableError | Unforeseen | None = None
        with self._failing():
            self._work = start()

    @property
    def waiting(self) -> int:
        return 0 if self._work is None else self._work.waiting

    def images(self, count: int) -> Tensor | None:
        """(count, 3, H, W); None if they could not be made."""
        images: Tensor | None = None
        with self._failing():
            if self._work is not None:
                images = self._work.images(count)
        return images

    def take(self, rows: Tensor) -> None:
        with self._failing():
            if self._work is not None:
                self._work.take(rows)

    @torch.inference_mode()
    def outcome(self) -> Ended:
        with self._failing():
            if self._work is not None:
                return self._work.result()
        return self._failure or Unforeseen(RuntimeError("the work on an image left neither a map nor an error"))

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """What is raised within is how this image ended."""
        try:
            yield
        except NotExplainableError as error:
            self._work, self._failure = None, error
        except Exception as error:  # noqa: BLE001  (whoever asked for this image raises it)
            self._work, self._failure = None, Unforeseen(error)


@torch.inference_mode()
def _ran(queue: Iterable[_Place], forward: Forward, batch_size: int) -> bool:
    """Run the next images of the places at the front, at most `batch_size`; False if there are none."""
    batch: list[tuple[_Place, Tensor]] = []
    room = batch_size
    for place in queue:
        if (count := min(place.waiting, room)) and (images := place.images(count)) is not None:
            batch.append((place, images))
            room -= count
    if not batch:
        return False
    rows = forward(torch.cat([images for _, images in batch]))
    for (place, _), part in zip(batch, torch.split(rows, [len(images) for _, images in batch]), strict=True):
        place.take(part)
    return True
