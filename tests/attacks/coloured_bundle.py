"""A bundle on disk whose graphs take every backend a millisecond: `coloured_graphs`, and text.

Its text encoder adds up fixed random vectors of the tokens, so that different names have different
embeddings. The tokenizer is that of the packaged bundle.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
from coloured_graphs import coloured_graphs
from fakes import fake_manifest
from onnx import TensorProto, helper, numpy_helper
from small_graphs import OPSET, graph_files

from samclip.export.graph_files import GraphFiles, described
from samclip.export.options import LOWERINGS_BY_BACKEND
from samclip.runtime.assets import packaged_bundles
from samclip.runtime.bundles.manifest import Manifest, Text
from samclip.runtime.bundles.writing import write_bundle

CONTEXT = 32
TOKENS = 30_522
DIMENSIONS = 3
TOKENIZER = "tokenizer.json"


def write_coloured_bundle(target: Path) -> Path:
    """Write the bundle; `samclip.load` can load it."""
    graphs = [*coloured_graphs(), _text_encoder()]
    files: dict[str, bytes | Path] = {
        name: data for graph in graphs for name, data in graph.files.items()
    }
    files[TOKENIZER] = packaged_bundles() / "samclip-tiny" / TOKENIZER
    return write_bundle(target, _manifest(graphs), files)


def _manifest(graphs: list[GraphFiles]) -> Manifest:
    text = Text(
        model="sum of tokens",
        space="1" * 64,
        embed_dim=DIMENSIONS,
        logit_scale=10.0,
        templates=("{}", "a {}."),
        tokenizer=TOKENIZER,
        context_length=CONTEXT,
    )
    return msgspec.structs.replace(
        fake_manifest(), name="coloured", graphs=described(graphs), text=text
    )


def _text_encoder() -> GraphFiles:
    nodes = [
        helper.make_node("Gather", ["table.weight", "tokens"], ["vectors"], axis=0),
        helper.make_node("ReduceSum", ["vectors", "second"], ["text_embeddings"], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("tokens", TensorProto.INT64, ("texts", CONTEXT))]
    outputs = [
        helper.make_tensor_value_info("text_embeddings", TensorProto.FLOAT, ("texts", DIMENSIONS))
    ]
    table = np.random.default_rng(0).standard_normal((TOKENS, DIMENSIONS)).astype(np.float32)
    table[0] = 0  # padding
    weights = [
        numpy_helper.from_array(table, "table.weight"),
        numpy_helper.from_array(np.asarray([1]), "second"),
    ]
    graph = helper.make_graph(nodes, "text_encoder", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    made = graph_files("text_encoder", ir.serde.deserialize_model(model))
    variant = msgspec.structs.replace(made.graph.variants[0], backends=tuple(LOWERINGS_BY_BACKEND))
    described_graph = msgspec.structs.replace(made.graph, variants=(variant,))
    return GraphFiles("text_encoder", described_graph, made.files)
