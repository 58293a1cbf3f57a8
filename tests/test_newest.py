"""The newest of what a thread makes: nothing is waited for that is old, nothing is left behind."""

import itertools
import threading
import weakref
from collections.abc import Generator
from contextlib import closing

import pytest
from patience import PATIENCE

from pyengine.prefetch import newest


def test_the_newest_is_what_was_made_last() -> None:
    made, more = threading.Event(), threading.Event()

    def items() -> Generator[int]:
        yield 0
        assert more.wait(PATIENCE)
        yield from (1, 2, 3)
        made.set()
        assert more.wait(PATIENCE)

    with closing(newest(items())) as found:
        assert next(found) == 0
        more.set()
        assert made.wait(PATIENCE)
        assert list(found) == [3]


def test_what_makes_the_newest_ends_with_it() -> None:
    closed_by: list[int] = []

    def items() -> Generator[int]:
        try:
            yield from itertools.count()
        finally:
            closed_by.append(threading.get_ident())

    with closing(newest(items())) as found:
        assert next(found) < next(found)
    assert closed_by and closed_by != [threading.get_ident()]


def test_what_is_old_is_dropped_though_nobody_asks() -> None:
    class Item:
        pass

    made: list[weakref.ref[Item]] = []
    all_made = threading.Event()

    def items() -> Generator[Item]:
        for _ in range(50):
            yield (item := Item())
            made.append(weakref.ref(item))
        all_made.set()

    with closing(newest(items())) as found:
        first = next(found)
        assert all_made.wait(PATIENCE)
        assert sum(ref() is not None for ref in made) <= 3
        assert [first, *found][-1] is made[-1]()


def test_the_newest_of_an_error_is_the_error() -> None:
    def items() -> Generator[int]:
        yield 0
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(newest(items()))
