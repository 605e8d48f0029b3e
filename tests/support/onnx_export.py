"""ONNX export for tests of single modules: torch's dynamo exporter, then ONNX Runtime."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Sequence

import onnx
import onnxruntime
import torch
from torch import Tensor, nn


def export_onnx(
    model: nn.Module,
    args: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    opset: int,
) -> bytes:
    """Export `model` with fixed shapes; returns the bytes of the ONNX file.

    The exporter's own deprecation warnings say nothing about the model.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            args,
            input_names=inputs,
            output_names=outputs,
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    data: bytes = program.model_proto.SerializeToString()
    return data


def operators(graph: bytes) -> Counter[str]:
    """How often each ONNX operator occurs."""
    return Counter(node.op_type for node in onnx.load_from_string(graph).graph.node)


def run_onnx(graph: bytes, **inputs: Tensor) -> list[Tensor]:
    """Run a graph on ONNX Runtime's CPU provider."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    arrays = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return [torch.from_numpy(array) for array in arrays]
