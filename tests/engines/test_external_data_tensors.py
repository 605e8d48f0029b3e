"""Tensors in weights files, read off the bytes of graphs; hostile ones are in tests/attacks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper
from tiny_bundle import WEIGHT, WEIGHTS_FILE, affine_model, external_tensor, make_model

from samclip.engines.base import GraphSource
from samclip.engines.external_data import (
    BITS,
    DATA_TYPE,
    DIMS,
    ENTRY,
    NAME,
    ExternalTensor,
    external_fault,
    external_tensors,
)
from samclip.runtime.assets import DEFAULT_BUNDLE, packaged_bundles
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.weights import parse_weights, weight_offsets

ONNX, DATA = affine_model()
AT = weight_offsets(DATA)["w"]
SOURCE = GraphSource("affine", ONNX, parse_weights(DATA), {WEIGHTS_FILE: DATA})


def tensor_bytes(**fields: object) -> bytes:
    """A graph of one tensor, which is built field by field."""
    made = TensorProto(**{"name": "w", "data_type": TensorProto.FLOAT, "dims": [4, 3], **fields})
    made.external_data.add(key="location", value="f")
    return make_model([], {}, {}, [made])


def test_external_tensors_are_read_from_a_graph() -> None:
    (found,) = external_tensors(ONNX)
    assert found == ExternalTensor("w", WEIGHTS_FILE, AT[0], WEIGHT.nbytes, WEIGHT.nbytes, True)
    (bare,) = external_tensors(tensor_bytes())
    assert bare == ExternalTensor("w", "f", 0, None, 48, True)


def test_the_word_alone_makes_no_tensor_external() -> None:
    held = helper.make_tensor("location", TensorProto.FLOAT, [1], [1.0])
    assert not list(external_tensors(make_model([], {}, {}, [held])))


def test_shapes_may_be_packed() -> None:
    """protobuf writes repeated numbers one by one or in one field; parsers read both."""
    plain = tensor_bytes(dims=[300, 3])
    axes = b"\x08\xac\x02\x08\x03"
    assert axes in plain
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT)
    tensor.external_data.add(key="location", value="f")
    packed = b"\x0a\x03\xac\x02\x03" + tensor.SerializeToString()
    graph = b"\x2a" + bytes([len(packed)]) + packed
    model = b"\x3a" + bytes([len(graph)]) + graph
    assert list(external_tensors(model)) == list(external_tensors(plain))


def test_types_and_fields_are_numbered_as_in_onnx() -> None:
    fields = TensorProto.DESCRIPTOR.fields_by_name
    names = {"dims": DIMS, "data_type": DATA_TYPE, "name": NAME, "external_data": ENTRY}
    assert {name: fields[name].number for name in names} == names
    known = dict(TensorProto.DataType.items())
    for name, number in known.items():
        bits = helper.tensor_dtype_to_np_dtype(number).itemsize * 8 if number in BITS else 0
        small = bits == 8 and name.removesuffix("E2M1").endswith("4")
        assert BITS.get(number, 0) == (4 if small else bits), name


@pytest.mark.parametrize(
    ("data_type", "dims", "size"), [(22, [3], 2), (16, [5], 10), (1, [], 4), (1, [0, 7], 0)]
)
def test_sizes(data_type: int, dims: list[int], size: int) -> None:
    (found,) = external_tensors(tensor_bytes(data_type=data_type, dims=dims))
    assert found.size == size


@pytest.mark.parametrize("by_name", [False, True])
def test_sound_sources(by_name: bool) -> None:
    assert external_fault(SOURCE, by_name) is None
    assert external_fault(GraphSource("g", make_model([], {}, {})), by_name) is None


@pytest.mark.parametrize("by_name", [False, True])
def test_weights_may_be_copies(by_name: bool) -> None:
    """`parse_weights` copies what is not aligned."""
    copied = replace(SOURCE, weights={"w": WEIGHT.copy()})
    assert external_fault(copied, by_name) is None
    changed = replace(SOURCE, weights={"w": WEIGHT + 1})
    assert "another tensor is" in (external_fault(changed, by_name) or "")
    shorter = replace(SOURCE, weights={"w": WEIGHT[:2]})
    assert "another tensor is" in (external_fault(shorter, by_name) or "")


def test_a_backend_that_reads_the_file_needs_no_weights() -> None:
    bare = replace(SOURCE, weights={})
    assert external_fault(bare) is None
    assert "holds no tensor of this name" in (external_fault(bare, by_name=True) or "")


def test_a_file_that_is_none_of_the_sources() -> None:
    assert "none of its files" in (external_fault(replace(SOURCE, files={})) or "")


def test_an_empty_tensor_at_the_end_of_its_file() -> None:
    empty = np.zeros((0, 3), np.float32)
    tensor = external_tensor("e", empty, WEIGHTS_FILE, (len(DATA), 0))
    source = replace(SOURCE, onnx=make_model([], {}, {}, [tensor]), weights={"e": empty})
    assert external_fault(source, by_name=True) is None


def test_every_graph_of_the_packaged_bundle_is_sound() -> None:
    bundle = Bundle.open(packaged_bundles() / DEFAULT_BUNDLE)
    for graph in ("encoder", "mask_decoder", "clip_head", "text_encoder"):
        for backend in ("openvino", "tensorrt"):
            source = bundle.source(graph, backend, version="10.14.1")
            assert list(external_tensors(source.onnx))
            assert external_fault(source, by_name=backend == "tensorrt") is None
