"""The gates of reduced precision on the device: whole tasks, FP32 there against FP16, BF16, INT8.

An export judges half precision by emulation; here the kernels themselves answer.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from gpu_engines import CPU, open_bundle
from gpu_report import Row, Skip

from samclip.engines.base import EngineOptions, library_version
from samclip.engines.registry import get_backend
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import ReducedPrecision
from samclip.runtime.model import Model
from samclip.runtime.plans.building import PlanSettings, build_plans


def check_gates(backend: str) -> Callable[[Namespace], Iterator[Row]]:
    """Make the check of one backend; a dry run takes ONNX Runtime's CPU for "cuda"."""

    def check(options: Namespace) -> Iterator[Row]:
        name = CPU if options.dry_run and backend == "cuda" else backend
        if options.dry_run and name != CPU:
            raise Skip("needs a GPU")
        probe = get_backend(name).probe()
        if not probe.available:
            raise Skip(f"{probe.detail}. {probe.remedy}")
        bundle = open_bundle(options)
        precisions = reduced(bundle, name)
        if options.dry_run:  # FP32 against itself: every measure is one
            yield from _judge(bundle, name, {"fp16": "fp32"}, options)
        elif precisions:
            yield from _judge(bundle, name, {p: p for p in precisions}, options)
        else:
            raise Skip(f"the bundle has nothing but FP32 for {name}; export it with --fp16 --int8")

    return check


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
    bundle: Bundle, name: str, precisions: dict[ReducedPrecision, str], options: Namespace
) -> Iterator[Row]:
    """Judge what runs in a precision by the limits of another one, its key."""
    from samclip.export.precision.gates import Gate
    from samclip.progress import SILENT
    from samclip.runtime.pixels.image import photo_paths

    photos = photo_paths(options.photos)[: 1 if options.dry_run else None]
    with _model(bundle, name, "fp32", options) as exact:
        gate = Gate(exact, photos, SILENT)
    for limits, precision in precisions.items():
        with _model(bundle, name, precision, options) as model:
            judgement = gate.judge(model, limits)
        form = bundle.manifest.graphs.encoder.variant_for(
            name, precision, library_version(get_backend(name))
        )
        where = f"{name} {precision} ({form.attention if form else None})"
        for row in judgement.rows:
            yield Row(f"{where}: {row.measure}, {row.samples:,} samples", row.value, "", row.limit)
        for reason in judgement.skipped:
            yield Row(f"{where}: not judged", reason)


@contextmanager
def _model(bundle: Bundle, name: str, precision: str, options: Namespace) -> Iterator[Model]:
    """Run a bundle in a precision, its plans built first where it takes any."""
    if name.startswith("tensorrt"):
        plans = PlanSettings(backend=name, precision=precision, device=options.device)
        for _ in build_plans(bundle, plans):
            pass
    settings = EngineOptions(device=options.device)
    with (
        tempfile.TemporaryDirectory(prefix="samclip-texts-") as cache,
        Model(bundle, get_backend(name), settings, precision, Path(cache)) as model,
    ):
        yield model
