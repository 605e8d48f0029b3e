"""What a library says of its input, and what only interrupts a call into it."""

from __future__ import annotations

import ctypes
import json
import signal
import struct
import threading
import time
from collections.abc import Callable
from types import FrameType

import pytest
from PIL import Image

from samclip.library_errors import is_library_error


class OwnTimeLimitError(Exception):
    """What a caller's watchdog raises."""


def caught(call: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as found:
        call()
    return found.value


def test_what_a_library_says_of_its_input() -> None:
    assert is_library_error(caught(lambda: Image.open(__file__)), "PIL")
    assert is_library_error(caught(lambda: json.loads("{")))
    assert is_library_error(struct.error("needs 4 bytes"))


@pytest.mark.parametrize("kind", [OwnTimeLimitError, TimeoutError, RuntimeError, ValueError])
def test_what_a_signal_handler_raises(kind: type[Exception]) -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise kind("too slow")

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        error = caught(lambda: json.loads("[" + "1," * 30_000_000 + "1]"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert type(error) is kind
    assert not is_library_error(error)


def test_what_is_raised_into_a_thread() -> None:
    errors: list[Exception] = []

    def work() -> None:
        errors.append(caught(lambda: [time.sleep(0.001) for _ in range(5_000)]))

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.05)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident or 0), ctypes.py_object(OwnTimeLimitError)
    )
    thread.join()
    assert type(errors[0]) is OwnTimeLimitError
    assert not is_library_error(errors[0])


@pytest.mark.parametrize("kind", [MemoryError, RecursionError, KeyboardInterrupt, SystemExit])
def test_lack_of_memory_and_stops(kind: type[BaseException]) -> None:
    assert not is_library_error(kind())


def test_errors_of_other_packages() -> None:
    error = caught(lambda: Image.open(__file__))
    assert type(error).__module__.partition(".")[0] == "PIL"
    assert not is_library_error(error, "onnxruntime")
