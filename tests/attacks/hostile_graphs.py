"""ONNX graphs made to hang an engine, to take all memory or to crash, each with what refuses it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
node = helper.make_node
value = helper.make_tensor_value_info


def stored(name: str, array: Any, dtype: Any = np.int64) -> TensorProto:
    """A stored tensor, whole numbers unless said."""
    return numpy_helper.from_array(np.asarray(array, dtype), name)


def model(
    nodes: Sequence[NodeProto],
    tensors: Sequence[TensorProto] = (),
    shape: Sequence[int | str] | None = (1, 4),
    opset: int = 20,
    outputs: Sequence[str] | None = None,
) -> ModelProto:
    """A graph of the float input `x`, whose output is the last node's."""
    names = outputs or nodes[-1].output[:1]
    graph = helper.make_graph(
        list(nodes),
        "hostile",
        [value("x", FLOAT, shape)],
        [value(name, FLOAT, None) for name in names],
        list(tensors),
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def branch(*nodes: NodeProto, output: str = "b") -> GraphProto:
    """A subgraph."""
    return helper.make_graph(list(nodes), "branch", [], [value(output, FLOAT, None)])


def endless_loop() -> ModelProto:
    body = helper.make_graph(
        [node("Identity", ["c"], ["d"]), node("Identity", ["v"], ["w"])],
        "body",
        [value("i", INT64, []), value("c", TensorProto.BOOL, []), value("v", FLOAT, [1, 4])],
        [value("d", TensorProto.BOOL, []), value("w", FLOAT, [1, 4])],
    )
    condition = numpy_helper.from_array(np.asarray(True), "yes")
    return model([node("Loop", ["", "yes", "x"], ["y"], body=body)], [condition])


def scan() -> ModelProto:
    body = helper.make_graph(
        [node("Identity", ["v"], ["w"])], "body", [value("v", FLOAT, [4])], [value("w", FLOAT, [4])]
    )
    return model([node("Scan", ["x"], ["y"], body=body, num_scan_inputs=1)])


def branches() -> ModelProto:
    made = branch(node("Identity", ["x"], ["b"]))
    condition = numpy_helper.from_array(np.asarray(True), "yes")
    return model([node("If", ["yes"], ["y"], then_branch=made, else_branch=made)], [condition])


def nested_branches() -> ModelProto:
    made = branch(node("Identity", ["x"], ["b"]))
    for _ in range(15):
        made = branch(node("If", ["yes"], ["b"], then_branch=made, else_branch=branch()))
    condition = numpy_helper.from_array(np.asarray(True), "yes")
    return model([node("If", ["yes"], ["y"], then_branch=made, else_branch=made)], [condition])


def hidden_subgraph() -> ModelProto:
    """On an operator that is allowed."""
    made = branch(node("Identity", ["x"], ["b"]))
    return model([node("Relu", ["x"], ["y"], body=made)])


def unfolding_functions() -> ModelProto:
    """Thirty functions, each of which calls the next one twice."""
    made = model([node("f0", ["x"], ["y"], domain="local")])
    for number in range(30):
        inner = f"f{number + 1}" if number < 29 else "Relu"
        domain = "local" if number < 29 else ""
        calls = [node(inner, ["a"], ["t"], domain=domain), node(inner, ["t"], ["b"], domain=domain)]
        made.functions.append(
            helper.make_function(
                "local", f"f{number}", ["a"], ["b"], calls,
                [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)],
            )
        )  # fmt: skip
    made.opset_import.append(helper.make_opsetid("local", 1))
    return made


def function_named_as_operator() -> ModelProto:
    made = model([node("Relu", ["x"], ["y"])])
    call = node("Relu", ["a"], ["b"])
    made.functions.append(
        helper.make_function("", "Relu", ["a"], ["b"], [call], [helper.make_opsetid("", 20)])
    )
    return made


def nodes_in_a_row(count: int, *operators: str) -> Callable[[], ModelProto]:
    def make() -> ModelProto:
        names = ["x", *(f"v{i}" for i in range(count))]
        return model(
            [node(operators[i % len(operators)], [names[i]], [names[i + 1]]) for i in range(count)]
        )

    return make


def expanded() -> ModelProto:
    return model([node("Expand", ["x", "s"], ["y"])], [stored("s", [400_000_000, 4])])


