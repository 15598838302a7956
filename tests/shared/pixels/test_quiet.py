"""pydicom's warnings are left out in the thread that reads, and nowhere else."""

from __future__ import annotations

import threading
import warnings

import pytest

from shared.pixels.header import guarded

WARNING = "Invalid value for VR CS: 'DOE^JANE'."


def test_of_two_readers_neither_takes_the_others_silence_away_nor_leaves_its_own_behind():
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()
    raised: list[BaseException] = []

    def first() -> None:
        with guarded("first"):
            first_in.set()
            second_in.wait(5)
        first_out.set()

    def second() -> None:
        first_in.wait(5)
        try:
            with guarded("second"):
                second_in.set()
                first_out.wait(5)
                warnings.warn(WARNING, stacklevel=1)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised == []
    with pytest.raises(UserWarning, match="Invalid value"):
        warnings.warn(WARNING, stacklevel=1)


def test_while_one_thread_reads_anothers_warnings_are_heard():
    inside, done = threading.Event(), threading.Event()

    def reader() -> None:
        with guarded("reader"):
            inside.set()
            done.wait(5)

    thread = threading.Thread(target=reader)
    thread.start()
    inside.wait(5)
    with pytest.raises(UserWarning, match="Invalid value"):
        warnings.warn(WARNING, stacklevel=1)
    done.set()
    thread.join()


def test_silence_lasts_to_the_end_of_the_outermost_block_and_filters_do_not_pile_up():
    with guarded("once"):
        pass
    before = list(warnings.filters)
    for _ in range(3):
        with guarded("outer"):
            with guarded("inner"):
                warnings.warn(WARNING, stacklevel=1)
            warnings.warn(WARNING, stacklevel=1)
    assert warnings.filters == before


def test_a_filter_that_came_later_does_not_break_the_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with guarded("later"):
            warnings.warn(WARNING, stacklevel=1)
        warnings.resetwarnings()
        with guarded("reset"):
            warnings.warn(WARNING, stacklevel=1)
