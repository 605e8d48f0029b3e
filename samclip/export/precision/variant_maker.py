"""The variants of one precision, made from FP32 graphs: quantised or not, then typed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import onnx_ir as ir

from samclip.disk.cache_folder import open_cache
from samclip.export.graph_files import GraphFiles
from samclip.export.options import INT8_PRECISIONS, PrecisionOptions
from samclip.export.precision.calibration import Calibration, calibrate
from samclip.export.precision.feeds import GraphFeeds
from samclip.export.precision.fp32_nodes import Fp32Nodes
from samclip.export.precision.graph_edits import ancestors
from samclip.export.precision.half import HalfPrecision, to_half
from samclip.export.precision.keep import KeepList
from samclip.export.precision.layers import layer_depths
from samclip.export.precision.quantise import Form, quantise
from samclip.export.precision.sensitivity import measure_sensitivity
from samclip.export.precision.smooth import equalise
from samclip.export.precision.variants import full_variant, reduced_variants
from samclip.progress import Progress
from samclip.runtime.bundles.manifest import (
    KeptNode,
    LayerError,
    ReducedPrecision,
    Variant,
    base_name,
)
from samclip.runtime.graph_outputs import DECODING_GRAPHS

# CPUs multiply unsigned by signed bytes; TensorRT takes symmetric ones alone.
FORMS: Mapping[ReducedPrecision, Form] = {"int8": "unsigned", "int8_fp16": "symmetric"}
CACHE_FOLDER = "calibration"
SENSITIVITY_PHOTOS = 3


@dataclass(frozen=True)
class MadeVariants:
    """The variants of one precision by graph, and the nodes that their range keeps in FP32."""

    precision: ReducedPrecision
    models: Mapping[str, Mapping[Variant, ir.Model]]
    kept: tuple[KeptNode, ...] = ()


class VariantMaker:
    """Makes variants of the FP32 `graphs`; everything measured on `feeds` is measured once."""

    def __init__(
        self,
        graphs: Sequence[GraphFiles],
        feeds: GraphFeeds,
        options: PrecisionOptions,
        asked: KeepList,
        progress: Progress,
    ) -> None:
        self._graphs = tuple(graphs)
        self._feeds = feeds
        self._progress = progress
        self._fp32 = Fp32Nodes(graphs, feeds, asked, progress)
        self._quantiser = Quantiser(feeds, options, progress)

    def make(
        self, precision: ReducedPrecision, fallen_back: frozenset[str] = frozenset()
    ) -> MadeVariants:
        """Make every variant of a precision, without INT8 in the layers `fallen_back`.

        These are called "graph/layer". A graph gets no variants if all of it is kept in FP32, or if
        it has no feeds, because nothing in this bundle uses it. Nor does it get INT8 variants in
        which no layer is left in INT8: those would be its FP16 or FP32 ones under another name,
        which the runtime takes for it anyway.
        """
        models: dict[str, dict[Variant, ir.Model]] = {}
        kept: list[KeptNode] = []
        for files, variant in self._variants(precision):
            model, nodes = self._make(files, variant, fallen_back)
            if precision in INT8_PRECISIONS and not has_int8(model):
                continue
            models.setdefault(files.name, {})[variant] = model
            kept += nodes
        return MadeVariants(precision, models, tuple(kept))

    def sensitivity(self, precision: ReducedPrecision) -> tuple[LayerError, ...]:
        """List the layers of all graphs by the noise that INT8 adds to them, the worst first.

        Of a graph for several shapes of input only the first one is measured.
        """
        found: dict[str, tuple[LayerError, ...]] = {}
        for files, variant in self._variants(precision):
            if files.name not in found and files.name == base_name(files.name):
                found[files.name] = self._quantiser.sensitivity(
                    files.name, variant.attention, _full_model(files, variant), precision
                )
        errors = [error for errors in found.values() for error in errors]
        return tuple(sorted(errors, key=lambda error: -error.error))

    def layers_by_depth(self, precision: ReducedPrecision) -> dict[str, bool]:
        """List all layers, called "graph/layer", by their depth; each with whether names need it.

        Names need all layers of the graphs that name, and those of the encoder behind whose output
        such a graph reads. The depth of a layer is the number of layers before it, at most, in its
        graph; of two in the same depth the one that comes first in the graph is first.
        """
        naming = [x for x in self._graphs if base_name(x.name) not in ("encoder", *DECODING_GRAPHS)]
        read = {spec.name for files in naming for spec in files.graph.inputs}
        found: dict[str, tuple[int, bool]] = {}
        for files, variant in self._variants(precision):
            model, graph = _full_model(files, variant), base_name(files.name)
            ends = [x for x in model.graph.outputs if graph != "encoder" or x.name in read]
            needed = {*ends, *ancestors(*ends)}
            for layer, depth in layer_depths(model):
                needs = layer.node.outputs[0] in needed
                found.setdefault(f"{graph}/{layer.name}", (depth, needs))
        return {name: found[name][1] for name in sorted(found, key=lambda name: found[name][0])}

    def _variants(self, precision: ReducedPrecision) -> Iterator[tuple[GraphFiles, Variant]]:
        for files in self._graphs:
            if files.name in self._feeds and not self._fp32.keeps_all(files.name):
                yield from ((files, variant) for variant in reduced_variants(files, precision))

    def _make(
        self, files: GraphFiles, variant: Variant, fallen_back: frozenset[str]
    ) -> tuple[ir.Model, tuple[KeptNode, ...]]:
        """Make one variant; returns it with the nodes that their range keeps in FP32."""
        graph, attention, precision = files.name, variant.attention, variant.precision
        model = full = _full_model(files, variant)
        dtype: HalfPrecision = "bf16" if precision == "bf16" else "fp16"
        beyond: tuple[KeptNode, ...] = ()
        if precision != "int8":
            beyond = self._fp32.by_range(graph, full, attention, dtype)
        too_large = {node.node for node in beyond}
        if precision in INT8_PRECISIONS:
            prefix = f"{base_name(graph)}/"  # a layer is left out for all shapes of input
            layers = {x.removeprefix(prefix) for x in fallen_back if x.startswith(prefix)}
            skip = self._fp32.by_rule(graph, full) | layers | too_large
            model = self._quantiser.quantise(graph, attention, full, precision, skip)
        if precision == "int8":
            return model, ()
        keep = self._fp32.by_rule(graph, model) | too_large
        there = {str(node.name) for node in model.graph}  # quantising may have replaced some
        with self._progress.stage(f"making {variant.file}", total=1):  # no line: made many times
            return to_half(model, dtype, frozenset(keep & there)), beyond


def has_int8(model: ir.Model) -> bool:
    """Whether any layer of a graph computes in INT8."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph)


