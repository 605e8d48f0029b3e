"""The variants of a graph in each reduced precision: their backends, lowerings and order.

All variants of a graph share one weights file. Their order in the manifest is the order of
preference: the variant that a backend computes fastest comes first, and FP32, which every backend
takes, last.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import get_args

from samclip.export.graph_files import GraphFiles
from samclip.export.options import (
    EXPORT_BACKENDS,
    FUSED,
    FUSED_BACKENDS,
    INT8_PRECISIONS,
    backends_for,
)
from samclip.runtime.bundles.manifest import Precision, ReducedPrecision, Variant, base_name

PREFERENCE: tuple[Precision, ...] = ("int8_fp16", "fp16", "bf16", "int8", "fp32")

# Which backends each reduced precision is for; those that take the most precisions come first.
# FP16 and BF16 pay where there are kernels for them, which ONNX Runtime and OpenVINO do not have on
# CPUs. These take Q/DQ in an FP32 graph, TensorRT takes it in an FP16 graph; ONNX Runtime's CUDA
# provider has no integer products and would only convert.
BACKENDS: dict[ReducedPrecision, tuple[str, ...]] = {
    precision: tuple(
        backend.name
        for backend in sorted(EXPORT_BACKENDS, key=lambda b: -len(b.traits.precisions))
        if precision in backend.traits.precisions
    )
    for precision in get_args(ReducedPrecision)
}

# The text encoder runs once per vocabulary and its embeddings are cached, so INT8 would cost
# accuracy and gain nothing; the mask decoder is small and draws the borders.
QUANTISED_GRAPHS = ("encoder", "clip_head", "clip_encoder")


def reduced_variants(files: GraphFiles, precision: ReducedPrecision) -> tuple[Variant, ...]:
    """Describe the variants of `precision` to make, each from the FP32 variant of its lowering.

    A lowering that no backend prefers among those of the graph gets none; `fused` is for the
    backends that have kernels for it, in half precision. INT8 for CPUs uses only `chunk`, where the
    graph has it: calibrating `wide` as well would double the longest part of an export.
    """
    if precision in INT8_PRECISIONS and base_name(files.name) not in QUANTISED_GRAPHS:
        return ()
    full = full_variants(files)
    forms = tuple(v.attention for v in full if v.attention is not None)
    if precision == "int8" and "chunk" in forms:
        forms = tuple(form for form in forms if form != "wide")
    made = []
    for variant in full:
        if variant.attention == FUSED:
            best: tuple[str, ...] | None = FUSED_BACKENDS if precision != "int8" else ()
        else:
            best = backends_for(variant.attention, forms) if variant.attention else None
        backends = tuple(b for b in BACKENDS[precision] if best is None or b in best)
        if backends:
            made.append(
                Variant(
                    file=f"{PurePosixPath(variant.file).stem}.{precision}.onnx",
                    weights=variant.weights,
                    weights_dtype=variant.weights_dtype,
                    precision=precision,
                    attention=variant.attention,
                    opset=variant.opset,
                    backends=backends,
                    needs=variant.needs,
                )
            )
    return tuple(made)


def full_variants(files: GraphFiles) -> tuple[Variant, ...]:
    """Return a graph's FP32 variants in its order."""
    return tuple(v for v in files.graph.variants if v.precision == "fp32")


def full_variant(files: GraphFiles, reduced: Variant) -> Variant:
    """Return the FP32 variant of the same lowering, from which `reduced` is made."""
    return next(v for v in full_variants(files) if v.attention == reduced.attention)


def in_order(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """Sort variants by preference; lowerings of one precision keep their order, `fused` first.

    A backend whose library cannot read `fused` takes the next one.
    """
    return tuple(
        sorted(variants, key=lambda v: (PREFERENCE.index(v.precision), v.attention != FUSED))
    )
