from __future__ import annotations

import _thread
import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from samclip.runtime.series import map_in_order, prefetch


def test_results_come_in_the_order_of_items_though_the_first_ends_last() -> None:
    second_done = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert second_done.wait(10)  # only another thread can set it
        if item == 1:
            second_done.set()
        return item * item

    done = [(item, future.result()) for item, future in map_in_order(work, range(5), 2)]
    assert done == [(0, 0), (1, 1), (2, 4), (3, 9), (4, 16)]


def test_no_more_is_taken_than_is_worked_on_and_one() -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        for item in itertools.count():
            taken.append(item)
            yield item

    results = map_in_order(lambda item: item, endless(), 3)
    for given in range(5):
        assert next(results)[0] == given
        assert len(taken) <= given + 1 + 3  # what was given, and three ahead of it
    results.close()


def test_an_error_stays_with_its_item() -> None:
    def work(item: int) -> float:
        return 1 / item

    futures = [future for _, future in map_in_order(work, [1, 0, 2], 2)]
    assert futures[0].result() == 1
    with pytest.raises(ZeroDivisionError):
        futures[1].result()
    assert futures[2].result() == 0.5


def test_whoever_stops_early_leaves_nothing_running() -> None:
    begun: list[int] = []
    results = map_in_order(begun.append, range(100), 2)
    next(results)
    results.close()
    assert len(begun) <= 4
    assert not [t for t in threading.enumerate() if t.name.startswith("samclip-series")]


def test_nothing_to_do_gives_nothing() -> None:
    assert list(map_in_order(str, [], 4)) == []


def test_an_interrupt_cuts_short_what_is_under_way() -> None:
    ended = threading.Event()

    def work(item: int) -> bool:
        if item == 0:
            _thread.interrupt_main()
        return ended.wait(60)

    found = []
    with pytest.raises(KeyboardInterrupt):
        found += [future.result() for _, future in map_in_order(work, range(9), 2, ended.set)]
    assert ended.is_set()
    assert found == []


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
    results.close()


def test_no_more_items_are_taken_than_the_depth_needs() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    results = prefetch(str, items(), depth=2)
    next(results)
    assert taken == [0, 1, 2]
    results.close()


def test_a_failure_comes_where_its_result_would() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    results = prefetch(make, range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)


@pytest.mark.parametrize("started", [0, 1])
def test_without_threads_the_caller_works(started: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under `ulimit -u`: the pool has queued the item already when it cannot start a thread."""
    real, tries = threading.Thread.start, itertools.count()

    def start(thread: threading.Thread) -> None:
        if next(tries) >= started:
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    done: list[int] = []

    def work(item: int) -> int:
        done.append(item)
        return item * item

    found = [future.result() for _, future in map_in_order(work, range(20), 3)]
    assert found == [n * n for n in range(20)]
    assert sorted(done) == list(range(20)), "each item once"


THREAD = "threading.Thread(target={}{}).start()"
ENDINGS = {
    "a global": "",
    "after the modules": "import builtins; builtins.kept = [series, builtins]",
    "an unfinished thread": THREAD.format("lambda: print(sum(1 for _ in series))", ""),
    "at exit": "import atexit; atexit.register(lambda: print(next(series)[1].result()))",
    "a daemon thread": THREAD.format("lambda: list(series)", ", daemon=True"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_series_left_alive_ends_quietly_with_the_interpreter(ending: str) -> None:
    code = (
        "import threading, time\n"
        "from samclip.runtime.series import map_in_order\n"
        "def work(n):\n    time.sleep(0.01)\n    return n\n"
        "series = map_in_order(work, range(30), 2)\n"
        f"next(series)\n{ENDINGS[ending]}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    printed = {"an unfinished thread": "29\n", "at exit": "1\n"}
    assert done.stdout == printed.get(ending, "")


def test_without_memory_for_threads_the_caller_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Thread.start` would wait forever for a thread that finds no memory to begin."""

    def short() -> None:
        raise MemoryError

    monkeypatch.setattr("samclip.runtime.series.require_room_for_thread", short)
    monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("a thread was started"))
    here = threading.get_ident()
    found = [each.result() for _, each in map_in_order(lambda _: threading.get_ident(), "abcd", 2)]
    assert found == [here] * 4
