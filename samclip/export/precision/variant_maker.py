"""Making the variants of a precision: quantised or not, typed, what would overflow kept in FP32.

INT8 graphs of one export: equalised if asked for, calibrated once, their worst layers known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import onnx_ir as ir

from samclip.disk.partial_files import cache_dir
from samclip.errors import ExportError
from samclip.export.graph_files import GraphFiles
from samclip.export.options import PrecisionOptions
from samclip.export.precision.calibration import Calibration, calibrate
from samclip.export.precision.feeds import GraphFeeds
from samclip.export.precision.half import HalfPrecision, to_half
from samclip.export.precision.keep import DEFAULT_KEEP, KeepList
from samclip.export.precision.quantise import Form, quantise
from samclip.export.precision.ranges import RangeReport, measure_ranges
from samclip.export.precision.sensitivity import measure_sensitivity
from samclip.export.precision.smooth import equalise
from samclip.export.precision.variants import full_variant, reduced_variants
from samclip.export.progress import Progress
from samclip.runtime.bundles.manifest import KeptNode, LayerError, ReducedPrecision, Variant

# CPUs multiply unsigned by signed bytes; TensorRT takes symmetric ones alone.
FORMS: Mapping[ReducedPrecision, Form] = {"int8": "unsigned", "int8_fp16": "symmetric"}
CACHE_FOLDER = "calibration"
SENSITIVITY_PHOTOS = 3


class Quantiser:
    """Makes INT8 graphs, calibrated on `feeds`; graphs are told apart by name and lowering."""

    def __init__(self, feeds: GraphFeeds, options: PrecisionOptions, progress: Progress) -> None:
        self._feeds, self._options, self._progress = feeds, options, progress
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
        """Give an FP32 graph, weights inside, with Q/DQ; `skip` names layers and nodes."""
        evened = self._evened(graph, attention, model)
        calibration = self._calibration(graph, evened)
        with self._progress(f"quantising the {graph} for {precision}"):
            return quantise(evened, calibration, skip, FORMS[precision])

    def sensitivity(
        self, graph: str, attention: str | None, model: ir.Model, precision: ReducedPrecision
    ) -> tuple[LayerError, ...]:
        """Tell the noise that INT8 adds in each layer of a graph, the worst layer first."""
        evened = self._evened(graph, attention, model)
        calibration = self._calibration(graph, evened)
        some = tuple(islice(self._feeds[graph], SENSITIVITY_PHOTOS))
        with self._progress(f"measuring how the layers of the {graph} suffer from {precision}"):
            noises = measure_sensitivity(evened, calibration, some, FORMS[precision])
        return tuple(
            LayerError(graph=graph, layer=x.layer, kind=x.kind, error=x.noise) for x in noises
        )

    def _evened(self, graph: str, attention: str | None, model: ir.Model) -> ir.Model:
        """Equalise a lowering of a graph, once, if that was asked for."""
        if self._options.smooth is None:
            return model
        key = (graph, attention)
        if key not in self._equalised:
            with self._progress(f"equalising the {graph} ({attention})"):
                self._equalised[key] = equalise(model, self._feeds[graph], self._options.smooth)
        return self._equalised[key]

    def _calibration(self, graph: str, model: ir.Model) -> Calibration:
        """Calibrate a graph, once: layers are called the same in all its lowerings."""
        if graph not in self._calibrations:
            feeds, method = self._feeds[graph], self._options.calib_method
            with self._progress(f"calibrating the {graph} on {len(feeds)} photos"):
                made = calibrate(model, feeds, method, cache_dir() / CACHE_FOLDER)
            self._calibrations[graph] = made
        return self._calibrations[graph]


MAX_RANGE_FEEDS = 16  # measuring ranges takes three times what a run takes
HEADROOM = 2.0  # other photos may reach farther than those at hand


@dataclass(frozen=True)
class Made:
    """The variants of one precision, by graph, and the nodes that their range keeps in FP32."""

    precision: ReducedPrecision
    models: Mapping[str, Mapping[Variant, ir.Model]]
    kept: tuple[KeptNode, ...] = ()


class Maker:
    """Makes variants out of the FP32 `graphs`; what it measures on `feeds`, it measures once."""

    def __init__(
        self,
        graphs: Sequence[GraphFiles],
        feeds: GraphFeeds,
        options: PrecisionOptions,
        asked: KeepList,
        progress: Progress,
    ) -> None:
        self._graphs, self._feeds, self._progress = tuple(graphs), feeds, progress
        if unmatched := asked.unmatched({f.name: tuple(f.models().values()) for f in graphs}):
            raise ExportError(
                f"--keep-fp32 {unmatched[0]} fits no operator and no node of this model. "
                "`samclip-export --precision fp32` writes the graphs whose nodes it may name."
            )
        self._keep = DEFAULT_KEEP | asked
        self._quantiser = Quantiser(feeds, options, progress)
        self._ranges: dict[tuple[str, str | None], RangeReport] = {}

    def make(self, precision: ReducedPrecision, fallen_back: frozenset[str] = frozenset()) -> Made:
        """Make every variant of a precision, without INT8 for the layers `fallen_back`.

        These are called "graph/layer". A graph that is kept in FP32 as a whole gets no variants,
        nor does one for which there are no feeds: it has no use in this bundle.
        """
        models: dict[str, dict[Variant, ir.Model]] = {}
        kept: list[KeptNode] = []
        for files, variant in self._variants(precision):
            model, nodes = self._make(files, variant, fallen_back)
            models.setdefault(files.name, {})[variant] = model
            kept += nodes
        return Made(precision, models, tuple(kept))

    def sensitivity(self, precision: ReducedPrecision) -> tuple[LayerError, ...]:
        """List the layers of all graphs by what INT8 does to them, the worst first."""
        found: dict[str, tuple[LayerError, ...]] = {}
        for files, variant in self._variants(precision):
            if files.name not in found:
                full, attention = _full_model(files, variant), variant.attention
                found[files.name] = self._quantiser.sensitivity(
                    files.name, attention, full, precision
                )
        errors = [error for errors in found.values() for error in errors]
        return tuple(sorted(errors, key=lambda error: -error.error))

    def _variants(self, precision: ReducedPrecision) -> Iterator[tuple[GraphFiles, Variant]]:
        for files in self._graphs:
            measurable = files.name in self._feeds
            if measurable and not self._keep.whole(files.name):
                yield from ((files, variant) for variant in reduced_variants(files, precision))

    def _make(
        self, files: GraphFiles, variant: Variant, fallen_back: frozenset[str]
    ) -> tuple[ir.Model, list[KeptNode]]:
        graph, attention, precision = files.name, variant.attention, variant.precision
        model = full = _full_model(files, variant)
        dtype: HalfPrecision = "bf16" if precision == "bf16" else "fp16"
        beyond = [] if precision == "int8" else self._beyond(graph, full, attention, dtype)
        if precision in {"int8", "int8_fp16"}:
            prefix = f"{graph}/"
            layers = {x.removeprefix(prefix) for x in fallen_back if x.startswith(prefix)}
            skip = self._keep.nodes(graph, full) | layers | {node.node for node in beyond}
            model = self._quantiser.quantise(graph, attention, full, precision, skip)
        if precision == "int8":
            return model, []
        keep = self._keep.nodes(graph, model) | {node.node for node in beyond}
        there = {str(node.name) for node in model.graph}  # quantising may have replaced some
        with self._progress(f"making {variant.file}"):
            return to_half(model, dtype, frozenset(keep & there)), beyond

    def _beyond(
        self, graph: str, model: ir.Model, attention: str | None, dtype: HalfPrecision
    ) -> list[KeptNode]:
        """List the nodes whose values are too large for a type, on the photos."""
        key = (graph, attention)
        if key not in self._ranges:
            with self._progress(f"measuring ranges of the {graph} ({attention or 'fp32'})"):
                every = -(-len(self._feeds[graph]) // MAX_RANGE_FEEDS)  # rounded up
                some = islice(self._feeds[graph], 0, None, every)
                self._ranges[key] = measure_ranges(model, some)
        return [
            KeptNode(
                graph=graph,
                attention=attention,
                node=kept.node,
                tensor=kept.tensor,
                peak=float(kept.largest),
                reason=kept.reason,
            )
            for kept in self._ranges[key].beyond(dtype, HEADROOM)
        ]


def _full_model(files: GraphFiles, variant: Variant) -> ir.Model:
    return files.models()[full_variant(files, variant).file]
