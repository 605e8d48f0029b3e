"""A cache of traced graphs on disk: the processes of a run trace the same graph once.

Most of an export's time is torch's tracing; all that the product does with the graph is done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from filelock import FileLock
from torch import nn

from samclip.export.graphs import GraphSpec, export_graph
from samclip.export.models import attention
from samclip.export.options import DEFAULT_OPSET

OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def traced_once(folder: Path) -> Callable[..., ir.Model]:
    """Return an `export_graph` that reads a graph of the very same module and inputs from here."""

    def export_once(spec: GraphSpec, opset: int = DEFAULT_OPSET) -> ir.Model:
        file = folder / f"{fingerprint(spec, opset)}.onnx"
        with FileLock(f"{file}.lock"):
            if not file.exists():
                partial = file.with_suffix(".part")
                partial.write_bytes(ir.to_proto(export_graph(spec, opset)).SerializeToString())
                partial.rename(file)
        return ir.from_proto(onnx.ModelProto.FromString(file.read_bytes()))

    return export_once


def fingerprint(spec: GraphSpec, opset: int) -> str:
    """Digest all that decides a graph: modules, their fields, every tensor, shapes, opset."""
    bounds = attention.MAX_CHUNK_SCORES, attention.MAX_WIDE_CHUNK_SCORES
    digest = hashlib.sha256(repr((spec.name, opset, spec.outputs, spec.dynamic, bounds)).encode())
    digest.update(repr(spec.module).encode())
    for name, module in spec.module.named_modules():
        fields = {key: value for key, value in vars(module).items() if key not in OF_EVERY_MODULE}
        digest.update(f"{name} {type(module).__qualname__} {fields}".encode())
    tensors = {**dict(spec.module.named_parameters()), **dict(spec.module.named_buffers())}
    for name, tensor in (*tensors.items(), *spec.inputs.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
    for tensor in tensors.values():
        data = tensor.detach().cpu().contiguous().flatten()
        digest.update(data.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
