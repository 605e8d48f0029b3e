from __future__ import annotations

import inspect

import pytest

import samclip
from samclip import errors


def test_every_public_name_is_there_and_documented() -> None:
    for name in samclip.__all__:
        value = getattr(samclip, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name
            assert value.__module__.startswith("samclip.")


def test_every_error_is_public() -> None:
    defined = {
        n for n, v in vars(errors).items() if inspect.isclass(v) and v.__module__ == errors.__name__
    }
    assert defined <= set(samclip.__all__)


def test_names_are_listed_before_they_are_loaded() -> None:
    assert set(samclip.__all__) <= set(dir(samclip))
    assert len(samclip.__all__) == len(set(samclip.__all__))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="segmnt"):
        samclip.segmnt  # noqa: B018
