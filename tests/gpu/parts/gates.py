"""The gates of reduced precision on the device: whole tasks, FP32 there against FP16, BF16, INT8.

An export judges half precision by emulation; here the kernels themselves answer, and the export's
figure stands next to the device's.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from processes import need
from report import Row, attempt

from parts.machines import StandInBackend, machine_of
from parts.plans import build
from parts.samples import open_bundle
from samclip.engines.backend_names import CUDA
from samclip.engines.base import Backend, EngineOptions, library_version
from samclip.engines.onnxruntime.backend import CPU
from samclip.engines.plans.library import KINDS
from samclip.engines.registry import get_backend
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import ReducedPrecision
from samclip.runtime.model import Model
from samclip.runtime.pixels.image import photo_paths
from samclip.runtime.plans.building import PlanSettings


def check_gates(name: str, options: Namespace) -> Iterator[Row]:
    """Judge every reduced precision of the bundle; a dry run compares FP32 with itself."""
    bundle = open_bundle(options)
    if options.dry_run:
        backend = CPU if name == CUDA else StandInBackend(name, machine_of(options))
        yield from _judge(bundle, backend, {"fp16": "fp32"}, options)
        return
    backend = get_backend(name)
    probe = backend.probe()
    need(probe.available, f"{probe.detail}. {probe.remedy}")
    found = reduced(bundle, name)
    need(found, f"the bundle has nothing but FP32 for {name}; export it with --fp16 --int8")
    yield from _judge(bundle, backend, {precision: precision for precision in found}, options)


def reduced(bundle: Bundle, backend: str) -> tuple[ReducedPrecision, ...]:
    """List the reduced precisions that the encoder has for a backend, the preferred one first."""
    version = library_version(get_backend(backend))
    encoder = bundle.manifest.graphs.encoder
    every: tuple[ReducedPrecision, ...] = get_args(ReducedPrecision)
    found = {
        precision: chosen
        for precision in every
        if (chosen := encoder.variant_for(backend, precision, version)) is not None
        and chosen.precision == precision
    }
    return tuple(sorted(found, key=lambda p: encoder.variants.index(found[p])))


def _judge(
    bundle: Bundle, backend: Backend, precisions: dict[ReducedPrecision, str], options: Namespace
) -> Iterator[Row]:
    """Judge what runs in a precision by the limits of another one, its key."""
    from samclip.export.precision.gates import Gate
    from samclip.progress import SILENT

    photos = photo_paths(options.photos)[: 1 if options.dry_run else None]
    with _model(bundle, backend, "fp32", options) as exact:
        gate = Gate(exact, photos, SILENT)
    for limits, precision in precisions.items():

        def check(limits: ReducedPrecision = limits, precision: str = precision) -> Iterator[Row]:
            with _model(bundle, backend, precision, options) as model:
                judgement = gate.judge(model, limits)
            emulated = _emulated(bundle, precision)
            for row in judgement.rows:
                what = f"{precision}: {row.measure}, {row.samples:,} samples"
                yield Row(what, row.value, "", row.limit)
                if row.measure in emulated:
                    yield Row(f"{what}: at the export, emulated", emulated[row.measure])
            for reason in judgement.skipped:
                yield Row(f"{precision}: not judged", reason)

        yield from attempt(f"gate of {precision}", check)


def _emulated(bundle: Bundle, precision: str) -> dict[str, float]:
    """Return what the export measured for a precision."""
    for reduction in bundle.manifest.reductions:
        if reduction.precision == precision:
            return {row.measure: row.value for row in reduction.gates}
    return {}


@contextmanager
def _model(bundle: Bundle, backend: Backend, precision: str, options: Namespace) -> Iterator[Model]:
    """Run a bundle in a precision, its plans built first where it takes any."""
    if backend.name in KINDS and not options.dry_run:
        settings = PlanSettings(backend.name, (), precision, device=options.device)
        for row in build(bundle, settings):
            print(f"  {row.what}: {row.value} {row.unit}", flush=True)
    engine_options = EngineOptions(device=options.device)
    with (
        tempfile.TemporaryDirectory(prefix="samclip-texts-") as cache,
        Model(bundle, backend, engine_options, precision, Path(cache)) as model,
    ):
        yield model
