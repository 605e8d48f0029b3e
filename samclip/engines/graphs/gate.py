"""The one gate between the bytes of a bundle and every engine."""

from __future__ import annotations

from dataclasses import replace

from samclip.engines.base import GraphSource
from samclip.engines.external_data import external_fault
from samclip.engines.graphs.checks import check_graph, refused


def check_source(source: GraphSource) -> GraphSource:
    """Return a source with its signature, once its graph and its external data are checked.

    Raises GraphError.
    """
    signature = check_graph(source.name, source.onnx, source.weights)
    fault = external_fault(source)
    if fault is not None:
        raise refused(source.name, fault)
    return replace(source, signature=signature)
