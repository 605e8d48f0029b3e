"""Graphs made to hang, to take all memory or to crash: refused before an engine sees them.

Their bundles have the right digests. Engines are replaced by ones that must not be reached.
"""

from __future__ import annotations

import random
import time
import tracemalloc
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest
from figures import Figures
from hostile_graphs import HOSTILE, model, node
from tiny_bundle import graph, negation_model, tiny_manifest

import samclip
from samclip.engines.graphs.checks import check_graph
from samclip.engines.onnxruntime.backend import OnnxRuntimeBackend
from samclip.engines.openvino.backend import OpenVinoBackend
from samclip.errors import GraphError
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Graphs, Variant
from samclip.runtime.bundles.weights import parse_weights
from samclip.runtime.bundles.writing import write_bundle
from samclip.runtime.plans.building import plan_source

FAULT = "graphs that hang engines, take all memory or crash"
SECONDS = 1.0
MEMORY = 64 * 2**20
BACKENDS = ("onnxruntime", "openvino")


def write_hostile(target: Path, onnx: bytes) -> Path:
    """A bundle whose encoder is a hostile graph."""
    names = (*BACKENDS, "tensorrt")
    encoder = graph(Variant(file="encoder.onnx", opset=20, backends=names))
    decoder = graph(Variant(file="decoder.onnx", opset=18, backends=names))
    manifest = tiny_manifest(graphs=Graphs(encoder=encoder, mask_decoder=decoder))
    files = {"encoder.onnx": onnx, "decoder.onnx": negation_model()}
    return write_bundle(target, manifest, files)


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(self: Any, *arguments: object) -> NoReturn:
        raise AssertionError("an engine saw the graph")

    for kind in (OnnxRuntimeBackend, OpenVinoBackend):
        monkeypatch.setattr(kind, "load", reached)


@pytest.mark.parametrize(("says", "make"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_graphs(says: str, make: Any, tmp_path: Path, figures: Figures) -> None:
    path = write_hostile(tmp_path / "bundle", make().SerializeToString())
    for backend in BACKENDS:
        began = time.process_time()
        with pytest.raises(GraphError) as caught:
            samclip.load(path, backend)
        assert time.process_time() - began < SECONDS
        text = str(caught.value)
        assert says in text
        assert str(path) in text
        assert "Export the bundle again" in text
        assert len(text) < 700
    with pytest.raises(GraphError):
        plan_source(Bundle.open(path), "encoder", "tensorrt", None)
    figures.add(FAULT, count=1, found="refused before an engine sees them")


@pytest.mark.parametrize("name", ["100,000 nodes", "50,000 descriptions", "a name of 5 MB"])
def test_refusing_takes_little_memory(name: str) -> None:
    onnx = HOSTILE[name][1]().SerializeToString()
    tracemalloc.start()
    try:
        with pytest.raises(GraphError):
            check_graph("encoder", onnx)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


def test_a_file_of_tiny_fields_is_refused_at_once() -> None:
    """17 MB, and 16 MB of fields that have no bytes: each would become an object."""
    for onnx in (b"\x08\x00" * 2**24, b"\x3a" + b"\xfe\xff\xff\x07" + b"\x0a\x00" * (2**23 - 100)):
        began = time.process_time()
        with pytest.raises(GraphError):
            check_graph("encoder", onnx)
        assert time.process_time() - began < SECONDS


def test_damaged_graphs_raise_nothing_else(figures: Figures) -> None:
    """Every cut and 4,000 changed bytes of a sound graph: it is read, or refused."""
    sound = (
        Path(samclip.__file__).parent / "assets/bundles/samclip-tiny/clip_head.onnx"
    ).read_bytes()
    draw = random.Random(0)
    damaged = [sound[:end] for end in range(0, len(sound), 7)]
    for _ in range(4000):
        changed = bytearray(sound)
        for _ in range(draw.choice((1, 1, 2, 5))):
            changed[draw.randrange(len(sound))] = draw.choice(
                (0, 1, 127, 128, 255, draw.randrange(256))
            )
        damaged.append(bytes(changed))
    refused = 0
    for onnx in damaged:
        try:
            check_graph("clip_head", onnx)
        except GraphError as error:
            refused += 1
            assert len(str(error)) < 700
    assert refused > len(damaged) // 2
    figures.add(FAULT, count=len(damaged), found="read, or refused with one error")


def test_sound_graphs_pass(tmp_path: Path) -> None:
    """The helpers of these tests make graphs that are refused for what is hostile in them."""
    made = model([node("Relu", ["x"], ["h"]), node("Softmax", ["h"], ["y"], axis=-1)])
    signature = check_graph("encoder", made.SerializeToString())
    assert [(port.name, port.dtype, port.dims) for port in signature.outputs] == [
        ("y", "float32", (1, 4))
    ]
    path = write_hostile(tmp_path / "bundle", made.SerializeToString())
    source = Bundle.open(path).source("encoder", "onnxruntime")
    assert source.signature == signature
    assert msgspec.structs.asdict(Bundle.open(path).manifest)["name"] == "tiny"


def test_a_text_encoder_says_how_many_tokens_it_knows() -> None:
    signature = check_graph(
        "text_encoder",
        (
            Path(samclip.__file__).parent / "assets/bundles/samclip-tiny/text_encoder.onnx"
        ).read_bytes(),
        _weights("text_encoder"),
    )
    assert signature.token_rows == 30_522


def _weights(name: str) -> Any:
    path = Path(samclip.__file__).parent / f"assets/bundles/samclip-tiny/{name}.safetensors"
    return parse_weights(path.read_bytes())
