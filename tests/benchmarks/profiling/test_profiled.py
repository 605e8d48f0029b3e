"""Real graphs of samclip-tiny, profiled by both backends of CPUs with the runtime's settings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from recorded_progress import RecordedProgress

from samclip.benchmarks.latency.contenders import Variant
from samclip.benchmarks.latency.timed import StageClock
from samclip.benchmarks.profiling.operators import sum_operators
from samclip.benchmarks.profiling.profiled import ProfiledBackend, ProfiledModel, describe_profile
from samclip.benchmarks.roofline.counted import count_graph
from samclip.engines.base import EngineOptions
from samclip.engines.registry import get_backend
from samclip.errors import CapabilityError
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.home import find_bundle
from samclip.runtime.engine_pool import EnginePool

RUNS = 3
PROMPTS, POINTS = 1, 2


def feeds(graph: str) -> dict[str, np.ndarray]:
    shapes: dict[str, tuple[int, ...]] = {
        "backbone_features": (1, 704, 32, 32), "token_mask": (1, 32, 32)
    }  # fmt: skip
    if graph == "mask_decoder":
        shapes = {
            "image_embeddings": (1, 256, 64, 64), "point_coords": (PROMPTS, POINTS, 2),
            "point_labels": (PROMPTS, POINTS), "mask_input": (PROMPTS, 1, 256, 256),
            "has_mask_input": (PROMPTS,),
        }  # fmt: skip
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("graph", ["clip_head", "mask_decoder"])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_nodes_take_most_of_a_run(name: str, graph: str) -> None:
    bundle = Bundle.open(find_bundle(None))
    backend = ProfiledBackend(get_backend(name), StageClock())
    pool = EnginePool(bundle, backend, EngineOptions(threads=1))
    model: Any = SimpleNamespace(manifest=bundle.manifest)
    opened: ProfiledModel = ProfiledModel("tiny", Variant(), model, backend)
    pool.run(graph, feeds(graph))
    backend.runs.clear()  # that was to warm up
    for _ in range(RUNS - 1):
        pool.run(graph, feeds(graph))
    progress = RecordedProgress()
    found = describe_profile(opened, graph, "median", progress)
    pool.close()

    assert (found.model, found.backend, found.precision) == ("tiny", name, "fp32")
    assert len(found.samples) == RUNS - 1
    sums = [sum(run) for run in zip(*(node.samples for node in found.nodes), strict=True)]
    for taken, wall, between in zip(sums, found.samples, found.between, strict=True):
        # OpenVINO's means are cut to microseconds, each as often as there were runs.
        assert taken <= wall + 1e-6 * RUNS * len(found.nodes)
        assert taken >= 0.5 * wall
        assert between == pytest.approx(wall - taken, abs=1e-6)
    work, _ = count_graph(opened, graph)
    assert found.macs == work.macs
    assert sum(node.macs or 0 for node in found.nodes) <= work.macs
    products = {one.operator: one.macs for one in sum_operators(found) if one.macs}
    if name == "onnxruntime":
        assert sum(products.values()) == work.macs  # its nodes are named after those of the graph
    else:
        assert sum(products.values()) >= 0.3 * work.macs  # some of its subgraphs hold products
    modules = {node.scope[0] for node in found.nodes if node.scope}
    expected = {"clip_head": {"recogniser", "taught"},
                "mask_decoder": {"mask_decoder", "prompt_encoder"}}  # fmt: skip
    assert expected[graph] <= modules
    placed = sum(found.time(node.samples) for node in found.nodes if node.scope)
    assert placed >= 0.3 * sum(found.time(node.samples) for node in found.nodes)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("tensorrt", "trtexec --loadEngine=PLAN --dumpProfile"),
        ("tensorrt-rtx", "nsys profile"),
        ("ort-tensorrt", "single node"),
    ],
)
def test_backends_that_time_no_nodes_name_another_way(name: str, way: str) -> None:
    with pytest.raises(CapabilityError, match=way) as raised:
        ProfiledBackend(get_backend(name), StageClock())
    assert "onnxruntime or openvino" in str(raised.value)
