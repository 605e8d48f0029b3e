"""Options of an export, and the lists among them parsed from the command line's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

from samclip.engines.backend_names import (
    CUDA,
    ONNXRUNTIME,
    OPENVINO,
    ORT_TENSORRT,
    TENSORRT,
    TENSORRT_RTX,
)
from samclip.engines.registry import get_backend
from samclip.errors import ExportError, did_you_mean
from samclip.export.models.attention import LOWERINGS, Lowering
from samclip.runtime.bundles.manifest import (
    CropBackground,
    Graphs,
    LabelsDtype,
    NameBy,
    ReducedPrecision,
    WeightsDtype,
)

MAX_MARGIN = 10.0  # shares of a box's longer side
DEFAULT_OPSET = 20  # has Gelu as one operator, and JetPack 6's TensorRT 10.3 still reads it

# The backends that graphs are written for, in the order in which manifests list them.
EXPORT_BACKENDS = tuple(
    get_backend(name)
    for name in (ONNXRUNTIME, OPENVINO, CUDA, TENSORRT, TENSORRT_RTX, ORT_TENSORRT)
)
# The lowerings that each backend runs, the best first.
LOWERINGS_BY_BACKEND: dict[str, tuple[Lowering, ...]] = {
    backend.name: cast("tuple[Lowering, ...]", backend.traits.lowerings)
    for backend in EXPORT_BACKENDS
}

CPU_BACKENDS = tuple(backend.name for backend in EXPORT_BACKENDS if backend.traits.on_host)
CPU_LOWERINGS: tuple[Lowering, ...] = ("chunk", "wide")

# `fused` is written in addition to the others, never instead of them: in half precision only, for
# which TensorRT has kernels, and only newer versions of TensorRT read it.
FUSED: Lowering = "fused"
FUSED_BACKENDS = tuple(b.name for b in EXPORT_BACKENDS if b.traits.fused_attention is not None)

CalibrationMethod = Literal["minmax", "entropy", "percentile"]
SHORT: tuple[ReducedPrecision, ...] = ("fp16", "bf16", "int8")
INT8_PRECISIONS: frozenset[ReducedPrecision] = frozenset({"int8", "int8_fp16"})
HALVES: tuple[ReducedPrecision, ...] = ("int8_fp16", "fp16", "bf16")  # what GPUs take


@dataclass(frozen=True)
class PrecisionOptions:
    """The reduced precisions to add to a bundle, in addition to FP32, and how they are made.

    `keep_fp32`: nodes that stay in FP32 beyond the default, as `parse_keep` reads them; `calib`: a
    folder of photos to measure ranges on, which INT8 needs, and which shares no photo with those
    to verify on; `smooth`: the equalisation's alpha in [0, 1], None for no equalisation.
    """

    precisions: tuple[ReducedPrecision, ...] = ()
    keep_fp32: tuple[str, ...] = ()
    calib: Path | None = None
    calib_method: CalibrationMethod = "minmax"
    smooth: float | None = None


@dataclass(frozen=True)
class WeightsDtypes:
    """The storage of large weights: `graphs` by name, and the `default` for all others."""

    default: WeightsDtype = "fp32"
    graphs: Mapping[str, WeightsDtype] = field(default_factory=dict)

    def of(self, graph: str) -> WeightsDtype:
        """Return the storage of one graph's weights."""
        return self.graphs.get(graph, self.default)


@dataclass(frozen=True)
class TwoTowers:
    """How a bundle of SAM and CLIP side by side names masks, unless its users say otherwise.

    `name_by`: a crop of the photo around each mask, or the tower's tokens inside it. A crop has
    `crop_margin` of the box's longer side added at both ends, at most `MAX_MARGIN`; outside of the
    mask the photo is kept, or masked. Raises ExportError for values out of range.
    """

    name_by: NameBy = "crop-image"
    crop_margin: float = 0.1
    crop_background: CropBackground = "kept"

    def __post_init__(self) -> None:
        if not 0 <= self.crop_margin <= MAX_MARGIN:
            raise ExportError(
                f"the margin of crops must be in [0, {MAX_MARGIN:g}], got {self.crop_margin:g}"
            )


@dataclass(frozen=True)
class DenseNames:
    """What a ViT's tokens go through before they are named; nothing, unless asked for.

    `recursive_attention`: the last block attends once more by the correlation of its result;
    `token_aggregation`: each token becomes the mean of those like it. Neither has weights, and a
    model that was not made for them may name worse; see `samclip.export.models.self_correlation`.
    """

    recursive_attention: bool = False
    token_aggregation: bool = False

    def __bool__(self) -> bool:
        """Whether any step was asked for."""
        return self.recursive_attention or self.token_aggregation


AS_TRAINED = DenseNames()


