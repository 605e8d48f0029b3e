"""Weights for a plan that was built without: those of the graph, which the bundle has anyway.

The plan names its graph by digest, and `find_plan` has compared it, so these are the very weights
that the plan was built with, as TensorRT demands of one that was stripped.
"""

from __future__ import annotations

from typing import Any

from samclip.engines.base import GraphSource
from samclip.engines.external_tensors import external_fault
from samclip.engines.plans.library import Library
from samclip.engines.plans.logs import listening, shared_logger
from samclip.engines.plans.weights_folder import weights_folder
from samclip.engines.tensorrt.library import explain
from samclip.errors import EngineRunError

SHOWN = 3  # names of weights in a message


def refit(library: Library, engine: Any, source: GraphSource) -> None:
    """Give a stripped engine the weights of `source`; a primary context is current.

    Weights are handed over in memory; versions before 10.13 get them in a private folder. Raises
    EngineRunError when the engine cannot be refitted, or lacks weights afterwards.
    """
    _check_external_data(source)
    module, logger = library.module, shared_logger(library.module)
    with listening() as said:
        refitter = module.Refitter(engine, logger)
        parser = module.OnnxParserRefitter(refitter, logger)
        taken = _hand_over(parser, source)
        missing = list(refitter.get_missing_weights())
        if taken and not missing and refitter.refit_cuda_engine():
            return
    fault = EngineRunError(f"{_fault(taken, missing)}. Build it again without --strip-weights.")
    raise explain(fault, source.name, [*_errors(parser), *said.errors])


def _check_external_data(source: GraphSource) -> None:
    """Refuse a graph that would have the parser read a file that nobody verified."""
    try:
        fault = external_fault(source, by_name=True)
    except ValueError as error:
        fault = str(error)
    if fault is not None:
        raise EngineRunError(
            f"the plan was built without its weights, and the graph {source.name!r} cannot give "
            f"them: {fault}. Export the bundle again."
        )


def _hand_over(parser: Any, source: GraphSource) -> bool:
    if not hasattr(parser, "load_initializer"):
        with weights_folder(source) as path:
            return bool(parser.refit_from_bytes(source.onnx, str(path)))
    if not parser.load_model_proto(source.onnx):
        return False
    for name, weight in source.weights.items():
        # False for a tensor that only other variants of the graph have: they share the file.
        parser.load_initializer(name, weight.ctypes.data, weight.nbytes)
    parser.clear_errors()
    return bool(parser.refit_model_proto())


def _fault(taken: bool, missing: list[str]) -> str:
    if not taken:
        return "the plan was built without its weights, and the graph's do not fit into it"
    if missing:
        names = ", ".join(map(repr, missing[:SHOWN]))
        return f"the plan was built without its weights, and {len(missing)} are missing ({names})"
    return "the plan was built without its weights, and they could not be put into it"


def _errors(parser: Any) -> list[str]:
    return [str(parser.get_error(index).desc()) for index in range(parser.num_errors)]
