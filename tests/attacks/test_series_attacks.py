"""Series of images with hostile ones among them: each fails alone, and no thread is left.

The streams are those of `Model.answer_all`; the hostile images come from image_files.py.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest
from fakes import fake_model, flag
from figures import Figures
from image_files import HUGE, KINDS, REFUSED

from samclip.errors import ClosedError, ImageError, PromptError
from samclip.runtime.scene import Scene

BAD: list[Any] = [
    *REFUSED.values(),
    *(make(60_000, 60_000) for make in HUGE.values()),
    KINDS["JPEG RGB"][0][:-300],
    KINDS["JPEG RGB"][0][:-300] + b"\xff\xd9",
    np.ma.masked_all((4, 4, 3), np.uint8),
    "",
    "/nowhere/image.png",
    "a\0b",
    np.zeros((4, 4), np.uint8),
    None,
]


def size_of(scene: Scene) -> tuple[int, int]:
    return scene.size


def no_thread_is_left() -> bool:
    names = [thread.name for thread in threading.enumerate()]
    return not any(name.startswith("samclip-") for name in names)


@pytest.mark.parametrize("streams", [1, 2, 4])
def test_every_hostile_image_fails_alone(streams: int, figures: Figures) -> None:
    images = [image for bad in BAD for image in (bad, flag())]
    model = fake_model(streams=streams)
    failed = 0
    for image, future in model.answers(images, size_of):
        error = future.exception()
        if type(image) is np.ndarray and image.ndim == 3:
            assert error is None
            assert future.result() == (128, 200)
        else:
            failed += 1
            assert type(error) is ImageError
            assert str(error)
    assert failed == len(BAD)
    assert no_thread_is_left()
    found = "each fails alone with an ImageError, no thread is left"
    figures.add("series: hostile images among sound ones", count=failed, found=found)


def test_answer_all_stops_at_the_first_and_leaves_nothing_running() -> None:
    model = fake_model(streams=2)
    answers = model.answer_all([flag(), b"no image", *[flag()] * 50], size_of)
    assert next(answers) == (128, 200)
    with pytest.raises(ImageError):
        next(answers)
    with pytest.raises(StopIteration):
        next(answers)
    assert no_thread_is_left()
    assert model.encoder_passes <= 5  # those under way, and no more
    assert list(model.answer_all([flag()], size_of)) == [(128, 200)]  # the model still works


def test_questions_that_fail() -> None:
    model = fake_model(streams=2)

    def ask(scene: Scene) -> Any:
        return scene.segment(boxes=[9, 9, 1, 1])

    futures = [future for _, future in model.answers([flag()] * 4, ask)]
    assert [type(future.exception()) for future in futures] == [PromptError] * 4
    assert no_thread_is_left()


def test_images_that_cannot_be_listed() -> None:
    """The error of the caller's own iterator is the caller's."""

    def images() -> Iterator[Any]:
        yield flag()
        raise OSError("the disk is gone")

    model = fake_model(streams=2)
    with pytest.raises(OSError, match="disk is gone"):
        list(model.answer_all(images(), size_of))
    assert no_thread_is_left()


@pytest.mark.parametrize("streams", [1, 3])
def test_a_model_closed_in_the_middle(streams: int) -> None:
    model, given = fake_model(streams=streams), 0
    answers = model.answer_all((flag() for _ in count()), size_of)
    with pytest.raises(ClosedError):
        for given, _ in enumerate(answers, 1):
            if given == 3:
                model.close()
    assert 3 <= given <= 3 + streams + 1
    assert no_thread_is_left()


def test_an_endless_series_that_is_given_up() -> None:
    answers = fake_model(streams=3).answer_all((flag() for _ in count()), size_of)
    for _ in range(3):
        next(answers)
    answers.close()
    assert no_thread_is_left()
