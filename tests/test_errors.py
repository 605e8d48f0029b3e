"""Errors: the file that `error_context` adds to a message, and the steps that an error names."""

from __future__ import annotations

import copy
import pickle

import pytest

from samclip.engines.steps import BuildPlans, RemovePlan
from samclip.errors import (
    DeviceMemoryError,
    ImageError,
    PlanMissingError,
    SamclipError,
    WriteError,
    error_context,
)


@pytest.mark.parametrize("kind", [ImageError, WriteError])
def test_a_file_is_put_before_a_message_that_lacks_it(kind: type[SamclipError]) -> None:
    with pytest.raises(kind) as caught, error_context("a/b.onnx"):
        raise kind("is cut off. Copy it again.")
    assert type(caught.value) is kind
    assert str(caught.value) == "a/b.onnx: is cut off. Copy it again."


def test_a_file_is_named_once() -> None:
    with pytest.raises(SamclipError, match=r"^a/b\.onnx is cut off$"), error_context("a/b.onnx"):
        raise SamclipError("a/b.onnx is cut off")


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(KeyError) as caught, error_context("a/b.onnx"):
        raise KeyError("x")
    assert caught.value.args == ("x",)


@pytest.mark.parametrize("kind", [PlanMissingError, WriteError, ImageError, DeviceMemoryError])
def test_steps_survive_copies_and_pickling(kind: type[SamclipError]) -> None:
    steps = (RemovePlan("encoder"), BuildPlans(origin="a bundle", targets=("8.6",)))
    error = kind("there is no plan.", steps=iter(steps))
    for same in (error, copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(same) is kind
        assert str(same) == "there is no plan."
        assert same.steps == steps


def test_an_error_without_steps_has_none() -> None:
    assert WriteError("full").steps == SamclipError().steps == ()
    assert vars(SamclipError("x")) == {}


def test_the_file_that_is_put_before_a_message_leaves_the_steps() -> None:
    with pytest.raises(SamclipError, match=r"^a: x$") as caught, error_context("a"):
        raise SamclipError("x", steps=(RemovePlan(),))
    assert caught.value.steps == (RemovePlan(),)
