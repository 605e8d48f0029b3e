"""What a calibration is cached by: a hash of the graph, its weights, the feeds and the method."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from samclip.export.precision.running import graph_source

ALGORITHM = "samclip calibration 1"  # raise it when the same photos would give other ranges


def calibration_key(
    model: ir.Model, feeds: Iterable[Mapping[str, NDArray[np.generic]]] | str, method: str
) -> str:
    """Hash what a calibration depends on, to 64 hexadecimal digits.

    `feeds` are the feeds themselves, gone through once, or a text that stands for them.
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
