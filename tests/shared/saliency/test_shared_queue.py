"""Requests of several threads in one queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from plain_saliency import blobs, explained_tiny, tiny_head, tiny_model

from shared.errors import NotExplainableError
from shared.saliency.maps import Outcome, Request, SaliencyMap
from shared.saliency.methods import _ManyPasses, _OnePass
from shared.saliency.rollout import rollout
from shared.saliency.shared_queue import SharedQueue
from shared.saliency.vit_cx import ViTCX


class StopError(Exception):
    pass


class Echo:
    """Gives each request's seed as its map, two at a time, as a batch would; -1 cannot be explained."""

    method, mode = "echo", "exact"

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.may_go = threading.Event()
        self.may_go.set()

    def run(self, upcoming, progress) -> Iterator[Outcome]:
        while pair := [request for request in (upcoming(), upcoming()) if request is not None]:
            self.may_go.wait()
            self.threads.add(threading.current_thread().name)
            progress()
            for request in pair:
                if request.seed < 0:
                    yield NotExplainableError("no")
                else:
                    yield SaliencyMap(np.full((2, 2), request.seed, np.float32), "echo", "exact", 0, 0, 1.0, 1)


def request(seed: int) -> Request:
    return Request(torch.zeros(3, 2, 2), lambda rows: rows, seed)


def seeds(outcomes: list[Outcome]) -> list[float | None]:
    return [None if isinstance(outcome, NotExplainableError) else float(outcome.values[0, 0]) for outcome in outcomes]


def test_each_caller_gets_its_own_outcomes_in_order():
    maker = Echo()
    queue = SharedQueue(maker)
    wanted = [[10 * caller + k for k in range(5)] for caller in range(6)]

    with ThreadPoolExecutor(6) as pool:
        found = [*pool.map(lambda numbers: queue.explain([request(number) for number in numbers]), wanted)]

    assert [seeds(outcomes) for outcomes in found] == wanted
    assert maker.threads == {"saliency"}


def test_a_failure_is_an_outcome_like_others():
    assert seeds(SharedQueue(Echo()).explain([request(1), request(-1), request(2)])) == [1.0, None, 2.0]


def test_one_caller_s_unexpected_error_reaches_nobody_else():
    def misfit(rows):
        raise IndexError("no such column")

    model = explained_tiny(tiny_model(layers=2))
    head = tiny_head(model.backbone, seed=5)
    one, bad, two = (Request(blobs(28, 28, seed=1), given, 1) for given in (head, misfit, head))
    for maker in (
        _ManyPasses("vit-cx", "exact", lambda request: ViTCX(model, request), model.clean, 64),
        _OnePass("rollout", lambda request: rollout(model, request)),
    ):
        all_wait = threading.Event()
        queue = SharedQueue(maker, all_wait.wait)
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(queue.explain, [request]) for request in (one, bad, two)]
            while not all(future.running() for future in asked) or len(queue._waiting) < 2:
                time.sleep(0.01)
            all_wait.set()
            with pytest.raises(IndexError, match="no such column"):
                asked[1].result(timeout=30)
            assert all(isinstance(asked[place].result(timeout=30)[0], SaliencyMap) for place in (0, 2))


def test_nothing_asked_is_nothing_done():
    assert SharedQueue(Echo()).explain([]) == []


def test_what_progress_raises_reaches_all_who_wait_and_the_queue_lives_on():
    maker, is_stopping = Echo(), threading.Event()

    def progress() -> None:
        if is_stopping.is_set():
            raise StopError

    queue = SharedQueue(maker, progress)
    maker.may_go.clear()
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(queue.explain, [request(number), request(number)]) for number in (1, 2)]
        is_stopping.set()
        maker.may_go.set()
        for one in waiting:
            with pytest.raises(StopError):
                one.result(timeout=30)

    is_stopping.clear()
    assert seeds(queue.explain([request(3)])) == [3.0]


def test_its_thread_ends_when_there_is_nothing_left():
    queue = SharedQueue(Echo())
    queue.explain([request(1)])

    for thread in threading.enumerate():
        if thread.name == "saliency":
            thread.join(timeout=30)
    assert "saliency" not in {thread.name for thread in threading.enumerate()}
    assert seeds(queue.explain([request(2)])) == [2.0]
