"""Batches that several studies fill."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from services.embedder.batches import SharedBatches
from services.embedder.encoded_rows import EncodedRows
from services.embedder.handlers import Progress
from services.embedder.ports import StoppingError
from shared.errors import InvalidVectorError, TransientError
from shared.health import Health
from shared.vision.features import Features


def squares(count: int, seed: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).random((count, 28, 28), np.float32))


def nothing() -> None:
    return


def together(*calls) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_each_study_gets_its_own_rows_back_in_order(encoder):
    studies = {seed: squares(3 + 5 * seed, seed) for seed in range(6)}
    found = {}

    with SharedBatches(encoder) as batches:

        def run(seed: int) -> None:
            with batches.study(nothing) as rows:
                for square in studies[seed]:
                    rows.add(square)
                found[seed] = rows.encoded().features

        together(*(lambda seed=seed: run(seed) for seed in studies))
    for seed, frames in studies.items():
        expected = encoder.encode_squares(frames)
        np.testing.assert_array_equal(found[seed].cls, expected.cls)
        np.testing.assert_array_equal(found[seed].middle, expected.middle)


def test_a_batch_is_filled_by_two_studies(encoder):
    with SharedBatches(encoder, wait_s=30.0) as batches:
        both = threading.Barrier(2)

        def run(seed: int) -> None:
            with batches.study(nothing) as rows:
                both.wait()
                for square in squares(2, seed):
                    rows.add(square)
                both.wait()
                rows.encoded()

        together(lambda: run(1), lambda: run(2))
    assert encoder.encoded == [4]


def test_no_study_waits_for_a_full_batch_once_all_have_added_their_last(encoder):
    started = time.monotonic()
    with SharedBatches(encoder, wait_s=60.0) as batches, batches.study(nothing) as rows:
        rows.add(squares(1, 0)[0])
        assert len(rows.encoded().features.cls) == 1
    assert time.monotonic() - started < 10


def test_a_slow_study_delays_another_by_the_wait_at_most(encoder):
    with SharedBatches(encoder, wait_s=0.05) as batches, batches.study(nothing), batches.study(nothing) as quick:
        started = time.monotonic()
        quick.add(squares(1, 0)[0])
        quick.encoded()
        assert 0.04 < time.monotonic() - started < 10


def test_what_the_model_raises_reaches_the_study_that_caused_it(encoder):
    class Choosy(type(encoder)):
        def encode_squares(self, squares):
            if any((square == 1).all() for square in squares):
                raise RuntimeError("cannot")
            return super().encode_squares(squares)

    with SharedBatches(Choosy(), wait_s=30.0) as batches, batches.study(nothing) as good, batches.study(nothing) as bad:
        good.add(np.zeros((28, 28), np.float32))
        bad.add(np.ones((28, 28), np.float32))
        good.add(np.zeros((28, 28), np.float32))
        bad._end_adding()
        assert len(good.encoded().features.cls) == 2
        with pytest.raises(RuntimeError, match="cannot"):
            bad.encoded()


def test_a_study_that_is_given_up_takes_its_frames_along(encoder):
    with SharedBatches(encoder, wait_s=30.0) as batches:
        with batches.study(nothing) as left:
            left.add(squares(1, 0)[0])
            with batches.study(nothing):
                pass
        with batches.study(nothing) as rows:
            rows.add(squares(1, 1)[0])
            rows.encoded()
    assert sum(encoder.encoded) <= 2


def test_a_study_without_frames_has_features_of_none(encoder):
    with SharedBatches(encoder) as batches, batches.study(nothing) as rows:
        features = rows.encoded().features
    assert features.cls.shape == (0, encoder.dim)
    assert features.joined().shape == (0, 4 * encoder.dim)


def test_the_decoders_wait_for_a_model_that_is_far_behind(encoder):
    free = threading.Event()

    class Slow(type(encoder)):
        def encode_squares(self, squares):
            free.wait(30)
            return super().encode_squares(squares)

    added = []
    with SharedBatches(Slow()) as batches, batches.study(nothing) as rows:

        def add() -> None:
            for number in range(100):
                rows.add(np.zeros((28, 28), np.float32))
                added.append(number)

        adding = threading.Thread(target=add)
        adding.start()
        time.sleep(0.3)
        assert len(added) <= 5 * encoder.batch_size
        free.set()
        adding.join()
        assert len(rows.encoded().features.cls) == 100


def test_closing_ends_the_wait_of_a_study(encoder):
    batches = SharedBatches(encoder, wait_s=60.0)
    with batches.study(nothing), batches.study(nothing) as rows:
        rows.add(squares(1, 0)[0])
        threading.Timer(0.1, batches.close).start()
        with pytest.raises(StoppingError):
            rows.encoded()


def test_what_the_heads_read_comes_back_and_patch_tokens_do_not(encoder):
    class Patched(type(encoder)):
        def encode_squares(self, squares):
            features = super().encode_squares(squares)
            return Features(features.cls, features.middle, np.stack([square.reshape(28, 28) for square in squares]))

    frames = squares(6, 0)
    readers = {"largest": lambda features: features.patches.max(axis=(1, 2))[:, None]}
    with SharedBatches(Patched()) as batches, batches.study(nothing, readers) as rows:
        for square in frames:
            rows.add(square)
        encoded = rows.encoded()
    assert encoded.features.patches is None
    np.testing.assert_array_equal(encoded.read["largest"][:, 0], [square.max() for square in frames])


def test_a_head_that_cannot_read_fails_its_own_study(encoder):
    def cannot(_):
        raise RuntimeError("no patch tokens")

    with SharedBatches(encoder, wait_s=30.0) as batches, batches.study(nothing) as good:
        with batches.study(nothing, {"a": cannot}) as bad:
            good.add(squares(1, 0)[0])
            bad.add(squares(1, 1)[0])
            good._end_adding()
            with pytest.raises(RuntimeError, match="no patch tokens"):
                bad.encoded()
        assert len(good.encoded().features.cls) == 1


def outcome(batches: SharedBatches, count: int) -> object:
    """What a study of `count` frames gets, in a thread of its own: a study that hangs must not hang the tests."""
    found: list[object] = []

    def run() -> None:
        try:
            with batches.study(nothing) as rows:
                for square in squares(count, 0):
                    rows.add(square)
                found.append(rows.encoded())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)
    assert found, "the study hangs"
    return found[0]


def test_a_model_that_answers_for_too_few_frames_fails_the_study_and_works_on(encoder):
    class Short(type(encoder)):
        lost = 1

        def encode_squares(self, squares):
            return super().encode_squares(squares[self.lost :])

    short = Short()
    with SharedBatches(short) as batches:
        assert isinstance(outcome(batches, 2), InvalidVectorError)
        short.lost = 0
        assert isinstance(outcome(batches, 2), EncodedRows)


def test_features_that_cannot_be_shared_out_fail_the_study_and_the_model_works_on(encoder):
    class Lacking(type(encoder)):
        lacking = True

        def encode_squares(self, squares):
            features = super().encode_squares(squares)
            return Features(features.cls, features.middle[1:]) if self.lacking else features

    lacking = Lacking()
    with SharedBatches(lacking) as batches:
        assert isinstance(outcome(batches, 2), Exception)
        lacking.lacking = False
        assert isinstance(outcome(batches, 2), EncodedRows)


def test_when_the_models_thread_ends_every_study_ends_and_the_service_is_told(encoder):
    class Ending(type(encoder)):
        def encode_squares(self, squares):
            raise SystemExit

    told = threading.Event()
    batches = SharedBatches(Ending(), on_failure=told.set)
    assert isinstance(outcome(batches, 2), TransientError)
    assert told.wait(10)
    assert isinstance(outcome(batches, 2), TransientError), "a study that comes later"
    batches.close()


def test_a_stop_is_noticed_while_the_model_works_without_showing_progress(encoder):
    free = threading.Event()

    class Slow(type(encoder)):
        def encode_squares(self, squares):
            free.wait(30)
            return super().encode_squares(squares)

    now = 0.0
    health = Health(stuck_after_s=10.0, clock=lambda: now)
    progress = Progress(health)
    with SharedBatches(Slow(), check_stop=progress.check) as batches:
        with batches.study(progress) as rows:
            rows.add(squares(1, 0)[0])
            now = 11.0
            threading.Timer(1.5, progress.stop).start()
            with pytest.raises(StoppingError):
                rows.encoded()
        assert not health.is_alive()
        free.set()
