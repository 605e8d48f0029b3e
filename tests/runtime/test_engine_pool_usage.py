from __future__ import annotations

import contextlib
import random
import signal
import threading
from types import FrameType
from typing import NoReturn

import pytest
from joined_threads import join_all

from samclip.errors import ClosedError
from samclip.runtime import engine_pool as usage_module
from samclip.runtime.engine_pool import Usage


def test_closing_waits_for_other_threads_and_frees_then() -> None:
    usage, freed, began, end = Usage(), [], threading.Event(), threading.Event()

    def use() -> None:
        with usage.hold(lambda: None):
            began.set()
            end.wait(60)
            freed.append("still used")

    thread = threading.Thread(target=use)
    thread.start()
    began.wait(60)
    threading.Timer(0.05, end.set).start()
    usage.close(lambda: freed.append("freed"))
    assert freed == ["still used", "freed"]
    thread.join()
    with pytest.raises(ClosedError, match="Load it again"), usage.hold(lambda: None):
        pass


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal here")
def test_a_signals_handler_closes_during_a_use_of_its_own_thread() -> None:
    """It would wait for ever for the very use that it interrupts."""
    usage, freed = Usage(), []

    def free() -> None:
        freed.append(True)

    before = signal.signal(signal.SIGUSR1, lambda *_: usage.close(free))
    try:
        with usage.hold(free):
            signal.raise_signal(signal.SIGUSR1)
            assert usage.closed
            assert freed == []
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert freed == [True]


class Alarm(BaseException):
    """What Ctrl-C is, without pytest's own ideas about it."""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
@pytest.mark.parametrize("rounds", [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_an_interrupt_at_any_step_holds_nobody_up(
    rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signals at random moments of uses that do nothing else."""
    monkeypatch.setattr(usage_module, "LOOK_SECONDS", 0.01)
    rng = random.Random(0)

    def ring(number: int, frame: FrameType | None) -> NoReturn:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        for _ in range(rounds):
            usage = Usage()
            with contextlib.suppress(Alarm):
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 3e-4))
                while True:
                    with usage.hold(lambda: None):
                        pass
            closing = threading.Thread(target=usage.close, args=(lambda: None,), daemon=True)
            closing.start()
            join_all([closing], 60)
    finally:
        signal.signal(signal.SIGALRM, before)
