"""Graphs of real architectures, small, and hand-written ones, for tests of half precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import NodeProto, checker, shape_inference
from small_graphs import small_graph
from torch import nn

from samclip.export import graphs
from samclip.export.families.merged import clip_head_spec, encoder_spec, mask_decoder_spec
from samclip.export.families.merged_assembly import Checkpoints, assemble
from samclip.export.graphs import GraphSpec
from samclip.export.models.merged import MergedConfig, MergedModel
from samclip.export.models.sam_vit import SamVit, SamVitConfig

Array = NDArray[np.generic]
VIT_SIZE = 256  # windows of 14 in a grid of 16: padded, as at 1024 px


def make_vit() -> SamVit:
    """SAM's ViT with two blocks, windowed and global, weights random and of a trained model's size.

    Relative positions and the table of positions are not zero.
    """
    torch.manual_seed(0)
    model = SamVit(SamVitConfig(width=64, depth=2, num_heads=2, global_blocks=(1,)), VIT_SIZE)
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


def vit_graph(model: SamVit, opset: int = 20) -> ir.Model:
    """The encoder's graph, with fused attention's bias form."""
    inputs = {"image": torch.rand(1, 3, VIT_SIZE, VIT_SIZE)}
    spec = GraphSpec("encoder", model, inputs, ("features", "embeddings"))
    return graphs.export_graph(spec, opset)


@cache
def vit(opset: int = 20) -> ir.Model:
    """`make_vit`'s graph, exported once."""
    return vit_graph(make_vit(), opset)


@cache
def tiny_sam(name: str, mobile_sam: Path) -> ir.Model:
    """A graph of MobileSAM's weights at 256 px, "encoder" or "mask_decoder".

    test_exporter.py exports the same, so that they are traced once.
    """
    model = assemble(Checkpoints(mobile_sam), image_size=256).model
    spec = encoder_spec(model, "bias") if name == "encoder" else mask_decoder_spec(model)
    return graphs.export_graph(spec)


@cache
def clip_head() -> ir.Model:
    """The graph of a CLIP head for a TinyViT SAM at 256 px, with random weights."""
    torch.manual_seed(0)
    model = MergedModel(MergedConfig("vit_t", image_size=256, embed_dim=32)).eval()
    model.initialise_head()
    return graphs.export_graph(clip_head_spec(model, "bias"))


def vit_b(size: int) -> ir.Model:
    """The encoder of SAM ViT-B with random weights."""
    torch.manual_seed(0)
    model = MergedModel(MergedConfig("vit_b", image_size=size, embed_dim=32)).eval()
    return graphs.export_graph(encoder_spec(model, "bias"))


def hand_made(
    nodes: Sequence[NodeProto],
    weights: Mapping[str, Array] | None = None,
    inputs: Sequence[str] = ("x",),
    output: str = "y",
    shape: tuple[int | str, ...] = (4, 8),
) -> ir.Model:
    """A graph of float32 inputs of one shape, and an output of as many axes."""
    shapes = dict.fromkeys(inputs, shape)
    result = tuple(f"d{axis}" for axis in range(len(shape)))
    return small_graph("g", list(nodes), shapes, {output: result}, weights or {})


def run(model: ir.Model, **feeds: Array) -> list[Array]:
    """Run a graph on ONNX Runtime's CPU provider."""
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def check(model: ir.Model) -> None:
    """ONNX's checker with full, strict inference; the types that the graph states are inferred."""
    proto = ir.to_proto(model)
    checker.check_model(proto, full_check=True)
    weights = {tensor.name for tensor in proto.graph.initializer}
    stated = {v.name: v.type.tensor_type.elem_type for v in proto.graph.value_info}
    del proto.graph.value_info[:]
    inferred = shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    found = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    assert found == {name: dtype for name, dtype in stated.items() if name not in weights}


def operators(model: ir.Model, dtype: ir.DataType) -> list[str]:
    """The operators that compute in a type, casts apart."""
    return [n.op_type for n in model.graph if n.op_type != "Cast" and n.outputs[0].dtype == dtype]
