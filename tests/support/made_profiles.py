"""Profiles with figures made up: a graph of a few nodes, two of them fused with what follows."""

from __future__ import annotations

from samclip.benchmarks.measurements import GraphProfile, NodeProfile


def made_node(name: str, operator: str, scope: str, *micros: float, macs: int = 0) -> NodeProfile:
    """A node; `scope` has a module a word, `micros` a sample a run."""
    return NodeProfile(
        name=name, operator=operator, kernel="CPUExecutionProvider", scope=tuple(scope.split()),
        shapes="1x8 -> 1x8", macs=macs, samples=tuple(micro * 1e-6 for micro in micros),
    )  # fmt: skip


def made_profile(model: str = "tiny", graph: str = "encoder") -> GraphProfile:
    """Three runs: the fastest of a node is not in the fastest run."""
    nodes = (
        made_node("qkv", "Gemm", "blocks.0 attn qkv", 400, 500, 900, macs=2_000_000),
        made_node("softmax", "Softmax", "blocks.0 attn", 120, 90, 100),
        made_node("proj", "Gemm", "blocks.0 attn proj", 100, 110, 200, macs=500_000),
        made_node("fused fc1", "FusedGemm", "blocks.0 mlp fc1", 300, 280, 310, macs=1_000_000),
        made_node("reorder;1", "ReorderOutput", "", 20, 30, 10),
    )
    between = (40e-6, 60e-6, 50e-6)
    walls = tuple(
        sum(node.samples[run] for node in nodes) + between[run] for run in range(len(between))
    )
    return GraphProfile(
        model=model, graph=graph, backend="onnxruntime", precision="fp32", statistic="median",
        macs=3_600_000, samples=walls, between=between, nodes=nodes,
    )  # fmt: skip
