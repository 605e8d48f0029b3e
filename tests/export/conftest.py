"""A cache of traced graphs: a graph that several tests of the exporter export is traced once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import onnx
import onnx_ir as ir
import pytest
import torch

from samclip.export import graphs
from samclip.export.graphs import GraphSpec, export_graph
from samclip.export.models.attention import LoweredAttention


@pytest.fixture(scope="session", autouse=True)
def graphs_exported_once() -> Iterator[None]:
    """Return a copy of a graph that was already exported from the very same module and inputs.

    Most of an export's time is torch's tracing; all that the product does with the graph is done.
    """
    known: dict[str, bytes] = {}

    def once(spec: GraphSpec, opset: int) -> ir.Model:
        key = fingerprint(spec, opset)
        if key not in known:
            known[key] = ir.to_proto(export_graph(spec, opset)).SerializeToString()
        return ir.from_proto(onnx.ModelProto.FromString(known[key]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "export_graph", once)
        yield


def fingerprint(spec: GraphSpec, opset: int) -> str:
    """Digest all that decides a graph: modules and their lowering, every tensor, shapes, opset."""
    digest = hashlib.sha256(repr((spec.name, opset, spec.outputs, spec.dynamic)).encode())
    digest.update(repr(spec.module).encode())
    for name, module in spec.module.named_modules():
        form = module.lowering if isinstance(module, LoweredAttention) else ""
        digest.update(f"{name} {type(module).__qualname__} {form}".encode())
    tensors = {**dict(spec.module.named_parameters()), **dict(spec.module.named_buffers())}
    for name, tensor in (*tensors.items(), *spec.inputs.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
    for tensor in tensors.values():
        data = tensor.detach().cpu().contiguous().flatten()
        digest.update(data.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