def expanded_by_data() -> ModelProto:
    nodes = [node("Cast", ["x"], ["s"], to=INT64), node("Expand", ["x", "f"], ["y"])]
    return model([nodes[0], node("Reshape", ["s", "n"], ["f"]), nodes[1]], [stored("n", [-1])])


def expanded_by_shape() -> ModelProto:
    """The size grows with the square of an axis that the runtime fills."""
    nodes = [
        node("Shape", ["x"], ["s"], start=0, end=1),
        node("Mul", ["s", "s"], ["q"]),
        node("Concat", ["q", "four"], ["n"], axis=0),
        node("Expand", ["one", "n"], ["y"]),
    ]
    tensors = [stored("four", [4]), stored("one", [[1]], np.float32)]
    return model(nodes, tensors, ["texts_of_mine", 4])


def larger_where_runs_are_small() -> ModelProto:
    """The size is greatest for the fewest prompts."""
    nodes = [
        node("Shape", ["x"], ["s"], start=0, end=1),
        node("Sub", ["many", "s"], ["n"]),
        node("Expand", ["one", "n"], ["y"]),
    ]
    tensors = [stored("many", [2**33]), stored("one", [1], np.float32)]
    return model(nodes, tensors, ["prompts", 4])


def tiled() -> ModelProto:
    return model([node("Tile", ["x", "s"], ["y"])], [stored("s", [400_000_000, 1])])


def padded() -> ModelProto:
    return model([node("Pad", ["x", "p"], ["y"])], [stored("p", [0, 0, 400_000_000, 0])])


def padded_in_steps() -> ModelProto:
    nodes = [node("Pad", ["x" if not i else f"v{i - 1}", "p"], [f"v{i}"]) for i in range(8)]
    return model(nodes, [stored("p", [0, 0, 40_000, 40_000])])


def padded_by_less_than_nothing() -> ModelProto:
    return model([node("Pad", ["x", "p"], ["y"])], [stored("p", [0, -9, 0, -9])])


def resized() -> ModelProto:
    scales = stored("s", [1, 1, 40_000, 40_000], np.float32)
    return model([node("Resize", ["x", "", "s"], ["y"], mode="nearest")], [scales], [1, 1, 4, 4])


def resized_by_nan() -> ModelProto:
    scales = stored("s", [1, 1, np.nan, 2], np.float32)
    return model([node("Resize", ["x", "", "s"], ["y"], mode="nearest")], [scales], [1, 1, 4, 4])


def resized_to_sizes() -> ModelProto:
    sizes = stored("s", [1, 1, 2**20, 2**20])
    nodes = [node("Resize", ["x", "", "", "s"], ["y"], mode="nearest")]
    return model(nodes, [sizes], [1, 1, 4, 4])


def numbered() -> ModelProto:
    nodes = [node("Range", ["a", "b", "c"], ["r"]), node("Cast", ["r"], ["y"], to=FLOAT)]
    return model(nodes, [stored("a", 0), stored("b", 2**40), stored("c", 1)])


def constant_of_shape() -> ModelProto:
    return model([node("ConstantOfShape", ["s"], ["y"])], [stored("s", [2**31, 1])])


def doubled() -> ModelProto:
    nodes = []
    for i in range(40):
        before = f"v{i - 1}" if i else "x"
        nodes.append(node("Concat", [before, before], [f"v{i}"], axis=0))
    return model(nodes)


def squared() -> ModelProto:
    """Outer products: a vector becomes a matrix, a matrix a vector."""
    nodes = []
    before = "x"
    for i in range(6):
        nodes.append(node("Reshape", [before, "column"], [f"c{i}"]))
        nodes.append(node("Reshape", [before, "row"], [f"r{i}"]))
        nodes.append(node("Mul", [f"c{i}", f"r{i}"], [f"v{i}"]))
        before = f"v{i}"
    return model(nodes, [stored("column", [-1, 1]), stored("row", [1, -1])])


def much_work() -> ModelProto:
    """Little memory: products of matrices of 64 MB."""
    nodes = [node("Expand", ["x", "s"], ["a"])]
    for i in range(200):
        nodes.append(node("MatMul", [f"v{i - 1}" if i else "a", "a"], [f"v{i}"]))
    return model(nodes, [stored("s", [4096, 4096])], [1, 1])


