"""A process whose long work is interrupted again and again; prints the ends of its rounds as JSON.

`python interrupt_process.py BUNDLE BACKEND ROUNDS` has a timer send what Ctrl-C sends, once or many
times in a row. With ROUNDS 0 it says "at work" and works until a real one ends it.
"""

from __future__ import annotations

import itertools
import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from mixed_calls import CALLS, NAMES, digest, photos

import samclip

SECONDS = 300.0  # a thread that is still alive after this time hangs
PICTURES = photos()


def endless() -> Iterator[object]:
    return itertools.cycle(PICTURES)


def ask(scene: samclip.Scene) -> str:
    return digest([scene.classify(NAMES), scene.segment(points=[(5, 5)], names=NAMES)])


def encode_all(model: samclip.Model) -> None:
    for scene in model.encode_all(endless()):
        ask(scene)


def answer_all(model: samclip.Model) -> None:
    for _ in model.answer_all(endless(), ask):
        pass


def everything(model: samclip.Model) -> None:
    while True:
        model.encode(PICTURES[0]).everything(NAMES)


def new_names(model: samclip.Model) -> None:
    for number in itertools.count():
        model.vocabulary([f"name {number} {time.monotonic_ns()} {part}" for part in range(5)])


WORK: tuple[Callable[[samclip.Model], None], ...] = (encode_all, answer_all, everything, new_names)
AT_WORK = {work.__code__ for work in WORK}


class CtrlC:
    """A handler that raises KeyboardInterrupt during the work, `left` times at most."""

    def __init__(self) -> None:
        self.left = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code in AT_WORK and self.left:
                self.left -= 1
                raise KeyboardInterrupt
            frame = frame.f_back


def interrupt_work(model: samclip.Model, number: int, rng: random.Random, ctrl_c: CtrlC) -> str:
    """Do one kind of work until it is interrupted: once, or up to four times within 8 ms."""
    ctrl_c.left = 4 if number % 8 >= 4 else 1
    signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.001, 0.1), 0.002)
    try:
        WORK[number % len(WORK)](model)
    except KeyboardInterrupt:
        return "interrupted"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "ended by itself"


def threads_left() -> int:
    """Wait for the threads of series; return how many hang."""
    end = time.monotonic() + SECONDS
    while True:  # an interrupted start() leaves threads that cannot be joined yet
        own = [thread for thread in threading.enumerate() if thread.name.startswith("samclip-")]
        alive = sum(thread.is_alive() for thread in own)
        if not alive or time.monotonic() > end:
            return alive
        time.sleep(0.002)


def main(arguments: Sequence[str]) -> None:
    bundle, backend, rounds = arguments
    ctrl_c = CtrlC()
    signal.signal(signal.SIGALRM, ctrl_c)
    with samclip.load(bundle, backend, streams=2) as model:
        scene = model.encode(PICTURES[0])
        expected = [digest(call(scene)) for call in CALLS.values()]
        if not int(rounds):
            print("at work", flush=True)
            answer_all(model)
        rng, ends = random.Random(0), Counter[str]()
        for number in range(int(rounds)):
            ends[interrupt_work(model, number, rng, ctrl_c)] += 1
            ends["threads left"] += threads_left()
            right = [digest(call(scene)) for call in CALLS.values()] == expected
            ends["right afterwards" if right else "wrong afterwards"] += 1
        model.close()
    print(json.dumps(ends))


if __name__ == "__main__":
    main(sys.argv[1:])