def _full_model(files: GraphFiles, variant: Variant) -> ir.Model:
    return files.models()[full_variant(files, variant).file]


class Quantiser:
    """Makes INT8 graphs of one export, calibrated on `feeds`, equalised if `options` ask for it.

    Equalisation is cached by graph and lowering, calibration by graph.
    """

    def __init__(self, feeds: GraphFeeds, options: PrecisionOptions, progress: Progress) -> None:
        self._feeds = feeds
        self._options = options
        self._progress = progress
        self._equalised: dict[tuple[str, str | None], ir.Model] = {}
        self._calibrations: dict[str, Calibration] = {}

    def quantise(
        self,
        graph: str,
        attention: str | None,
        model: ir.Model,
        precision: ReducedPrecision,
        skip: frozenset[str],
    ) -> ir.Model:
        """Return an FP32 graph, weights inside, with Q/DQ; `skip` names layers and nodes."""
        equalised = self._equalise(graph, attention, model)
        calibration = self._calibrate(graph, equalised)
        # With a total there is no line at its end: layers are left out in many attempts.
        with self._progress.stage(f"quantising the {graph} for {precision}", total=1):
            return quantise(equalised, calibration, skip, FORMS[precision])

    def sensitivity(
        self, graph: str, attention: str | None, model: ir.Model, precision: ReducedPrecision
    ) -> tuple[LayerError, ...]:
        """Measure the noise that INT8 adds in each layer of a graph, the worst layer first."""
        equalised = self._equalise(graph, attention, model)
        calibration = self._calibrate(graph, equalised)
        some = tuple(islice(self._feeds[graph], SENSITIVITY_PHOTOS))
        with self._progress.stage(
            f"measuring how the layers of the {graph} suffer from {precision}"
        ):
            noises = measure_sensitivity(equalised, calibration, some, FORMS[precision])
        return tuple(
            LayerError(graph=graph, layer=x.layer, kind=x.kind, error=x.noise) for x in noises
        )

    def _equalise(self, graph: str, attention: str | None, model: ir.Model) -> ir.Model:
        """Equalise a lowering of a graph, once, if the options ask for it."""
        if self._options.smooth is None:
            return model
        key = (graph, attention)
        if key not in self._equalised:
            with self._progress.stage(f"equalising the {graph} ({attention})"):
                self._equalised[key] = equalise(model, self._feeds[graph], self._options.smooth)
        return self._equalised[key]

    def _calibrate(self, graph: str, model: ir.Model) -> Calibration:
        """Calibrate a graph, once: layers have the same names in all its lowerings."""
        if graph not in self._calibrations:
            feeds, method = self._feeds[graph], self._options.calib_method
            with self._progress.stage(f"calibrating the {graph} on {len(feeds)} photos"):
                made = calibrate(model, feeds, method, open_cache(CACHE_FOLDER))
            self._calibrations[graph] = made
        return self._calibrations[graph]