def much_kept() -> ModelProto:
    """Each result is small, and all are needed at the end."""
    nodes = [node("Expand", ["x", "s"], [f"v{i}"]) for i in range(60)]
    for i in range(60):
        nodes.append(node("ReduceMax", [f"v{i}", "all"], [f"m{i}"], keepdims=0))
    nodes.append(node("Concat", [f"m{i}" for i in range(60)], ["y"], axis=0))
    return model(nodes, [stored("s", [4096, 8192]), stored("all", [0])], [1, 1])


def much_folded() -> ModelProto:
    """Tensors that follow from stored ones alone, which engines compute and keep."""
    nodes = []
    for i in range(200):
        nodes.append(node("Expand", ["one", "s"], [f"v{i}"]))
        nodes.append(node("Add", [f"w{i - 1}" if i else "x", f"v{i}"], [f"u{i}"]))
        nodes.append(node("Softmax", [f"u{i}"], [f"w{i}"], axis=-1))
    return model(nodes, [stored("one", [[1]], np.float32), stored("s", [256, 4096])], [256, 4096])


def optional_value() -> ModelProto:
    made = model([node("Relu", ["x"], ["y"])])
    held = made.graph.value_info.add(name="o")
    held.type.optional_type.elem_type.tensor_type.elem_type = FLOAT
    return made


def optional_input() -> ModelProto:
    made = model([node("Relu", ["x"], ["y"])])
    made.graph.input.add(name="o").type.optional_type.elem_type.tensor_type.elem_type = FLOAT
    return made


def optional_operator() -> ModelProto:
    nodes = [node("Optional", ["x"], ["o"]), node("OptionalGetElement", ["o"], ["y"])]
    return model(nodes)


def sequence() -> ModelProto:
    nodes = [
        node("SequenceConstruct", ["x"], ["o"]),
        node("ConcatFromSequence", ["o"], ["y"], axis=0),
    ]
    return model(nodes)


def gather_nd() -> ModelProto:
    return model([node("GatherND", ["x", "i"], ["y"])], [stored("i", [[2**31, 2**31]])])


def gathered_beyond() -> ModelProto:
    return model([node("Gather", ["x", "i"], ["y"], axis=1)], [stored("i", [4])])


def gathered_before() -> ModelProto:
    return model([node("Gather", ["x", "i"], ["y"], axis=1)], [stored("i", [-5])])


def scattered() -> ModelProto:
    nodes = [node("ScatterND", ["x", "i", "u"], ["y"])]
    return model(nodes, [stored("i", [[2**40, 0]]), stored("u", [1], np.float32)])


def cyclic() -> ModelProto:
    return model([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"])])


def made_later() -> ModelProto:
    return model([node("Relu", ["a"], ["y"]), node("Relu", ["x"], ["a"])], outputs=["y"])


def made_twice() -> ModelProto:
    return model([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])])


def made_over_an_input() -> ModelProto:
    return model([node("Relu", ["x"], ["x"])])


def never_made() -> ModelProto:
    return model([node("Relu", ["x"], ["y"])], outputs=["z"])


def unknown_input() -> ModelProto:
    return model([node("Add", ["x", "nothing"], ["y"])])


def lying_tensor(**changes: Any) -> Callable[[], ModelProto]:
    def make() -> ModelProto:
        tensor = stored("w", np.ones((1, 4)), np.float32)
        for name, changed in changes.items():
            if name == "dims":
                del tensor.dims[:]
                tensor.dims.extend(changed)
            else:
                setattr(tensor, name, changed)
        return model([node("Add", ["x", "w"], ["y"])], [tensor])

    return make


def strings() -> ModelProto:
    tensor = helper.make_tensor("w", TensorProto.STRING, [1], [b"text"])
    return model([node("Relu", ["x"], ["y"])], [tensor])


def small_type(dtype: int) -> Callable[[], ModelProto]:
    def make() -> ModelProto:
        tensor = TensorProto(name="w", data_type=dtype, dims=[8], raw_data=b"\0" * 4)
        return model([node("Relu", ["x"], ["y"])], [tensor])

    return make


def cast_to(dtype: int) -> Callable[[], ModelProto]:
    return lambda: model([node("Cast", ["x"], ["y"], to=dtype)])


