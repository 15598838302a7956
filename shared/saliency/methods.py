"""The methods by name, behind one call: requests in, maps out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from shared.errors import NotExplainableError
from shared.saliency.forwards import Forward, explained, fastest_forward
from shared.saliency.legrad import legrad
from shared.saliency.maps import Ended, Request, SaliencyMap, Unforeseen
from shared.saliency.masked_queue import Masked, Start, run_masked
from shared.saliency.modes import ModeName, mode_of
from shared.saliency.rise import Rise, RiseParameters
from shared.saliency.rollout import rollout
from shared.saliency.vit_cx import Parameters, ViTCX
from shared.vision.backbone import Backbone

MethodName = Literal["vit-cx", "rollout", "legrad", "rise"]


class MapMaker(Protocol):
    """Makes saliency maps of one backbone. For one thread at a time; see `shared_queue` for more."""

    @property
    def method(self) -> str:
        """The algorithm's name."""

    @property
    def mode(self) -> str:
        """How it is run, as results carry it."""

    def run(self, upcoming: Callable[[], Request | None], progress: Callable[[], None]) -> Iterator[Ended]:
        """How the work on what `upcoming` gives ended, until it gives None, in its order.

        Args:
            upcoming: The next request, or None if there is none now; asked when there is room for one.
            progress: Called after each forward pass; what it raises ends the run.
        """


def map_maker(
    backbone: Backbone,
    method: MethodName = "vit-cx",
    *,
    mode: ModeName = "auto",
    parameters: Parameters | None = None,
    rise: RiseParameters | None = None,
) -> MapMaker:
    """The maker of a method's maps. Loads the float32 model and may run it.

    Args:
        backbone: The explained backbone.
        method: The method.
        mode: How ViT-CX is run.
        parameters: Of ViT-CX.
        rise: Of RISE.
    """
    model = explained(backbone)
    if method == "rollout":
        return _OnePass(method, partial(rollout, model))
    if method == "legrad":
        return _OnePass(method, partial(legrad, model))
    size = backbone.batch_size
    if method == "rise":
        forward, precision = fastest_forward(backbone)
        name = f"random-masks-{precision}"
        return _ManyPasses(
            method,
            name,
            lambda request: Rise(model, request, rise, mode=name),
            forward,
            size,
        )
    chosen = mode_of(mode, backbone)
    return _ManyPasses(
        method,
        chosen.name,
        lambda request: ViTCX(model, request, parameters, mode=chosen.name, seconds=chosen.seconds),
        chosen.forward,
        size,
    )


@dataclass(frozen=True)
class _OnePass:
    """A method that needs nothing but the float32 model, once or twice."""

    method: str
    make: Callable[[Request], SaliencyMap]
    mode: str = "exact-float32"

    def run(self, upcoming: Callable[[], Request | None], progress: Callable[[], None]) -> Iterator[Ended]:
        while (request := upcoming()) is not None:
            progress()
            try:
                ended: Ended = self.make(request)
            except NotExplainableError as error:
                ended = error
            except Exception as error:  # noqa: BLE001  (whoever asked for this map raises it)
                ended = Unforeseen(error)
            yield ended


@dataclass(frozen=True)
class _ManyPasses:
    """A method of many masked images."""

    method: str
    mode: str
    start: Callable[[Request], Masked]
    forward: Forward
    batch_size: int

    def run(self, upcoming: Callable[[], Request | None], progress: Callable[[], None]) -> Iterator[Ended]:
        def started() -> Start | None:
            request = upcoming()
            return None if request is None else partial(self.start, request)

        return run_masked(started, self.forward, batch_size=self.batch_size, progress=progress)


def explain_all(
    maker: MapMaker, requests: Iterable[Request], progress: Callable[[], None] = lambda: None
) -> Iterator[Ended]:
    """How the work on all requests ended, in their order."""
    remaining = iter(requests)
    return maker.run(lambda: next(remaining, None), progress)


def explain(maker: MapMaker, request: Request, progress: Callable[[], None] = lambda: None) -> SaliencyMap:
    """One map.

    Raises:
        NotExplainableError: none can be made.
    """
    (ended,) = explain_all(maker, [request], progress)
    return made(ended)


def made(ended: Ended) -> SaliencyMap:
    """The map.

    Raises:
        NotExplainableError: none can be made.
        Exception: what nobody foresaw.
    """
    if isinstance(ended, SaliencyMap):
        return ended
    raise ended.error if isinstance(ended, Unforeseen) else ended
