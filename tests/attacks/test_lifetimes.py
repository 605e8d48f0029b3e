"""Models and scenes closed at any moment: an answer or ClosedError, never a crash or a hang."""

from __future__ import annotations

import contextlib
import copy
import gc
import itertools
import pickle
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from figures import Figures
from joined_threads import in_threads, join_all
from mixed_calls import CALLS, NAMES, digest, photos
from waiting import wait_until

import samclip
from samclip.errors import ClosedError, InputError

ROUNDS = [4, pytest.param(100, marks=pytest.mark.slow)]
PICTURE = photos()[0]
Load = Callable[[], samclip.Model]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts")


@pytest.fixture(scope="module")
def load(backend: str, coloured_bundle: Path, texts: Path) -> Load:
    """A function that loads the bundle of small graphs on one backend."""
    return lambda: samclip.load(coloured_bundle, backend, threads=2, cache_dir=texts)


@pytest.fixture(scope="module")
def answers(load: Load) -> dict[str, str]:
    """The digest of the answer to each kind of call, by kind."""
    with load() as model, model.encode(PICTURE) as scene:
        return {kind: digest(ask(scene)) for kind, ask in CALLS.items()}


@pytest.fixture
def model(load: Load) -> Iterator[samclip.Model]:
    with load() as model:
        yield model


@pytest.mark.parametrize("rounds", ROUNDS)
def test_a_model_closed_during_inference(
    load: Load, answers: dict[str, str], rounds: int, figures: Figures
) -> None:
    """Four threads make calls of all kinds while a fifth closes the model."""
    ends: Counter[str] = Counter()
    for number in range(rounds):
        model = load()
        scene = model.encode(PICTURE)

        def work(seed: int, scene: samclip.Scene = scene, model: samclip.Model = model) -> None:
            kinds = random.Random(seed).sample(list(CALLS), len(CALLS))
            with contextlib.suppress(ClosedError):
                for kind in itertools.cycle(kinds):
                    assert digest(CALLS[kind](scene)) == answers[kind]
                    ends["answers"] += 1
                    model.encode(PICTURE).close()
            ends["ClosedError"] += 1

        def close(pause: float = number * 0.0005, model: samclip.Model = model) -> None:
            time.sleep(pause)
            model.close()

        in_threads([*(lambda seed=seed: work(seed) for seed in range(4)), close, close], 120)
        assert ends["ClosedError"] == 4 * (number + 1)
    found = f"{ends['answers']:,} right answers, then ClosedError in each of 4 threads"
    figures.add("close of a model during inference", count=rounds, found=found)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_a_scene_closed_during_inference(
    model: samclip.Model, answers: dict[str, str], rounds: int, figures: Figures
) -> None:
    """One thread's scene is closed by another thread; a second scene still answers."""
    other = model.encode(PICTURE)
    for number in range(rounds):
        scene = model.encode(PICTURE)
        kind = list(CALLS)[number % len(CALLS)]

        def work(scene: samclip.Scene = scene, kind: str = kind) -> None:
            with contextlib.suppress(ClosedError):
                while True:
                    assert digest(CALLS[kind](scene)) == answers[kind]

        def close(pause: float = number * 0.0002, scene: samclip.Scene = scene) -> None:
            time.sleep(pause)
            scene.close()

        in_threads([work, work, close], 120)
        assert digest(CALLS[kind](other)) == answers[kind]
    figures.add(
        "close of a scene during inference",
        count=rounds,
        found="right answers, then ClosedError; the model's other scene goes on",
    )


@pytest.mark.parametrize("rounds", ROUNDS)
def test_scenes_outlive_each_other(
    model: samclip.Model, answers: dict[str, str], rounds: int, figures: Figures
) -> None:
    """Scenes of one model, closed in any order: those that are open answer as before."""
    rng = random.Random(0)
    scenes = [model.encode(PICTURE) for _ in range(rounds)]
    rng.shuffle(scenes)
    while scenes:
        scenes.pop().close()
        if scenes:
            kind = rng.choice(list(CALLS))
            assert digest(CALLS[kind](rng.choice(scenes))) == answers[kind]
    figures.add("scenes that outlive each other", count=rounds, found="all answer as before")


