"""`error_context`: the file that it puts before an error's message."""

from __future__ import annotations

import pytest

from samclip.errors import ImageError, SamclipError, WriteError, error_context


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