def sparse() -> ModelProto:
    made = model([node("Relu", ["x"], ["y"])])
    made.graph.sparse_initializer.add().dims.extend([2**31, 2**31])
    return made


def training() -> ModelProto:
    made = model([node("Relu", ["x"], ["y"])])
    made.training_info.add().algorithm.name = "train"
    return made


def foreign_operator() -> ModelProto:
    made = model([node("Run", ["x"], ["y"], domain="com.example")])
    made.opset_import.append(helper.make_opsetid("com.example", 1))
    return made


def contrib_operator() -> ModelProto:
    return model([node("Gelu", ["x"], ["y"], domain="com.microsoft")])


def shaped(*dims: int) -> Callable[[], ModelProto]:
    return lambda: model([node("Relu", ["x"], ["y"])], shape=dims)


def renamed_axis() -> ModelProto:
    """More texts than prompts are ever sent."""
    made = model([node("Relu", ["x"], ["y"])])
    made.graph.input.append(value("text", FLOAT, ["prompts", 4]))
    return made


def unknown_rank() -> ModelProto:
    return model([node("Relu", ["x"], ["y"])], shape=None)


def lying_description() -> ModelProto:
    made = model([node("Relu", ["x"], ["h"]), node("Relu", ["h"], ["y"])])
    made.graph.value_info.append(value("h", FLOAT, [2**30, 4]))
    return made


def convolution(
    weight: tuple[int, ...] = (8, 4, 3, 3), **attributes: Any
) -> Callable[[], ModelProto]:
    def make() -> ModelProto:
        nodes = [node("Conv", ["x", "w"], ["y"], **attributes)]
        return model(nodes, [stored("w", np.zeros(weight), np.float32)], [1, 4, 16, 16])

    return make


def pooled(**attributes: Any) -> Callable[[], ModelProto]:
    return lambda: model([node("AveragePool", ["x"], ["y"], **attributes)], shape=[1, 4, 16, 16])


def deconvolution(**attributes: Any) -> Callable[[], ModelProto]:
    def make() -> ModelProto:
        nodes = [node("ConvTranspose", ["x", "w"], ["y"], **attributes)]
        return model(nodes, [stored("w", np.zeros((4, 8, 2, 2)), np.float32)], [1, 4, 16, 16])

    return make


def reshaped(*sizes: int) -> Callable[[], ModelProto]:
    return lambda: model([node("Reshape", ["x", "s"], ["y"])], [stored("s", sizes)])


def sliced(start: int, end: int, step: int) -> Callable[[], ModelProto]:
    tensors = [stored(n, [v]) for n, v in (("s", start), ("e", end), ("a", 1), ("t", step))]
    return lambda: model([node("Slice", ["x", "s", "e", "a", "t"], ["y"])], tensors)


def split_in_parts() -> ModelProto:
    nodes = [node("Split", ["x", "s"], ["a", "y"], axis=1)]
    return model(nodes, [stored("s", [9, -5])], outputs=["y"])


def transposed() -> ModelProto:
    return model([node("Transpose", ["x"], ["y"], perm=[0, 7])])


def axis_beyond(operator: str) -> Callable[[], ModelProto]:
    return lambda: model([node(operator, ["x"], ["y"], axis=2**40)])


def quantised_axis() -> ModelProto:
    tensors = [
        stored("q", np.zeros((1, 4)), np.int8),
        stored("s", [1, 1, 1, 1], np.float32),
        stored("z", [0, 0, 0, 0], np.int8),
    ]
    nodes = [
        node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=7),
        node("Add", ["x", "d"], ["y"]),
    ]
    return model(nodes, tensors)


def quantised_scale() -> ModelProto:
    tensors = [
        stored("q", np.zeros((1, 4)), np.int8),
        stored("s", [1, 1, 1], np.float32),
        stored("z", [0, 0, 0], np.int8),
    ]
    nodes = [
        node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=1),
        node("Add", ["x", "d"], ["y"]),
    ]
    return model(nodes, tensors)


def normalised() -> ModelProto:
    nodes = [node("LayerNormalization", ["x", "w"], ["y"])]
    return model(nodes, [stored("w", [1, 1, 1], np.float32)])


def repeated_letters() -> ModelProto:
    return model([node("Einsum", ["x", "x"], ["y"], equation="ii,jj->iijj")])


