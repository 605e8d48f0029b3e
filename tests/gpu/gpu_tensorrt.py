"""TensorRT on the GPU: build, gate, time, memory, callers at once, and running out of memory."""

from __future__ import annotations

import threading
from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from gpu_engines import Sample, judge, milliseconds, open_bundle, samples
from gpu_report import Row, Skip

from samclip.engines.base import EngineOptions, library_version
from samclip.engines.cuda.device import open_device
from samclip.engines.registry import get_backend
from samclip.errors import DeviceMemoryError
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.plans.building import PlanSettings, build_plans

MIB = 2**20
MOST_GROWTH = 1.0  # MiB over all calls


def check_tensorrt(options: Namespace) -> Iterator[Row]:
    yield from _check(options, "tensorrt")


def check_tensorrt_rtx(options: Namespace) -> Iterator[Row]:
    yield from _check(options, "tensorrt-rtx")


def _check(options: Namespace, name: str) -> Iterator[Row]:
    if options.dry_run:
        raise Skip("needs a GPU")
    probe = get_backend(name).probe()
    if not probe.available:
        raise Skip(f"{probe.detail}. {probe.remedy}")
    bundle = open_bundle(options)
    known = samples(bundle, options)
    variants = bundle.manifest.graphs.encoder.variants
    for precision in dict.fromkeys(v.precision for v in variants if v.serves(name, None)):
        settings = PlanSettings(backend=name, precision=precision, device=options.device)
        for built in build_plans(bundle, settings):
            sidecar = built.stored.sidecar
            if sidecar is not None:
                what = f"{sidecar.graph.name} {sidecar.graph.precision} {name}: build"
                yield Row(what, sidecar.seconds, "s")
                yield Row(f"{what}, size", built.stored.size / MIB, "MiB")
        for sample in known:
            yield from _check_graph(bundle, name, precision, sample, options)


def _check_graph(
    bundle: Bundle, name: str, precision: str, sample: Sample, options: Namespace
) -> Iterator[Row]:
    described = getattr(bundle.manifest.graphs, sample.graph)
    version = library_version(get_backend(name))
    if described.variant_for(name, precision, version) is None:
        return
    source = bundle.source(sample.graph, name, precision, version)
    where = f"{sample.graph} {precision} {name} ({source.attention})"
    settings = EngineOptions(device=options.device)
    for graphs in (False, True):
        chosen = replace(settings, cuda_graphs=graphs)
        with closing(get_backend(name).load(source, chosen)) as engine:
            with_graphs = f"{where} {'with' if graphs else 'without'} CUDA graphs"
            yield from judge(with_graphs, engine, sample, options)
    with closing(get_backend(name).load(source, settings)) as engine:
        yield _growth(where, engine, sample, options)
        yield from _callers(where, engine, sample, options)
        yield from _shortage(where, engine, sample, options)


def _growth(where: str, engine: Any, sample: Sample, options: Namespace) -> Row:
    """Device memory taken by many calls, as the driver counts it, after a warm-up."""
    with closing(open_device(options.device)) as device:

        def used() -> float:
            with device.active():
                free, total = device.free_memory()
            return (total - free) / MIB

        milliseconds(engine, sample, options)
        before = used()
        for _ in range(options.calls):
            engine.run(sample.feeds)
        grown = used() - before
    return Row(
        f"{where}: growth over {options.calls} calls", grown, "MiB", MOST_GROWTH, at_most=True
    )


def _callers(where: str, engine: Any, sample: Sample, options: Namespace) -> Iterator[Row]:
    """Several threads at once give what one gives alone."""
    alone = {k: v.numpy() for k, v in engine.run(sample.feeds).items()}
    for threads in (2, 8):
        gate = threading.Barrier(threads)

        def call(_: int, gate: threading.Barrier = gate) -> float:
            gate.wait()
            worst = 0.0
            for _ in range(10):
                for key, tensor in engine.run(sample.feeds).items():
                    worst = max(worst, float(np.abs(tensor.numpy() - alone[key]).max()))
            return worst

        with ThreadPoolExecutor(threads) as pool:
            worst = max(pool.map(call, range(threads)))
        scale = max(float(np.abs(value).max()) for value in alone.values())
        yield Row(f"{where}: {threads} callers differ by", worst / scale, "", 1e-3, at_most=True)


def _shortage(where: str, engine: Any, sample: Sample, options: Namespace) -> Iterator[Row]:
    """With all memory taken a run fails with its own error or works; afterwards it works."""
    kept = [engine.run(sample.feeds)]
    outcome = "worked from memory that was kept"
    with closing(open_device(options.device)) as device:
        taken = []
        with device.active():
            for size in (256 * MIB, 16 * MIB, MIB, MIB // 16):
                try:
                    while True:
                        taken.append(device.allocate(size))
                except DeviceMemoryError:
                    continue
        try:
            kept += [engine.run(sample.feeds) for _ in range(3)]
        except DeviceMemoryError:
            outcome = "DeviceMemoryError"
        finally:
            with device.active():
                for address in taken:
                    device.free(address)
    yield Row(f"{where}: out of memory", outcome)
    kept.clear()
    got = {k: v.numpy() for k, v in engine.run(sample.feeds).items()}
    sound = all(np.isfinite(value).all() for value in got.values())
    yield Row(f"{where}: works again afterwards", int(sound), "", 1)
