"""A bundle's graphs on ONNX Runtime's CUDA provider, every variant that is for it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from processes import need
from report import Row, attempt

from parts.engine_times import judge_engine
from parts.samples import Sample, open_bundle, samples
from samclip.engines.base import EngineOptions, library_version
from samclip.engines.onnxruntime.backend import CPU, CUDA, OrtTensor
from samclip.engines.onnxruntime.library import import_library
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Variant


def check_ort_cuda(options: Namespace) -> Iterator[Row]:
    """Judge and time every variant; on a dry run those of ONNX Runtime's CPU."""
    backend = CPU if options.dry_run else CUDA
    probe = backend.probe()
    need(probe.available, f"{probe.detail}. {probe.remedy}")
    bundle = open_bundle(options)
    version = library_version(backend)
    for sample in samples(bundle, options):
        for variant in getattr(bundle.manifest.graphs, sample.graph).variants:
            if backend.name not in variant.backends or variant.unmet_need(backend.name, version):
                continue
            where = f"{sample.graph} {variant.precision} {variant.attention or ''}".strip()

            def check(
                variant: Variant = variant, sample: Sample = sample, where: str = where
            ) -> Iterator[Row]:
                yield from _check_variant(where, bundle, variant, sample, backend, options)

            yield from attempt(where, check)


def _check_variant(
    where: str, bundle: Bundle, variant: Variant, sample: Sample, backend: Any, options: Namespace
) -> Iterator[Row]:
    library = import_library()

    def place(array: Any) -> OrtTensor:
        device = "cpu" if options.dry_run else "cuda"
        return OrtTensor(library.OrtValue.ortvalue_from_numpy(array, device, options.device))

    source = bundle.variant_source(sample.graph, variant)
    settings = EngineOptions(device=options.device)
    with closing(backend.load(source, settings)) as engine:
        yield from judge_engine(
            where, engine, sample, variant.precision, place, bundle.manifest, options
        )
