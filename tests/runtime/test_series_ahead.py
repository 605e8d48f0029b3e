import threading
from collections.abc import Iterator

import pytest

from samclip.runtime.series import prefetch


@pytest.mark.parametrize("depth", [1, 3])
def test_results_come_in_order(depth: int) -> None:
    assert list(prefetch(lambda n: n * n, range(10), depth)) == [n * n for n in range(10)]


def test_nothing_gives_nothing() -> None:
    assert list(prefetch(str, [])) == []


def test_the_next_is_made_while_this_one_is_used() -> None:
    begun = [threading.Event() for _ in range(3)]

    def make(number: int) -> int:
        begun[number].set()
        return number

    results = prefetch(make, range(3))
    assert next(results) == 0
    assert begun[1].wait(timeout=10)
    results.close()  # type: ignore[attr-defined]


def test_no_more_items_are_taken_than_the_depth_needs() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    results = prefetch(str, items(), depth=2)
    next(results)
    assert taken == [0, 1, 2]
    results.close()  # type: ignore[attr-defined]


def test_a_failure_comes_where_its_result_would() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    results = prefetch(make, range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