@dataclass(frozen=True)
class ExportOptions:
    """One export. `None` means the default: what the checkpoint says, or nothing.

    `output` is the bundle's directory; `precision` holds the precisions of the graphs in addition
    to FP32, `weights_dtype` the storage of their weights; `attention` the lowerings to write, which
    share one weights file; `templates` a known set's name, or the templates themselves, to use by
    default, and `more_templates` further sets in which `labels` are embedded; `mask_upscaler`:
    write the graph that makes whole masks on the device; `sam2clip_checkpoint` and
    `clip2sam_checkpoint` the published parts of an Open-Vocabulary SAM; `sam_checkpoint`,
    `teacher`, `align_corners` and `window_size` are for a C-RADIO (`RadioFiles`, `RadioSettings`);
    `two_towers` asks for SAM and the whole CLIP of `clip_checkpoint` side by side; `dense_names`
    for steps before a ViT's tokens are named; `labels` names to embed into the bundle, stored as
    `labels_dtype`; `canvas` the (h, w) of the first encoder's input, None for a square; `aspects`
    the width to height of further ones, none for the square alone, None for the family's default;
    `photos` a folder to verify on; `uint8_input` has the encoder take the resized photo as it is,
    and normalise it in the graph.
    """

    checkpoint: Path
    output: Path
    clip_checkpoint: Path | None = None
    text_checkpoint: Path | None = None
    sam2clip_checkpoint: Path | None = None
    clip2sam_checkpoint: Path | None = None
    sam_checkpoint: Path | None = None
    model_type: str | None = None
    image_size: int | None = None
    canvas: tuple[int, int] | None = None
    aspects: tuple[str, ...] | None = ()
    head_pool: int | None = None
    uint8_input: bool = False
    quick_gelu: bool | None = None
    teacher: str | None = None
    align_corners: bool = False
    window_size: int | None = None
    opset: int = DEFAULT_OPSET
    precision: PrecisionOptions = PrecisionOptions()
    weights_dtype: WeightsDtypes = WeightsDtypes()
    attention: tuple[Lowering, ...] = CPU_LOWERINGS
    templates: str | tuple[str, ...] | None = None
    two_towers: TwoTowers | None = None
    dense_names: DenseNames = AS_TRAINED
    more_templates: tuple[str | tuple[str, ...], ...] = ()
    labels: tuple[str, ...] = ()
    labels_dtype: LabelsDtype = "fp32"
    text_encoder: bool = True
    mask_upscaler: bool = False
    verify: bool = True
    photos: Path | None = None
    overwrite: bool = False


def backends_for(lowering: Lowering, available: tuple[Lowering, ...]) -> tuple[str, ...]:
    """List the backends for which `lowering` is the best of those `available`.

    `fused` is for none in FP32; in half precision it is for those of `FUSED_BACKENDS` that are
    new enough.
    """
    return tuple(
        backend
        for backend, order in LOWERINGS_BY_BACKEND.items()
        if next(form for form in order if form in available) == lowering
    )


def parse_precisions(
    given: Sequence[str] | None, *, fp16: bool = False, bf16: bool = False, int8: bool = False
) -> tuple[ReducedPrecision, ...]:
    """Return the reduced precisions that options ask for, the preferred one first.

    INT8 and FP16 together add INT8 with the rest in FP16. Raises ExportError for an unknown name.
    """
    flags = zip(SHORT, (fp16, bf16, int8), strict=True)
    asked = {*(given or ()), *(name for name, is_set in flags if is_set)}
    if unknown := sorted(asked - {"fp32", *SHORT}):
        hint = did_you_mean(unknown[0], ("fp32", *SHORT))
        raise ExportError(f"unknown precision {unknown[0]!r}{hint}; use fp32, {', '.join(SHORT)}")
    both: tuple[ReducedPrecision, ...] = ("int8_fp16",) if {"int8", "fp16"} <= asked else ()
    return (*both, *(name for name in SHORT if name in asked))


def default_attention(precisions: Sequence[ReducedPrecision]) -> tuple[Lowering, ...]:
    """Return the lowerings to write unless some are asked for: the best of CPUs, and of GPUs."""
    return (*CPU_LOWERINGS, "bias") if set(HALVES) & set(precisions) else CPU_LOWERINGS


def parse_attention(
    names: Sequence[str] | None, precisions: Sequence[ReducedPrecision] = ()
) -> tuple[Lowering, ...]:
    """Check lowerings given by name and drop repeated ones; None is the default.

    `fused` is added to the others, or to the default, for backends that cannot read it. Raises
    ExportError for an unknown one, and for `fused` without half precision.
    """
    asked = tuple(dict.fromkeys(names or ()))
    unknown = [name for name in asked if name not in LOWERINGS]
    if unknown:
        raise ExportError(f"unknown attention lowering {unknown[0]!r}; use {', '.join(LOWERINGS)}")
    forms = tuple(form for form in LOWERINGS if form in asked and form != FUSED)
    chosen = tuple(sorted(forms, key=asked.index)) or default_attention(precisions)
    if FUSED not in asked:
        return chosen
    if not set(HALVES) & set(precisions):
        raise ExportError(
            "--attention fused is for half precision, in which TensorRT has kernels for it; give "
            "--fp16 or --bf16 too, or another lowering"
        )
    return (*chosen, FUSED)


def parse_weights_dtypes(given: Sequence[str] | None) -> WeightsDtypes:
    """Read storages given as "fp16", for all graphs, or as "text_encoder=int8"; None is FP32."""
    default: WeightsDtype = "fp32"
    graphs: dict[str, WeightsDtype] = {}
    for item in given or ():
        graph, equals, dtype = item.rpartition("=")
        if dtype not in get_args(WeightsDtype):
            known = ", ".join(get_args(WeightsDtype))
            raise ExportError(f"weights cannot be stored as {dtype!r}; use one of {known}")
        if equals and graph not in Graphs.__struct_fields__:
            known = ", ".join(Graphs.__struct_fields__)
            hint = did_you_mean(graph, Graphs.__struct_fields__)
            raise ExportError(f"there is no graph {graph!r}{hint}; there are {known}")
        if equals:
            graphs[graph] = cast("WeightsDtype", dtype)
        else:
            default = cast("WeightsDtype", dtype)
    return WeightsDtypes(default, graphs)
