"""Calibration: the ranges of activations on photos, from which INT8 takes its scales.

Three methods: `minmax` takes the extremes; `percentile` leaves out the outermost values of either
side (Wu et al., arXiv 2004.09602, section 3.3); `entropy` clips where the information that INT8
loses is least (Migacz, "8-bit inference with TensorRT", GTC 2017). Memory is bounded whatever the
number of photos and the size of their maps: extremes are found inside the graph, and histograms
take a sample of each map.

A calibration can be cached on the disk, by a hash of the graph, its weights, the feeds and the
method.
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

from samclip.disk.cache_folder import read_private_file
from samclip.disk.partial_files import remove_abandoned, write_file
from samclip.errors import CalibrationError
from samclip.export.cpu_engine import graph_source
from samclip.export.precision.layers import find_layers
from samclip.export.precision.photos import checked_photos
from samclip.export.precision.tensor_statistics import Statistic, observe

Feeds = Iterable[Mapping[str, NDArray[np.generic]]]
Method = Literal["minmax", "entropy", "percentile"]
Counts = NDArray[np.float64]

ALGORITHM = "samclip calibration 1"  # raise it when the same photos would give other ranges
PERCENTILE = 0.9999  # of a map's values lie inside its range, by `percentile`
MAX_CACHED_BYTES = 2**26  # of a calibration in the cache

HALF = 4096  # bins on either side of 0; after it has grown, at least half of them are in use
LEVELS = 128  # of INT8 on one side
ENTROPY_BINS = 2048
ENTROPY_STEP = 16  # bins between one candidate and the next

_logger = logging.getLogger("samclip")


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The values that an activation takes, from `low` to `high`; values outside saturate."""

    low: float
    high: float


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Ranges of every layer's input, and of its output behind a rectifier.

    Both are by the name of the layer (`layers.find_layers`), so they hold for all lowerings of a
    graph. `photos` counts the feeds.
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

    Every feed holds all inputs of the graph. With a folder as `cache`, an earlier result is read
    back; its key takes one more pass over the feeds, unless `source` names (by a hash) what they
    are computed from. Raises CalibrationError when there are no feeds, when they do not look like
    photos (noise, one colour, values that are not finite), or when they have to be read twice and
    can be read only once.
    """
    if method not in get_args(Method):
        known = ", ".join(get_args(Method))
        raise CalibrationError(f"there is no calibration method {method!r}; use one of {known}")
    if cache is None:
        return _measure(model, feeds, method)
    if source is None and iter(feeds) is feeds:
        raise CalibrationError(
            "calibration feeds that can be read only once cannot be looked up in a cache; "
            "give a sequence, name what they are computed from (`source`), or use no cache"
        )
    key = calibration_key(model, feeds if source is None else source, method)
    file = cache / f"{key}.json"
    return read_calibration(file) or write_calibration(_measure(model, feeds, method), file)


def calibration_key(
    model: ir.Model, feeds: Iterable[Mapping[str, NDArray[np.generic]]] | str, method: str
) -> str:
    """Hash what a calibration depends on, to 64 hexadecimal digits.

    `feeds` are the feeds themselves, read once, or a text that stands for them.
    """
    graph = graph_source(model)
    digest = hashlib.sha256(f"{ALGORITHM} {method} ".encode())
    for data in (graph.onnx, *graph.files.values()):
        digest.update(hashlib.sha256(data).digest())
    if isinstance(feeds, str):
        digest.update(feeds.encode())
        return digest.hexdigest()
    for feed in feeds:
        for name in sorted(feed):
            array = np.ascontiguousarray(feed[name])
            digest.update(f"{name} {array.dtype} {array.shape} ".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def read_calibration(file: Path) -> Calibration | None:
    """Read a calibration back; None when there is none, or when its file is damaged."""
    try:
        digest, _, data = read_private_file(file, MAX_CACHED_BYTES).partition(b"\n")
        if digest.decode("ascii") != hashlib.sha256(data).hexdigest():
            return None
        return msgspec.json.decode(data, type=Calibration)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
        return None


def write_calibration(made: Calibration, file: Path) -> Calibration:
    """Write a calibration behind a line with its digest, whole or not at all, and return it.

    If the disk refuses it, the only cost is to measure again.
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
    """Join the extremes of all photos, and clip them by the method."""
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


class Histogram:
    """Counts of values in even bins from -`bound` to `bound`, which doubles when it must."""

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(2 * HALF)
        self.bound = 0.0

    def add(self, values: NDArray[np.generic]) -> None:
        """Count values, an array of any shape, all finite."""
        peak = float(np.abs(values).max(initial=0.0))
        if self.bound == 0:
            self.bound = peak
        while peak > self.bound:
            wider = np.zeros_like(self.counts)
            wider[HALF // 2 : HALF // 2 + HALF] = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts, self.bound = wider, 2 * self.bound
        if self.bound > 0:
            self.counts += np.histogram(values, 2 * HALF, (-self.bound, self.bound))[0]

    def percentile(self, inside: float) -> tuple[float, float]:
        """Return the range that holds the share `inside` of the values, from 0 to 1.

        Either side loses the same number of values; the range is rounded outwards to whole bins.
        """
        total = self.counts.sum()
        if total == 0:
            return 0.0, 0.0
        share = np.cumsum(self.counts) / total
        tail = (1 - inside) / 2
        low = int(np.searchsorted(share, tail, side="right"))
        high = int(np.searchsorted(share, 1 - tail)) + 1
        edges = np.linspace(-self.bound, self.bound, 2 * HALF + 1)
        return float(edges[low]), float(edges[min(high, 2 * HALF)])

    def entropy(self) -> tuple[float, float]:
        """Return the symmetric range whose INT8 steps lose the least information of magnitudes.

        After Migacz, "8-bit inference with TensorRT" (GTC 2017): the Kullback-Leibler divergence
        between the histogram, all values outside counted in its last bin, and the same histogram
        in 128 levels.
        """
        sizes = (self.counts[HALF:] + self.counts[:HALF][::-1]).reshape(ENTROPY_BINS, -1)
        magnitudes = sizes.sum(axis=1)
        used = np.flatnonzero(magnitudes)
        if not len(used):
            return 0.0, 0.0
        last = int(used[-1]) + 1
        candidates = [*range(LEVELS, last, ENTROPY_STEP), last]
        losses = [_divergence(magnitudes, bins) for bins in candidates if bins <= last]
        best = candidates[int(np.argmin(losses))] / ENTROPY_BINS * self.bound
        return -best, best


def _divergence(magnitudes: Counts, bins: int) -> float:
    """Compare the first `bins` of a histogram with themselves in 128 levels, in nats.

    The bin at 0 counts at most as much as its neighbour: exact zeros (of rectifiers, of padding)
    are exact in INT8 too.
    """
    exact = magnitudes[:bins].copy()
    exact[0] = min(exact[0], exact[1]) if bins > 1 else exact[0]
    kept = exact > 0
    level = np.arange(bins) * LEVELS // bins
    mass = np.bincount(level, weights=exact, minlength=LEVELS)
    count = np.bincount(level, weights=kept, minlength=LEVELS)
    coarse = np.where(kept, mass[level] / np.maximum(count[level], 1), 0)
    exact[-1] += magnitudes[bins:].sum()
    p, q = exact / max(exact.sum(), 1), coarse / max(coarse.sum(), 1)
    some = (p > 0) & (q > 0)
    lost = p[(p > 0) & (q == 0)].sum()  # values that no level stands for
    return float((p[some] * np.log(p[some] / q[some])).sum() + lost * np.log(1e6))
