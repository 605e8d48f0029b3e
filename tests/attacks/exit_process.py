"""A process whose interpreter ends while it still has a model, in one of many states.

`python exit_process.py BUNDLE BACKEND CASE`; it must end with status 0 and print "END" alone.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from mixed_calls import CALLS, NAMES, photos

import samclip

SECONDS = 120  # a process or child that takes longer hangs, even on a busy machine
PICTURES = photos()
LARGE = np.resize(PICTURES[0], (900, 1200, 3))


def forever(work: Callable[[], object]) -> threading.Thread:
    """Start a daemon thread that works without end; return once it has worked once."""
    began = threading.Event()

    def loop() -> None:
        while True:
            work()
            began.set()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    assert began.wait(SECONDS)
    return thread


def use_all(model: samclip.Model) -> None:
    """Make calls of every kind on a picture."""
    with model.encode(LARGE) as scene:
        for ask in CALLS.values():
            ask(scene)


def daemons(model: samclip.Model, load: Callable[[], samclip.Model]) -> None:
    """Three threads in calls of every kind."""
    for _ in range(3):
        forever(lambda: use_all(model))


def stubborn(model: samclip.Model, load: Callable[[], samclip.Model]) -> None:
    """A thread that goes on whatever is raised in it."""

    def call() -> None:
        try:
            use_all(model)
        except BaseException:
            time.sleep(0)

    forever(call)


def loads(model: samclip.Model, load: Callable[[], samclip.Model]) -> None:
    """A thread that loads and closes models."""
    forever(lambda: load().close())


def closes(model: samclip.Model, load: Callable[[], samclip.Model]) -> None:
    """An exit handler that uses the model and closes it, while a thread works."""

    def call() -> None:
        try:
            use_all(model)
        except samclip.ClosedError:
            sys.exit()

    forever(call)
    atexit.register(lambda: (use_all(model), model.close()))


def daemon_series(model: samclip.Model, load: Callable[[], samclip.Model]) -> None:
    """A thread in the middle of a series."""
    forever(lambda: list(model.answer_all(PICTURES * 3, lambda scene: scene.classify(NAMES))))


def generators(model: samclip.Model, load: Callable[[], samclip.Model]) -> Iterator[object]:
    """Series that nobody reads on; one within the other."""
    inner = model.encode_all(PICTURES * 50)
    outer = model.answer_all((next(inner).image for _ in range(50)), lambda scene: scene.size)
    next(outer)
    next(model.encode_all(PICTURES))
    return outer


def late_thread(model: samclip.Model, load: Callable[[], samclip.Model]) -> None:
    """A thread that is no daemon ends its work before the interpreter goes."""

    def work() -> None:
        time.sleep(0.2)
        use_all(model)
        next(iter(model.answer_all(PICTURES, lambda scene: scene.classify(NAMES))))

    threading.Thread(target=work).start()


def in_child(work: Callable[[], object]) -> None:
    """Fork a child that works and ends as any program does; it must end with status 0."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        work()
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0


def idle_child(model: samclip.Model, load: Callable[[], samclip.Model]) -> object:
    """A child that does nothing with what it inherited, while threads of the parent work."""
    scene = model.encode(LARGE)
    masks = scene.segment(boxes=[(5, 5, 40, 40)], return_logits=True)
    reading = generators(model, load)
    threads = [forever(lambda: use_all(model)) for _ in range(2)]
    for _ in range(3):
        in_child(lambda: None)
    return scene, masks, reading, threads


def dropping_child(model: samclip.Model, load: Callable[[], samclip.Model]) -> None:
    """A child that drops what it inherited, and has a child itself."""
    kept: list[object] = [model, idle_child(model, load)]

    def drop() -> None:
        model.close()
        kept.clear()
        in_child(lambda: None)

    in_child(drop)


def loading_child(model: samclip.Model, load: Callable[[], samclip.Model]) -> None:
    """A child that loads a model of its own, where the backend allows it."""
    use_all(model)

    def work() -> None:
        try:
            with samclip.load(sys.argv[1], "onnxruntime", threads=1) as own:
                use_all(own)
        except samclip.BackendUnavailableError:
            pass

    in_child(work)


CASES = {
    case.__name__: case
    for case in (
        daemons,
        stubborn,
        loads,
        closes,
        daemon_series,
        generators,
        late_thread,
        idle_child,
        dropping_child,
        loading_child,
    )
}
kept: list[object] = []  # until the interpreter ends


def main(arguments: Sequence[str]) -> None:
    bundle, backend, case = arguments
    warnings.filterwarnings("ignore", "This process.*fork", DeprecationWarning)
    signal.alarm(SECONDS * 2)

    def load() -> samclip.Model:
        return samclip.load(bundle, backend, threads=1, streams=2)

    model = load()
    kept.append((model, CASES[case](model, load)))
    print("END", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