def many_letters() -> ModelProto:
    nodes = [
        node("Reshape", ["x", "s"], ["v"]),
        node("Einsum", ["v", "v"], ["y"], equation="a,b->ab"),
    ]
    return model(nodes, [stored("s", [-1])], [300_000, 1])


def region(scale: float = 0.25, name: str = "x", factor: float = 1.0) -> Callable[[], ModelProto]:
    """RoiAlign of boxes that are computed, or of a scale that makes them huge."""

    def make() -> ModelProto:
        nodes = [
            node("Mul", ["boxes", "f"], ["b"]),
            node("RoiAlign", ["x", "b" if factor != 1 else "boxes", "i"], ["y"],
                 output_height=4, output_width=4, spatial_scale=scale),
        ]  # fmt: skip
        tensors = [stored("i", [0]), stored("f", [factor], np.float32)]
        made = model(nodes, tensors, [1, 4, 16, 16])
        made.graph.input.append(value("boxes", FLOAT, [1, 4]))
        return made

    return make


def region_of_another_image() -> ModelProto:
    nodes = [node("RoiAlign", ["x", "boxes", "i"], ["y"], output_height=4, output_width=4)]
    made = model(nodes, [stored("i", [2**40])], [1, 4, 16, 16])
    made.graph.input.append(value("boxes", FLOAT, [1, 4]))
    return made


def duplicated_attribute() -> ModelProto:
    made = model([node("Softmax", ["x"], ["y"], axis=1)])
    made.graph.node[0].attribute.append(helper.make_attribute("axis", 0))
    return made


def attribute_of_another_kind() -> ModelProto:
    return model([node("Softmax", ["x"], ["y"], axis="last")])


def referenced_attribute() -> ModelProto:
    made = model([node("Softmax", ["x"], ["y"])])
    attribute = made.graph.node[0].attribute.add(name="axis", type=2)
    attribute.ref_attr_name = "axis"
    return made


def many_numbers() -> ModelProto:
    return model([node("Transpose", ["x"], ["y"], perm=[1] * 1_000_000)])


def long_name() -> ModelProto:
    return model([node("Relu", ["x"], ["y"], name="n" * 5_000_000)])


def many_inputs() -> ModelProto:
    return model([node("Max", ["x"] * 100_000, ["y"])])


def many_descriptions() -> ModelProto:
    made = model([node("Relu", ["x"], ["y"])])
    for number in range(50_000):
        made.graph.value_info.append(value(f"v{number}", FLOAT, [1]))
    return made


def opset(version: int) -> Callable[[], ModelProto]:
    return lambda: model([node("Relu", ["x"], ["y"])], opset=version)


def whole_division(*divisors: int) -> Callable[[], ModelProto]:
    """Of the smallest number by -1, and of any by 0, processors make an exception."""

    def make() -> ModelProto:
        nodes = [
            node("Cast", ["x"], ["i"], to=INT64),
            node("Div", ["i", "d"], ["q"]),
            node("Cast", ["q"], ["y"], to=FLOAT),
        ]
        return model(nodes, [stored("d", divisors)])

    return make


def divided_by_data() -> ModelProto:
    nodes = [
        node("Cast", ["x"], ["i"], to=INT64),
        node("Div", ["i", "i"], ["q"]),
        node("Cast", ["q"], ["y"], to=FLOAT),
    ]
    return model(nodes)


def gathered_by_data(operator: str) -> Callable[[], ModelProto]:
    nodes = [node("Cast", ["x"], ["i"], to=INT64), node(operator, ["x", "i"], ["y"], axis=1)]
    return lambda: model(nodes)


def wrapped_around(*nodes: NodeProto) -> Callable[[], ModelProto]:
    """`a` seems to be 2**32, and is 0: what is 4 to a reader with larger numbers is 2**32 + 4."""

    def make() -> ModelProto:
        rest = [
            node("Sub", ["b", "a"], ["c"]),
            node("Add", ["c", "four"], ["s"]),
            node("Expand", ["one", "s"], ["y"]),
        ]
        numbers = {"b": 2**32, "four": 4}
        tensors = [
            *(stored(name, [number]) for name, number in numbers.items()),
            stored("q", [2**30], np.int32),
            stored("f", [4], np.int32),
            stored("one", [1], np.float32),
        ]
        return model([*nodes, *rest], tensors)

    return make