@pytest.mark.parametrize("rounds", ROUNDS)
def test_use_after_close_and_double_close(load: Load, rounds: int, figures: Figures) -> None:
    refused = 0
    for number in range(rounds):
        model = load()
        scene, closed = model.encode(PICTURE), model.encode(PICTURE)
        kept = scene.segment(points=[(5, 5)], names=NAMES)
        closed.close()
        closed.close()
        uses = uses_of_scene(closed)
        if number % 2:
            model.close()
            model.close()
            uses += [*uses_of_scene(scene), *uses_of_model(model)]
        for use in uses:
            with pytest.raises(ClosedError, match="again"):  # encode, or load
                use()
        refused += len(uses)
        assert kept.masks.shape == (1, *PICTURE.shape[:2])
        assert kept.draw().shape == PICTURE.shape
        model.close()
    figures.add("use after close, double close", count=refused, found="ClosedError each time")


def uses_of_scene(scene: samclip.Scene) -> list[Callable[[], object]]:
    return [partial(ask, scene) for ask in CALLS.values()]


def uses_of_model(model: samclip.Model) -> list[Callable[[], object]]:
    return [
        lambda: model.encode(PICTURE),
        lambda: model.vocabulary(NAMES),
        lambda: next(iter(model.encode_all([PICTURE]))),
        lambda: list(model.answer_all([PICTURE], lambda scene: scene.size)),
    ]


@pytest.mark.parametrize("rounds", ROUNDS)
def test_blocks_that_raise_close(load: Load, rounds: int, figures: Figures) -> None:
    for _ in range(rounds):
        with pytest.raises(ZeroDivisionError), load() as model, model.encode(PICTURE) as scene:
            raise ZeroDivisionError
        for use in (lambda: scene.segment(points=[(1, 1)]), lambda: model.encode(PICTURE)):
            with pytest.raises(ClosedError):
                use()
        model.close()
    figures.add("`with` blocks that raised", count=rounds, found="closed, then ClosedError")


@pytest.mark.parametrize("rounds", ROUNDS)
def test_models_forgotten_while_scenes_live(
    load: Load, answers: dict[str, str], rounds: int, figures: Figures
) -> None:
    """A scene keeps what it needs alive; the engines go with the last one."""
    for number in range(rounds):
        model = load()
        scene = model.encode(PICTURE)
        pool = weakref.ref(model._pool)
        del model
        kind = list(CALLS)[number % len(CALLS)]
        assert digest(CALLS[kind](scene)) == answers[kind]
        gc.disable()  # must not need the collector: engines are large, and it may not run for long
        try:
            del scene
            wait_until(  # a load that was begun ahead ends first
                lambda pool=pool: pool() is None, "engines outlive their model and scenes"
            )
        finally:
            gc.enable()
    figures.add(
        "models forgotten while a scene lives",
        count=rounds,
        found="the scene answers; with it the engines go",
    )


@pytest.mark.parametrize("rounds", ROUNDS)
def test_models_loaded_and_closed_by_many_threads(
    load: Load, answers: dict[str, str], rounds: int, figures: Figures
) -> None:
    kinds = itertools.cycle(CALLS)

    def work() -> None:
        for _ in range(max(1, rounds // 8)):
            kind = next(kinds)
            with load() as model:
                assert digest(CALLS[kind](model.encode(PICTURE))) == answers[kind]

    in_threads([work] * 8)
    count = max(1, rounds // 8) * 8
    figures.add("loads by 8 threads at once", count=count, found="right answers")


def test_a_series_given_up_leaves_no_thread(model: samclip.Model) -> None:
    """Neither readers nor workers outlive the loop that started them."""
    before = set(threading.enumerate())
    endless = (PICTURE for _ in itertools.count())
    for series in (
        model.encode_all(endless),
        model.answer_all(endless, lambda scene: scene.size),
        model.answers(endless, lambda scene: scene.size),
    ):
        next(series)
        series.close()
    join_all([t for t in threading.enumerate() if t not in before and not t.daemon], 60)
    assert {t.name for t in threading.enumerate()} <= {t.name for t in before}


def test_models_and_scenes_are_not_copied_but_answers_are(model: samclip.Model) -> None:
    scene = model.encode(PICTURE)
    for thing in (model, scene):
        for copied in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(InputError, match="cannot be copied, pickled or sent"):
                copied(thing)
    vocabulary = model.vocabulary(NAMES)
    for answer in (
        scene.segment(points=[(5, 5)], names=vocabulary),
        scene.classify(pickle.loads(pickle.dumps(vocabulary))),
        scene.semantic(NAMES),
        scene.everything(points_per_side=2),
    ):
        again = pickle.loads(pickle.dumps(answer))
        assert digest(again) == digest(answer)
        np.testing.assert_array_equal(again.draw(), answer.draw())
