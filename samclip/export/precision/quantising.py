"""INT8 graphs of one export: equalised if asked for, calibrated once, worst layers known."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from samclip.engines.cache_folder import cache_dir
from samclip.export.options import PrecisionOptions
from samclip.export.precision.calibration import Calibration, calibrate
from samclip.export.precision.feeds import GraphFeeds
from samclip.export.precision.layers import find_layers
from samclip.export.precision.quantise import Form, quantise
from samclip.export.progress import Progress
from samclip.runtime.bundles.manifest import LayerError, ReducedPrecision

FORMS: Mapping[ReducedPrecision, Form] = {"int8": "unsigned", "int8_fp16": "symmetric"}
LARGEST_SHARE = 0.5  # of the layers that may fall back: beyond it INT8 is not worth its name
CACHE_FOLDER = "calibration"


class Quantiser:
    """Makes INT8 graphs; `feeds` are what calibrates them."""

    def __init__(self, feeds: GraphFeeds, options: PrecisionOptions, progress: Progress) -> None:
        self._feeds, self._options, self._progress = feeds, options, progress
        self._calibrations: dict[str, Calibration] = {}
        self._layers: dict[str, tuple[str, ...]] = {}

    def quantise(
        self, graph: str, model: ir.Model, precision: ReducedPrecision, skip: frozenset[str]
    ) -> ir.Model:
        """Give an FP32 graph, weights inside, with Q/DQ; `skip` names layers and nodes."""
        calibration = self._calibration(graph, model)
        return quantise(model, calibration, skip, FORMS[precision])

    def fall_back(self, fallen_back: tuple[str, ...]) -> tuple[str, ...] | None:
        """Name more layers to leave out, as "graph/layer": the worst ones, twice as many.

        None when half of them are left out already.
        """
        worst = [f"{error.graph}/{error.layer}" for error in self.sensitivity()]
        wanted = max(1, 2 * len(fallen_back))
        if wanted > LARGEST_SHARE * sum(len(layers) for layers in self._layers.values()):
            return None
        return tuple(worst[:wanted])

    def sensitivity(self) -> tuple[LayerError, ...]:
        """Tell what quantising each layer alone does to its graph's outputs, the worst first."""
        return ()

    def _calibration(self, graph: str, model: ir.Model) -> Calibration:
        """Calibrate a graph once: layers are called the same in all its lowerings."""
        if graph not in self._calibrations:
            self._layers[graph] = tuple(layer.name for layer in find_layers(model))
            with self._progress(f"calibrating the {graph} on {len(self._feeds[graph])} photos"):
                self._calibrations[graph] = calibrate(
                    model,
                    self._feeds[graph],
                    self._options.calib_method,
                    cache_dir() / CACHE_FOLDER,
                )
        return self._calibrations[graph]
