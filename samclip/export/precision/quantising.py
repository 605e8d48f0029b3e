"""INT8 graphs of one export: equalised if asked for, calibrated once, their worst layers known."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import onnx_ir as ir

from samclip.disk.partial_files import cache_dir
from samclip.export.options import PrecisionOptions
from samclip.export.precision.calibration import Calibration, calibrate
from samclip.export.precision.equalisation import equalise
from samclip.export.precision.feeds import GraphFeeds
from samclip.export.precision.quantise import Form, quantise
from samclip.export.precision.sensitivity import measure_sensitivity
from samclip.export.progress import Progress
from samclip.runtime.bundles.manifest import LayerError, ReducedPrecision

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
