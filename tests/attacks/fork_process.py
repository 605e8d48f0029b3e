"""A process that forks children which use a model; prints the counts of their ends as JSON.

`python fork_process.py BUNDLE BACKEND CASE ROUNDS`. Cases: `before` the process loads a model;
`after`, while two threads of the parent use it; `during`, while two threads load others; `spawn`
and `forkserver`, by multiprocessing.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence

from mixed_calls import CALLS, NAMES, digest, photos

import samclip
from samclip.errors import SamclipError

SECONDS = 300  # a child that takes longer hangs, even on a busy machine
PICTURE = photos()[0]


def answer_afresh(bundle: str, backend: str) -> str:
    """Load the model in this process, and digest the answers to calls of every kind."""
    with samclip.load(bundle, backend, threads=2) as model, model.encode(PICTURE) as scene:
        return digest([digest(ask(scene)) for ask in CALLS.values()])


def outcome(work: Callable[[], object]) -> str:
    """Return the name of the typed error of `work`, or "answer"; other errors pass through."""
    try:
        work()
    except SamclipError as error:
        return type(error).__name__
    return "answer"


def in_fork(work: Callable[[], str]) -> str:
    """Do work in a forked child; return what it writes, or how it ended without writing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(SECONDS - 10)
        signal.alarm(SECONDS)
        with contextlib.suppress(BaseException):
            os.write(writing, work().encode())
            os._exit(0)
        os._exit(3)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        written = pipe.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGALRM:
        return "hang"
    return written if status == 0 else f"exit {status}"


def before(bundle: str, backend: str, rounds: int) -> Counter[str]:
    """Fork before any model was loaded in this process."""
    expected = in_fork(lambda: answer_afresh(bundle, backend))
    ends = Counter(in_fork(lambda: answer_afresh(bundle, backend)) for _ in range(rounds))
    return Counter({"answer" if end == expected else end: n for end, n in ends.items()})


def after(bundle: str, backend: str, rounds: int) -> Counter[str]:
    """Fork while two threads use a model, whatever locks they hold."""
    expected = answer_afresh(bundle, backend)
    model = samclip.load(bundle, backend, threads=2)
    scene = model.encode(PICTURE)
    ended = threading.Event()

    def work(number: int) -> None:
        while not ended.is_set():
            model.encode(PICTURE).classify([*NAMES, f"{number} {time.monotonic_ns()}"])
            scene.segment(points=[(5, 5)], names=NAMES)

    def child() -> str:
        uses = [*(lambda ask=ask: ask(scene) for ask in CALLS.values())]
        uses += [lambda: model.encode(PICTURE), lambda: model.vocabulary(NAMES), model.close]
        ends = [outcome(use) for use in uses]
        if ends != ["EngineRunError"] * (len(uses) - 1) + ["answer"]:
            return f"old model: {ends}"
        try:
            return "answer" if answer_afresh(bundle, backend) == expected else "other answer"
        except SamclipError as error:
            return type(error).__name__

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(2)]
    for thread in threads:
        thread.start()
    ends = Counter(in_fork(child) for _ in range(rounds))
    ended.set()
    for thread in threads:
        thread.join(SECONDS)
    ends["parent works on"] += int(outcome(lambda: scene.segment(points=[(5, 5)])) == "answer")
    return ends


def during(bundle: str, backend: str, rounds: int) -> Counter[str]:
    """Fork while two threads load and close models."""
    expected = answer_afresh(bundle, backend)
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            samclip.load(bundle, backend, threads=2).close()

    def child() -> str:
        try:
            return "answer" if answer_afresh(bundle, backend) == expected else "other answer"
        except SamclipError as error:
            return type(error).__name__

    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    ends = Counter(in_fork(child) for _ in range(rounds))
    ended.set()
    for thread in threads:
        thread.join(SECONDS)
    return ends


def by_multiprocessing(method: str, bundle: str, backend: str, rounds: int) -> Counter[str]:
    """Let a pool of two processes load the model, after the parent has loaded it too."""
    expected = answer_afresh(bundle, backend)
    with multiprocessing.get_context(method).Pool(2) as pool:
        given = pool.starmap_async(answer_afresh, [(bundle, backend)] * rounds).get(SECONDS * 5)
    return Counter("answer" if one == expected else "other answer" for one in given)


def main(arguments: Sequence[str]) -> None:
    bundle, backend, case, rounds = arguments
    warnings.filterwarnings(
        "ignore", "This process.*fork", DeprecationWarning
    )  # forks are tested here
    own = {"before": before, "after": after, "during": during}
    if case in own:
        ends = own[case](bundle, backend, int(rounds))
    else:
        ends = by_multiprocessing(case, bundle, backend, int(rounds))
    print(json.dumps(ends))


if __name__ == "__main__":
    main(sys.argv[1:])
