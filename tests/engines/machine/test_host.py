from __future__ import annotations

import cv2
import numpy as np
import pytest

from samclip.engines.machine.host import as_memory_error, is_shortage, release_free_memory
from samclip.errors import DeviceMemoryError, EngineRunError


@pytest.mark.parametrize(
    "said",
    [
        "std::bad_alloc",
        "Failed to allocate memory for requested buffer of size 9",
        "node can't alloc",
    ],
)
def test_messages_of_libraries_whose_memory_is_short(said: str) -> None:
    assert is_shortage(RuntimeError(said))
    assert not is_shortage(RuntimeError("shapes do not fit"))
    assert is_shortage(MemoryError())


def test_shortages_become_typed() -> None:
    @as_memory_error
    def too_much() -> None:
        np.empty((2**40, 2**20), np.uint8)

    with pytest.raises(
        DeviceMemoryError, match=r"too little free memory: Unable to .* Ask for less"
    ):
        too_much()
    assert issubclass(DeviceMemoryError, MemoryError)


def test_only_shortages_in_opencv_become_memory_errors() -> None:
    @as_memory_error
    def fail(text: str) -> None:
        raise cv2.error(text)

    with pytest.raises(DeviceMemoryError, match="this machine has too little free memory: OpenCV"):
        fail("OpenCV: error: (-4:Insufficient memory) Failed to allocate 9 bytes")
    with pytest.raises(cv2.error, match="Assertion failed"):
        fail("OpenCV: error: (-215:Assertion failed)")


def test_other_errors_pass() -> None:
    @as_memory_error
    def fail(error: Exception) -> None:
        raise error

    for error in (ValueError("out of memory"), EngineRunError("x"), DeviceMemoryError("the GPU")):
        with pytest.raises(type(error)) as caught:
            fail(error)
        assert caught.value is error


def test_releasing_is_harmless() -> None:
    release_free_memory()
