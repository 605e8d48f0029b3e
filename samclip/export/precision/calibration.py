"""Ranges of activations, measured on photos: what the scales of INT8 are made from.

Three methods: `minmax` takes the extremes; `percentile` leaves out the outermost values of either
side (Wu et al., arXiv 2004.09602, section 3.3); `entropy` clips where the information that INT8
loses is least (Migacz, "8-bit inference with TensorRT", GTC 2017). Memory is bounded whatever the
number of photos and the size of their maps: extremes are found inside the graph, and histograms
take a sample of each map.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, get_args

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from samclip.disk.partial_files import remove_abandoned, write_file
from samclip.errors import CalibrationError
from samclip.export.precision.calibration_key import calibration_key
from samclip.export.precision.histogram import Histogram
from samclip.export.precision.layers import find_layers
from samclip.export.precision.observe import Statistic, observe
from samclip.export.precision.photo_check import checked_photos

Feeds = Iterable[Mapping[str, NDArray[np.generic]]]
Method = Literal["minmax", "entropy", "percentile"]

_logger = logging.getLogger("samclip")

PERCENTILE = 0.9999  # of a map's values lie inside its range, by `percentile`


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The values that an activation takes, from `low` to `high`; what lies outside saturates."""

    low: float
    high: float


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Ranges of what goes into every layer, and of what comes out behind its rectifier.

    Both by the name of the layer (`layers.find_layers`), hence good for all lowerings of a graph.
    `photos` counts the feeds.
    """

    method: Method
    photos: int
    inputs: dict[str, Range]
    outputs: dict[str, Range]


def calibrate(
    model: ir.Model,
    feeds: Feeds,
    method: Method = "minmax",
    cache: Path | None = None,
    source: str | None = None,
) -> Calibration:
    """Measure the ranges of a float32 graph, weights inside, on feeds made from photos.

    Every feed gives all inputs of the graph. With a folder as `cache`, what was measured before is
    read back; for its key the feeds are gone through once more, unless `source` names (by a hash)
    what they are made from. Raises CalibrationError when there are no feeds, when they are no
    photos (noise, one colour, values that are not finite), or can be read but once.
    """
    if method not in get_args(Method):
        known = ", ".join(get_args(Method))
        raise CalibrationError(f"there is no calibration method {method!r}; use one of {known}")
    if cache is None:
        return _measure(model, feeds, method)
    if source is None and iter(feeds) is feeds:
        raise CalibrationError(
            "calibration feeds that can be read only once cannot be looked up in a cache; "
            "give a sequence, say what they are made from (`source`), or use no cache"
        )
    key = calibration_key(model, feeds if source is None else source, method)
    file = cache / f"{key}.json"
    return read_calibration(file) or _stored(_measure(model, feeds, method), file)


def read_calibration(file: Path) -> Calibration | None:
    """Read a calibration back; None when there is none, or not whole: it is then made anew."""
    try:
        digest, _, data = file.read_bytes().partition(b"\n")
        if digest.decode("ascii") != hashlib.sha256(data).hexdigest():
            return None
        return msgspec.json.decode(data, type=Calibration)
    except (FileNotFoundError, UnicodeDecodeError, msgspec.MsgspecError):
        return None


def _stored(made: Calibration, file: Path) -> Calibration:
    """Write a calibration behind the line of its digest, whole or not at all.

    A disk that refuses it costs only the time of measuring again.
    """
    data = msgspec.json.encode(made)
    digest = hashlib.sha256(data).hexdigest()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(file.parent)
        write_file(file, digest.encode() + b"\n" + data)
    except OSError as error:
        _logger.warning("the ranges measured are not kept in %s: %s", file, error.strerror)
    return made


def _measure(model: ir.Model, feeds: Feeds, method: Method) -> Calibration:
    layers = find_layers(model)
    names = tuple(dict.fromkeys(str(v.name) for x in layers for v in (x.input, x.output)))
    wanted: tuple[Statistic, ...] = ("min", "max")
    seen: dict[str, list[Range]] = {name: [] for name in names}
    histograms: dict[str, Histogram] = {}
    if method != "minmax":
        wanted = ("min", "max", "sample")
        histograms = {name: Histogram() for name in names}
    for found in observe(model, names, wanted, checked_photos(feeds)):
        for name in names:
            seen[name].append(Range(float(found[name, "min"]), float(found[name, "max"])))
        for name, histogram in histograms.items():
            histogram.add(found[name, "sample"])
    spans = {name: _range(seen[name], histograms.get(name), method) for name in names}
    return Calibration(
        method=method,
        photos=len(seen[names[0]]) if names else 0,
        inputs={x.name: spans[str(x.input.name)] for x in layers},
        outputs={x.name: spans[str(x.output.name)] for x in layers},
    )


def _range(seen: list[Range], histogram: Histogram | None, method: Method) -> Range:
    """Join the extremes of all photos, clipped as the method has it."""
    low, high = min(x.low for x in seen), max(x.high for x in seen)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise CalibrationError(
            f"an activation ranges from {low} to {high} on these photos; the FP32 graph itself "
            "is broken, and INT8 cannot mend it"
        )
    if histogram is None:
        return Range(low, high)
    clipped = histogram.percentile(PERCENTILE) if method == "percentile" else histogram.entropy()
    return Range(max(low, clipped[0]), min(high, clipped[1]))