def coefficients_that_square() -> ModelProto:
    """A size that is a number of 2**40 digits."""
    nodes = [node("Shape", ["x"], ["s"], start=0, end=1), node("Mul", ["s", "c"], ["v0"])]
    for i in range(40):
        nodes.append(node("Mul", [f"v{i}", f"v{i}"], [f"m{i}"]))
        nodes.append(node("Div", [f"m{i}", "s"], [f"v{i + 1}"]))
    nodes.append(node("Expand", ["one", "v40"], ["y"]))
    return model(nodes, [stored("c", [3]), stored("one", [1], np.float32)], ["texts", 4])


def many_sizes() -> ModelProto:
    """Sums of 15 sizes, 256 at a time, again and again."""
    ports = [value(f"in{k}", FLOAT, [f"size{k}"]) for k in range(15)]
    nodes = [node("Shape", [port.name], [f"s{k}"]) for k, port in enumerate(ports)]
    nodes += [
        node("Add", [f"t{k - 1}" if k > 1 else "s0", f"s{k}"], [f"t{k}"]) for k in range(1, 15)
    ]
    nodes.append(node("Expand", ["t14", "n"], ["v0"]))
    for i in range(3000):
        nodes.append(node("Sub" if i % 2 else "Add", [f"v{i}", "v0"], [f"w{i}"]))
        nodes.append(node("Reshape", [f"w{i}", "all"], [f"v{i + 1}"]))
    nodes.append(node("Relu", ["x"], ["y"]))
    made = model(nodes, [stored("n", [256]), stored("all", [-1])])
    made.graph.input.extend(ports)
    return made


def written_again_and_again(operator: str, *tensors: TensorProto, **attributes: Any) -> Any:
    """Much from little: 1 GiB is computed each time, of which one element is used."""

    def make() -> ModelProto:
        nodes = []
        operands = [tensor.name for tensor in tensors]
        for i in range(4000):
            source = f"v{i - 1}" if i else "x"
            nodes.append(node(operator, [source, *operands], [f"r{i}"], **attributes))
            nodes.append(node("Slice", [f"r{i}", "start", "end", "axes"], [f"v{i}"]))
        slices = [stored("start", [0, 0]), stored("end", [16, 16]), stored("axes", [2, 3])]
        return model(nodes, [*(t for t in tensors if t.name), *slices], [1, 1, 16, 16])

    return make


def of_nothing(*nodes: NodeProto, **arrays: Any) -> Callable[[], ModelProto]:
    """Nodes on a slice `e` without elements."""
    cut = node("Slice", ["x", "zero", "zero", "two"], ["e"])
    tensors = [stored(name, array) for name, array in arrays.items()]
    ends = [stored("zero", [0]), stored("two", [2])]
    return lambda: model([cut, *nodes], [*tensors, *ends], [1, 1, 4, 4])


def scaled(scale: float) -> Callable[[], ModelProto]:
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("Cast", ["q"], ["y"], to=FLOAT)]
    return lambda: model(nodes, [stored("s", scale, np.float32), stored("z", 0, np.int8)])


