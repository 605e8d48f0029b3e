"""Locations of external data, read off the bytes of ONNX graphs; needs no OpenVINO."""

from __future__ import annotations

import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper
from tiny_bundle import WEIGHT, affine_model, external_tensor, make_model, negation_model

from samclip.engines.external_data import FIELDS, external_locations, unlisted_location


def tensor_at(location: str) -> TensorProto:
    return external_tensor("w", WEIGHT, location, (0, WEIGHT.nbytes))


def graph_with(location: str):
    return helper.make_graph([], "inner", [], [], [tensor_at(location)])


def test_initializers() -> None:
    assert external_locations(affine_model("a/b.bin")[0]) == {"a/b.bin"}
    assert external_locations(negation_model()) == set()
    tensors = [tensor_at("one"), tensor_at("two"), tensor_at("one")]
    assert external_locations(make_model([], {}, {}, tensors)) == {"one", "two"}


def test_everywhere_a_tensor_can_be() -> None:
    """In constants, subgraphs, sparse tensors, functions and training graphs, however deep."""
    attributes = [
        AttributeProto(name="t", type=AttributeProto.TENSOR, t=tensor_at("t")),
        AttributeProto(name="ts", type=AttributeProto.TENSORS, tensors=[tensor_at("ts")]),
        AttributeProto(name="g", type=AttributeProto.GRAPH, g=graph_with("g")),
        AttributeProto(name="gs", type=AttributeProto.GRAPHS, graphs=[graph_with("gs")]),
    ]
    node = helper.make_node("If", [], ["y"])
    node.attribute.extend(attributes)
    sparse = AttributeProto(name="s", type=AttributeProto.SPARSE_TENSOR)
    sparse.sparse_tensor.values.CopyFrom(tensor_at("values"))
    sparse.sparse_tensors.add().indices.CopyFrom(tensor_at("indices"))
    node.attribute.append(sparse)
    model = ModelProto.FromString(make_model([node], {}, {}))
    model.graph.sparse_initializer.add().values.CopyFrom(tensor_at("sparse"))
    model.functions.add().node.add().attribute.append(attributes[0])
    model.functions[0].attribute_proto.append(
        AttributeProto(name="f", type=AttributeProto.TENSOR, t=tensor_at("f"))
    )
    training = model.training_info.add()
    training.initialization.CopyFrom(graph_with("start"))
    training.algorithm.CopyFrom(graph_with("step"))
    expected = {"t", "ts", "g", "gs", "values", "indices", "sparse", "f", "start", "step"}
    assert external_locations(model.SerializeToString()) == expected


def test_every_message_that_holds_tensors_is_known() -> None:
    """onnx's own descriptors: no field through which a tensor can be reached is forgotten."""
    ours = {f"{kind}Proto": kind for kind in FIELDS} | {"TrainingInfoProto": "Training"}
    messages, known = [ModelProto.DESCRIPTOR], {}
    while messages:
        message = messages.pop()
        if message.full_name not in known:
            known[message.full_name] = message
            messages += [field.message_type for field in message.fields if field.message_type]
    for name, kind in ours.items():
        if f"onnx.{name}" not in known or kind == "Tensor":
            continue
        fields = {f.number: f.message_type for f in known[f"onnx.{name}"].fields}
        holding = {n: ours.get(m.name) for n, m in fields.items() if m}
        assert {n: inner for n, inner in holding.items() if inner} == FIELDS[kind]
    (field,) = FIELDS["Tensor"]
    assert known["onnx.TensorProto"].fields_by_number[field].name == "external_data"


def test_odd_entries() -> None:
    """The word elsewhere is not a location; with a key given twice all values count."""
    node = helper.make_node("Neg", ["location"], ["y"], name="location", doc_string="location")
    assert external_locations(make_model([node], {"location": [1]}, {"y": [1]})) == set()
    model = ModelProto.FromString(affine_model()[0])
    entry = model.graph.initializer[0].external_data[0].SerializeToString()
    evil = b"\x12\x04evil" + entry + b"\x0a\x03key"
    tensor = TensorProto(name="w", dims=[1]).SerializeToString()
    tensor += b"\x6a" + bytes([len(evil)]) + evil
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    assert external_locations(b"\x3a" + bytes([len(graph)]) + graph) == {
        "evil",
        "weights.safetensors",
    }


@pytest.mark.parametrize("data", [b"\xff" * 100, b"\x3a\x05abc", b"\x3b", b"\x3a", b"\x08\x80"])
def test_bytes_that_are_not_a_message(data: bytes) -> None:
    with pytest.raises(ValueError, match="not an ONNX graph"):
        external_locations(data)


def test_locations_that_no_verified_file_has() -> None:
    onnx, _ = affine_model("w")
    assert unlisted_location(onnx, {"w": b""}) is None
    assert unlisted_location(onnx, {"other": b""}) == "w"
    assert unlisted_location(affine_model("../../etc/passwd")[0], {}) == "../../etc/passwd"
    assert unlisted_location(negation_model(), {}) is None
    with pytest.raises(ValueError, match="not an ONNX graph"):
        unlisted_location(b"\xff location", {})


def test_messages_nested_without_end() -> None:
    """Each level is searched for the word: without a bound, that would take minutes."""
    data = b"location"
    for number in (*(6, 5, 1) * 2000, 7):  # a graph in an attribute of a node of a graph ...
        length, rest = bytearray(), len(data)
        while rest > 0x7F:
            length.append(rest & 0x7F | 0x80)
            rest >>= 7
        data = bytes([number << 3 | 2, *length, rest]) + data
    with pytest.raises(ValueError, match="deeper than"):
        external_locations(data)
