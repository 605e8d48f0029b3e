"""TensorRT and TensorRT for RTX: build, accuracy, time, memory, callers at once, and a shortage."""

from __future__ import annotations

import importlib.util
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

from processes import need
from report import NotHereError, Row, attempt

from parts.engine_times import judge_engine
from parts.loads import MIB, callers, growth, shortage
from parts.machines import Machine, machine_of, with_memory
from parts.samples import Sample, open_bundle, samples
from samclip.engines.backend_names import TENSORRT_RTX
from samclip.engines.base import Engine, EngineOptions, GraphSource, library_version
from samclip.engines.plans.request import BuiltPlan
from samclip.engines.registry import get_backend
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.plans.building import PlanSettings, build_plans, plan_source

DRY_GRAPHS = ("clip_head",)  # of the shipped bundle: seconds to build and to run
DRY_TARGET = "sm86"


def check_plans(name: str, options: Namespace) -> Iterator[Row]:
    """Check one of the two libraries, all that the bundle has for it, FP32 first."""
    if options.dry_run:
        yield from _dry_run(name, options)
        return
    probe = get_backend(name).probe()
    need(probe.available, f"{probe.detail}. {probe.remedy}")
    machine = machine_of(options)
    bundle = open_bundle(options)
    known = samples(bundle, options)
    version = library_version(get_backend(name))
    for precision in precisions(bundle, name):
        graphs = tuple(options.graphs or ())
        settings = PlanSettings(name, graphs, precision, device=options.device)
        yield from attempt(f"build, {precision}", lambda s=settings: build(bundle, s))
        for sample in known:
            described = getattr(bundle.manifest.graphs, sample.graph)
            if described.variant_for(name, precision, version) is None:
                continue
            source = bundle.source(sample.graph, name, precision, version)
            where = f"{sample.graph} {precision} ({source.attention})"

            def check(
                source: GraphSource = source, sample: Sample = sample, where: str = where
            ) -> Iterator[Row]:
                yield from check_graph(where, name, source, sample, machine, bundle, options)

            yield from attempt(where, check)


def precisions(bundle: Bundle, name: str) -> tuple[str, ...]:
    """List the precisions that the encoder has for a library, FP32 first."""
    variants = bundle.manifest.graphs.encoder.variants
    found = dict.fromkeys(v.precision for v in variants if name in v.backends)
    return tuple(sorted(found, key=lambda precision: precision != "fp32"))


def build(bundle: Bundle, settings: PlanSettings) -> Iterator[Row]:
    """Build the plans of a bundle: seconds, size, and the verdict of their gate."""
    for built in build_plans(bundle, settings):
        yield from describe(built)


def describe(built: BuiltPlan) -> Iterator[Row]:
    sidecar = built.stored.sidecar
    if sidecar is None:
        raise AssertionError(f"{built.stored.path} has no sidecar")
    graph = sidecar.graph
    what = f"{graph.name} {graph.precision} ({graph.attention}): build"
    yield Row(what, sidecar.seconds, "s")
    yield Row(f"{what}, size", built.stored.size / MIB, "MiB")
    yield Row(f"{what}, gate", sidecar.gate.state)
    if sidecar.asked is not None:
        yield Row(f"{what} stands in for", str(sidecar.asked))


def check_graph(
    where: str,
    name: str,
    source: GraphSource,
    sample: Sample,
    machine: Machine,
    bundle: Bundle,
    options: Namespace,
) -> Iterator[Row]:
    """Judge and time an engine with and without captured graphs, then put it under load."""
    settings = EngineOptions(device=options.device)

    def place(array: object) -> object:
        return machine.place(array, options.device)

    for graphs in (True, False):
        begun = time.monotonic()
        chosen = replace(settings, cuda_graphs=graphs)
        how = f"{where} {'with' if graphs else 'without'} CUDA graphs"
        with closing(machine.load(name, source.whole(), chosen)) as engine:
            yield Row(f"{how}: loaded after", time.monotonic() - begun, "s")
            yield from judge_engine(
                how, engine, sample, source.precision, place, bundle.manifest, options
            )
    with closing(machine.load(name, source.whole(), settings)) as engine:
        yield growth(where, engine, sample.feeds, machine, options)
        yield from callers(where, engine, sample.feeds, options)

    def start(limited: Machine) -> Engine:
        return limited.load(name, source.whole(), settings)

    yield from shortage(where, start, sample.feeds, machine, options)


def _dry_run(name: str, options: Namespace) -> Iterator[Row]:
    """Build a real plan where that needs no GPU; run the graph on the stand-ins."""
    bundle = open_bundle(options)
    graphs = tuple(options.graphs or DRY_GRAPHS)
    if name == TENSORRT_RTX:
        settings = PlanSettings(name, graphs, "fp32", targets=(DRY_TARGET,), preflight=False)
        yield from attempt("build", lambda: _build_dry(bundle, settings))
    machine = machine_of(options)
    for sample in samples(bundle, Namespace(**{**vars(options), "graphs": graphs})):
        source = plan_source(bundle, sample.graph, name, "fp32")
        for stands in (machine, with_memory(machine, integrated=True)):
            where = f"{sample.graph} fp32, {'shared' if stands.integrated else 'own'} memory"

            def check(
                stands: Machine = stands,
                source: GraphSource = source,
                sample: Sample = sample,
                where: str = where,
            ) -> Iterator[Row]:
                yield from check_graph(where, name, source, sample, stands, bundle, options)

            yield from attempt(where, check)


def _build_dry(bundle: Bundle, settings: PlanSettings) -> Iterator[Row]:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        raise NotHereError("tensorrt_rtx is not installed, which builds without a GPU")
    yield from build(bundle, settings)