# What is in the message, and the model.
HOSTILE: dict[str, tuple[str, Callable[[], ModelProto]]] = {
    "a loop without end": ("subgraph", endless_loop),
    "a scan": ("subgraph", scan),
    "branches": ("subgraph", branches),
    "nested branches": ("subgraph", nested_branches),
    "a subgraph of an operator that has none": ("subgraph", hidden_subgraph),
    "functions that unfold": ("local functions", unfolding_functions),
    "a function named as an operator": ("local functions", function_named_as_operator),
    "100,000 nodes": ("100,000 nodes", nodes_in_a_row(100_000, "Softmax")),
    "500 nodes that are fused": ("in a row", nodes_in_a_row(500, "Relu", "Sigmoid")),
    "Expand to 6 GB": ("bytes", expanded),
    "Expand by data": ("computed from data", expanded_by_data),
    "Expand by the square of an axis": ("bytes", expanded_by_shape),
    "Expand to most for the smallest run": ("bytes", larger_where_runs_are_small),
    "Tile": ("Tile", tiled),
    "Pad to 6 GB": ("widths", padded),
    "Pad again and again": ("bytes", padded_in_steps),
    "Pad by less than nothing": ("widths", padded_by_less_than_nothing),
    "Resize to 6 GB": ("bytes", resized),
    "Resize by NaN": ("finite", resized_by_nan),
    "Resize to sizes": ("bytes", resized_to_sizes),
    "Range": ("Range", numbered),
    "ConstantOfShape": ("ConstantOfShape", constant_of_shape),
    "Concat that doubles": ("bytes", doubled),
    "outer products": ("bytes", squared),
    "products without end": ("multiplied", much_work),
    "many tensors at once": ("in use", much_kept),
    "much to fold": ("stored tensors", much_folded),
    "an optional intermediate": ("optional", optional_value),
    "an optional input": ("optional", optional_input),
    "an optional operator": ("Optional", optional_operator),
    "a sequence": ("SequenceConstruct", sequence),
    "GatherND": ("GatherND", gather_nd),
    "Gather beyond an axis": ("places", gathered_beyond),
    "Gather before an axis": ("places", gathered_before),
    "ScatterND": ("ScatterND", scattered),
    "a cycle": ("not made before", cyclic),
    "nodes in the wrong order": ("not made before", made_later),
    "a name made twice": ("twice", made_twice),
    "a name made over an input": ("twice", made_over_an_input),
    "an output that is never made": ("never made", never_made),
    "an input that is not there": ("not made before", unknown_input),
    "more numbers than bytes": ("bytes, expected", lying_tensor(dims=[1, 400_000_000])),
    "fewer numbers than bytes": ("bytes, expected", lying_tensor(dims=[1, 2])),
    "a negative axis": ("axes of", lying_tensor(dims=[-1, 4])),
    "an axis of 2**40": ("axes of", lying_tensor(dims=[2**40])),
    "axes whose product wraps": ("axes of", lying_tensor(dims=[2**32, 2**32])),
    "an axis of 0": ("bytes, expected", lying_tensor(dims=[0, 4])),
    "100 axes": ("axes", lying_tensor(dims=[1] * 100)),
    "another type": ("bytes, expected", lying_tensor(data_type=TensorProto.DOUBLE - 4)),
    "doubles": ("type 11", lying_tensor(data_type=TensorProto.DOUBLE)),
    "a type that there is not": ("type 99", lying_tensor(data_type=99)),
    "text": ("strings", strings),
    "four bits": ("type 22", small_type(TensorProto.INT4)),
    "eight floating bits": ("type 17", small_type(TensorProto.FLOAT8E4M3FN)),
    "a cast to four bits": ("casts", cast_to(TensorProto.INT4)),
    "a cast to text": ("casts", cast_to(TensorProto.STRING)),
    "a sparse tensor": ("sparse", sparse),
    "training": ("training", training),
    "another domain": ("com.example", foreign_operator),
    "an operator of ONNX Runtime": ("com.microsoft.Gelu", contrib_operator),
    "an input of 2**40": ("axis of", shaped(2**40, 4)),
    "an input of 64 GB": ("bytes", shaped(2**30, 16)),
    "an input with a negative axis": ("axis of", shaped(-1, 4)),
    "an axis with the name of a shorter one": ("is called", renamed_axis),
    "an input of unknown rank": ("unknown size", unknown_rank),
    "a lie about an intermediate": ("says", lying_description),
    "a stride of 0": ("strides", convolution(strides=[0, 0])),
    "a negative stride": ("strides", convolution(strides=[-1, 1])),
    "a huge stride": ("strides", convolution(strides=[2**40, 1])),
    "a dilation of 0": ("dilations", convolution(dilations=[0, 1])),
    "negative pads": ("pads", convolution(pads=[-8, 0, 0, 0])),
    "huge pads": ("pads", convolution(pads=[2**31] * 4)),
    "other channels": ("does not fit", convolution((8, 3, 3, 3))),
    "no groups": ("does not fit", convolution(group=0)),
    "groups that do not divide": ("does not fit", convolution((9, 1, 3, 3), group=4)),
    "a kernel that lies": ("says otherwise", convolution(kernel_shape=[5, 5])),
    "a kernel of one axis": ("does not have", convolution(kernel_shape=[3])),
    "an empty kernel": ("kernel", convolution((8, 4, 0, 3))),
    "a kernel beyond its input": ("does not fit on", convolution((8, 4, 17, 3))),
    "padding by itself": ("by itself", convolution(auto_pad="SAME_UPPER")),
    "pooling without a kernel": ("kernel_shape", pooled()),
    "pooling in padding alone": ("pads by more", pooled(kernel_shape=[2, 2], pads=[2, 2, 2, 2])),
    "pooling with an empty kernel": ("kernel", pooled(kernel_shape=[0, 0])),
    "an output shape of its own": ("output_shape", deconvolution(output_shape=[10**6, 10**6])),
    "output padding": ("output padding", deconvolution(output_padding=[10**6, 10**6])),
    "a reshape to other numbers": ("makes", reshaped(5)),
    "a reshape with two unknowns": ("two of its sizes", reshaped(-1, -1)),
    "a reshape that does not divide": ("divides", reshaped(3, -1)),
    "a reshape to a negative axis": ("makes", reshaped(-4)),
    "a reshape of an axis that is not there": ("lacks", reshaped(1, 4, 0)),
    "a step of 0": ("step", sliced(0, 4, 0)),
    "a negative part": ("size", split_in_parts),
    "axes out of order": ("order of axes", transposed),
    "an axis beyond": ("axis", axis_beyond("Softmax")),
    "an axis of scales beyond": ("axis", quantised_axis),
    "other scales": ("scale", quantised_scale),
    "another norm": ("fit together", normalised),
    "an equation with letters twice": ("twice", repeated_letters),
    "an equation of 360 GB": ("bytes", many_letters),
    "boxes that are computed": ("boxes are computed", region(factor=1e9)),
    "boxes on a scale": ("scale", region(scale=1e9)),
    "boxes of another image": ("images", region_of_another_image),
    "an attribute twice": ("twice", duplicated_attribute),
    "an attribute of another kind": ("whole number", attribute_of_another_kind),
    "an attribute from a function": ("reference", referenced_attribute),
    "a million numbers in an attribute": ("fields", many_numbers),
    "a name of 5 MB": ("name", long_name),
    "100,000 inputs": ("inputs", many_inputs),
    "50,000 descriptions": ("descriptions", many_descriptions),
    "a first input that is missing": ("missing", lambda: model([node("Not", [""], ["y"])])),
    "whole numbers divided by 0": ("less than 1", whole_division(0)),
    "whole numbers divided by -1": ("less than 1", whole_division(4, -1, 4, 4)),
    "whole numbers divided by data": ("less than 1", divided_by_data),
    "Gather by data": ("may not exist", gathered_by_data("Gather")),
    "GatherElements by data": ("may not exist", gathered_by_data("GatherElements")),
    "a cast that wraps around": (
        "computed from data",
        wrapped_around(
            node("Cast", ["b"], ["i"], to=TensorProto.INT32), node("Cast", ["i"], ["a"], to=INT64)
        ),
    ),
    "a product that wraps around": (
        "computed from data",
        wrapped_around(node("Mul", ["q", "f"], ["i"]), node("Cast", ["i"], ["a"], to=INT64)),
    ),
    "sizes of a million digits": ("a size in it", coefficients_that_square),
    "many sizes": ("sizes follow", many_sizes),
    "much written by Resize": (
        "multiplied",
        written_again_and_again(
            "Resize", TensorProto(), TensorProto(), stored("n", [1, 1, 2**14, 2**14])
        ),
    ),
    "much written by ConvTranspose": (
        "multiplied",
        written_again_and_again(
            "ConvTranspose", stored("w", np.ones((1, 1, 1, 1)), np.float32), strides=[1024, 1024]
        ),
    ),
    "Resize of nothing": (
        "no elements",
        of_nothing(node("Resize", ["e", "", "", "n"], ["y"], mode="nearest"), n=[1, 1, 4, 4]),
    ),
    "an input of nothing": ("no elements", shaped(0, 4)),
    "a step that wraps around": ("step", sliced(2**63 - 1, -(2**63), 1 - 2**63)),
    "a scale of NaN": ("scale", scaled(float("nan"))),
    "a scale of 0": ("scale", scaled(0)),
    "a scale below 0": ("scale", scaled(-1)),
    "a scale without end": ("scale", scaled(float("inf"))),
    "a new opset": ("opset 99", opset(99)),
    "an old opset": ("opset 1;", opset(1)),
}
