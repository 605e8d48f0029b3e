from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from types import FrameType
from typing import Any, NoReturn

import msgspec
import numpy as np
import pytest
from fakes import FakeBackend, FakeBundle, fake_manifest
from joined_threads import join_all

from samclip.engines.base import Engine, EngineOptions, GraphSource, Traits
from samclip.errors import CapabilityError, ClosedError, EngineRunError
from samclip.runtime import engine_pool as engine_pool_module
from samclip.runtime.engine_pool import EnginePool, Usage

IMAGE = {"image": np.zeros((1, 3, 256, 256), np.float32)}


def make_pool(delay: float = 0.0, precision: str | None = None, **parts: bool) -> EnginePool:
    bundle: Any = FakeBundle(fake_manifest(**parts))
    return EnginePool(bundle, FakeBackend(delay=delay), EngineOptions(), precision)


def requested(pool: EnginePool) -> list[Any]:
    bundle: Any = pool.bundle
    return list(bundle.requested)


def test_a_graph_is_loaded_on_its_first_run() -> None:
    pool = make_pool()
    assert requested(pool) == []
    pool.run("encoder", IMAGE)
    pool.run("encoder", IMAGE)
    assert requested(pool) == [("encoder", "fake", None)]


def test_many_threads_load_a_graph_once() -> None:
    pool = make_pool(delay=0.02)  # the fake backend refuses a second load
    threads = [threading.Thread(target=pool.run, args=("encoder", IMAGE)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(requested(pool)) == 1


class Waiting(FakeBackend):
    """Makes the encoder ready once something else has happened."""

    happened = threading.Event()

    def load(self, source: GraphSource, options: EngineOptions) -> Engine:
        if source.name == "encoder":
            assert self.happened.wait(10), "nothing happened meanwhile"
        return super().load(source, options)


def test_another_graph_is_loaded_while_a_backend_makes_the_first_ready() -> None:
    backend = Waiting(traits=Traits(parallel_loads=True))
    pool = EnginePool(FakeBundle(fake_manifest()), backend, EngineOptions())  # type: ignore[arg-type]

    def meanwhile() -> None:
        pool.load("mask_decoder")
        backend.happened.set()

    pool.load("encoder", meanwhile)
    assert set(backend.engines) == {"encoder", "mask_decoder"}


def test_an_error_of_what_is_done_meanwhile_is_that_of_its_use() -> None:
    pool, done = make_pool(clip=False), threading.Event()

    def meanwhile() -> None:
        try:
            pool.load("clip_head")
        finally:
            done.set()

    pool.load("encoder", meanwhile)
    assert done.wait(10)
    with pytest.raises(CapabilityError, match="has no clip_head graph"):
        pool.load("clip_head")


class Noting(FakeBackend):
    """Notes with which options each graph is loaded, and when memory is given back."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[Any] = []

    def release_memory(self) -> None:
        self.noted.append("memory")

    def load(self, source: GraphSource, options: EngineOptions) -> Engine:
        self.noted.append((source.name, options.optimise))
        return super().load(source, options)


def test_memory_is_given_back_before_a_load_and_texts_run_as_they_are_written() -> None:
    manifest = fake_manifest()
    graphs = msgspec.structs.replace(manifest.graphs, text_encoder=manifest.graphs.mask_decoder)
    bundle: Any = FakeBundle(msgspec.structs.replace(manifest, graphs=graphs))
    backend = Noting()
    pool = EnginePool(bundle, backend, EngineOptions())
    pool.load("encoder")
    pool.load("text_encoder")
    assert backend.noted == ["memory", ("encoder", True), "memory", ("text_encoder", False)]


def test_precision_holds_for_the_encoder_and_where_it_is_offered() -> None:
    pool = make_pool(precision="fp16")
    pool.load("encoder")
    pool.load("mask_decoder")
    assert requested(pool) == [("encoder", "fake", "fp16"), ("mask_decoder", "fake", None)]


def test_compute_brings_float32_to_the_host_in_order() -> None:
    embeddings, features = make_pool().compute(
        "encoder", IMAGE, ("image_embeddings", "backbone_features")
    )
    assert embeddings.dtype == features.dtype == np.float32
    np.testing.assert_array_equal(embeddings, features + 1)


def test_a_graph_that_is_absent() -> None:
    pool = make_pool(clip=False)
    assert not pool.has("clip_head")
    assert pool.has("encoder")
    with pytest.raises(CapabilityError, match="clip_head"):
        pool.run("clip_head", {})


def test_closing_waits_for_runs_and_refuses_later_ones() -> None:
    pool = make_pool(delay=0.2)
    pool.load("encoder")
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(pool.run("encoder", IMAGE)))
    thread.start()
    time.sleep(0.05)
    pool.close()  # the fake engine refuses to be closed while it runs
    assert len(results) == 1
    thread.join()
    with pytest.raises(ClosedError, match="Load it again"):
        pool.run("encoder", IMAGE)
    pool.close()
    assert pool.closed


def test_closing_from_many_threads_during_runs() -> None:
    """Every run either answers or raises ClosedError; no engine is closed under a run."""
    for _ in range(20):
        pool = make_pool(delay=0.001)
        outcomes: list[str] = []

        def work(pool: EnginePool = pool, outcomes: list[str] = outcomes) -> None:
            try:
                for _ in range(5):
                    pool.run("encoder", IMAGE)
                outcomes.append("done")
            except ClosedError:
                outcomes.append("closed")

        threads = [threading.Thread(target=work) for _ in range(4)]
        threads += [threading.Thread(target=pool.close) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_gets_an_error_not_a_hang() -> None:
    pool = make_pool()
    pool.load("encoder")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            pool.run("encoder", IMAGE)
        except EngineRunError:
            pool.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    pool.run("encoder", IMAGE)
    pool.close()


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
    monkeypatch.setattr(engine_pool_module, "LOOK_SECONDS", 0.01)
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
