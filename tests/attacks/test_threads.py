"""Many threads on one model: every answer equals, bit by bit, that of one thread alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from figures import Figures
from joined_threads import in_threads
from mixed_calls import CALLS, SIZES, Asker, Call, digest, draw_calls, photos

import samclip

SAME = "all bit-equal to serial"


def slow(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts")


@pytest.fixture(scope="module")
def model(backend: str, coloured_bundle: Path, cache: Path) -> Iterator[samclip.Model]:
    """A model of small graphs, in which threads collide more often than in a large one."""
    with samclip.load(coloured_bundle, backend, threads=2, cache_dir=cache) as model:
        yield model


@pytest.fixture(scope="module")
def streaming(backend: str, coloured_bundle: Path, cache: Path) -> Iterator[samclip.Model]:
    """The same with two streams."""
    with samclip.load(coloured_bundle, backend, streams=2, cache_dir=cache) as model:
        yield model


@pytest.fixture(scope="module")
def real(backend: str, lite2_bundle: Path, cache: Path) -> Iterator[samclip.Model]:
    """A model of real weights at 256 pixels."""
    with samclip.load(lite2_bundle, backend, threads=2, cache_dir=cache) as model:
        yield model


EACH = [(2, 45), (8, 15), (32, 4), slow(2, 1000), slow(8, 1000), slow(32, 1000)]


@pytest.mark.parametrize(("threads", "calls"), EACH)
def test_threads_answer_as_one_does(
    model: samclip.Model, threads: int, calls: int, figures: Figures
) -> None:
    """Each of the threads makes that many calls."""
    made = compare_with_serial(model, [draw_calls(calls, seed) for seed in range(threads)])
    figures.add("2, 8 and 32 threads on one model", count=made, found=SAME)


@pytest.mark.parametrize("calls", [120, slow(1000)])
def test_threads_answer_as_one_does_with_two_streams(
    streaming: samclip.Model, calls: int, figures: Figures
) -> None:
    drawn = draw_calls(calls, seed=7)
    made = compare_with_serial(streaming, [drawn[first::8] for first in range(8)])
    figures.add("8 threads on one model of two streams", count=made, found=SAME)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [2, 8, 32])
def test_threads_answer_as_one_does_with_real_weights(
    real: samclip.Model, threads: int, figures: Figures
) -> None:
    """All of the threads together make 1,000 calls."""
    calls = draw_calls(1000, seed=threads, fresh_share=0.1)
    made = compare_with_serial(real, [calls[first::threads] for first in range(threads)])
    figures.add("2, 8 and 32 threads on one model of real weights", count=made, found=SAME)


@pytest.mark.parametrize("count", [60, slow(1000)])
def test_a_series_is_answered_as_photo_by_photo(
    streaming: samclip.Model, count: int, figures: Figures
) -> None:
    pictures, (ask, *others) = photos(), CALLS.values()
    series = [pictures[number % len(SIZES)] for number in range(count)]

    def all_of(scene: samclip.Scene) -> str:
        return digest([ask(scene), others[scene.size[0] % len(others)](scene)])

    expected = [all_of(streaming.encode(picture)) for picture in pictures]
    answers = list(streaming.answer_all(series, all_of))
    assert answers == [expected[number % len(SIZES)] for number in range(count)]
    scenes = streaming.encode_all(series[:30])
    assert [all_of(scene) for scene in scenes] == answers[:30]
    figures.add("a series of photos in two streams", count=count, found=SAME)


def compare_with_serial(model: samclip.Model, shares: Sequence[Sequence[Call]]) -> int:
    """Answer each share of the calls in a separate thread; return the number of answers."""
    asker = Asker(model)
    expected = asker.expected()
    assert len(set(expected.values())) == len(CALLS) * len(SIZES)  # every answer is different
    differing: list[Call] = []

    def work(calls: Sequence[Call]) -> None:
        differing.extend(c for c in calls if asker.ask(c) != expected[c.kind, c.photo])

    in_threads([partial(work, calls) for calls in shares])
    assert differing == []
    return sum(len(calls) for calls in shares)
