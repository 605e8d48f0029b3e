"""A bundle's encoder and decoder with the inputs and outputs that annotation programs know.

The encoder takes a picture, HxWx3 float32 RGB in [0, 255], its longer side `LONGEST` pixels, and
returns embeddings alone. The decoder has the official signature of SAM's ONNX export: coordinates
in pixels of that picture, `orig_im_size`, and masks of that size first. Nodes are put in front of
and behind the bundle's graphs; nothing is traced again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from samclip.errors import ExportError
from samclip.export.rebuilding.stored_graphs import read_graphs
from samclip.runtime.bundles.bundle import Bundle

GRAPHS = ("encoder", "mask_decoder")
LONGEST = 1024  # of the picture, on its longer side
MASK_GRID = 256  # a side of `mask_input`, whatever the model's own is
FEW_POINTS = 2.5  # below it the best of three masks is chosen, else the single one, as SAM does
MULTIMASK_COST = 1000.0  # by which the single mask is worse or better then
END = 2**31  # of a slice that goes to the end
FLOAT, INT64 = int(ir.DataType.FLOAT), int(ir.DataType.INT64)


def make_pair(bundle: Bundle) -> tuple[ir.Model, ir.Model]:
    """Return the encoder and the decoder of a bundle; ExportError where its graphs do not fit."""
    found = {each.name: each.model for each in read_graphs(bundle) if each.name in GRAPHS}
    pixels = bundle.manifest.preprocessing
    if len({*pixels.first_canvas}) > 1:
        raise ExportError(
            f"the bundle's input is {pixels.first_canvas[1]}x{pixels.first_canvas[0]}; "
            "X-AnyLabeling's pair needs a square one. Give --imgsz one number."
        )
    encoder, decoder = found["encoder"], found["mask_decoder"]
    outputs = [value.name for value in decoder.graph.outputs]
    if "image_embeddings" not in [value.name for value in encoder.graph.outputs] or outputs != [
        "iou_predictions",
        "low_res_masks",
    ]:
        raise ExportError(
            f"bundle {bundle.manifest.name!r} has not SAM's encoder and decoder: its decoder "
            f"returns {', '.join(map(str, outputs))}. X-AnyLabeling cannot run it."
        )
    _take_pictures(encoder, pixels.mean, pixels.std, pixels.image_size)
    _answer_as_sam(decoder, pixels.image_size)
    return _cleaned(encoder), _cleaned(decoder)


class _Nodes:
    """Nodes that are made one after the other, with their constants as initializers."""

    def __init__(self, graph: ir.Graph, prefix: str) -> None:
        self.graph = graph
        self.made: list[ir.Node] = []
        self._prefix = prefix
        self._count = 0

    def constant(self, value: Any, kind: Any = np.float32) -> ir.Value:
        """Return a constant."""
        self._count += 1
        name = f"{self._prefix}_constant_{self._count}"
        tensor = ir.tensor(np.asarray(value, kind), name=name)
        shape = ir.Shape(np.shape(value))
        made = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype))
        made.const_value = tensor
        self.graph.register_initializer(made)
        return made

    def add(self, operator: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Return the output of a new node."""
        self._count += 1
        node = ir.node(operator, inputs, attributes or None)
        node.outputs[0].name = f"{self._prefix}_{operator.lower()}_{self._count}"
        self.made.append(node)
        return node.outputs[0]


def _take_pictures(model: ir.Model, mean: Sequence[float], std: Sequence[float], side: int) -> None:
    """Let an encoder of normalised squares take HxWx3 float32, and return embeddings alone."""
    graph = model.graph
    nodes = _Nodes(graph, "picture")
    picture = ir.Value(
        name="picture",
        shape=ir.Shape(["height", "width", 3]),
        type=ir.TensorType(ir.DataType.FLOAT),
    )
    planes = nodes.add("Transpose", picture, perm=[2, 0, 1])  # HxWx3 -> 3xHxW
    centred = nodes.add("Sub", planes, nodes.constant(np.reshape(mean, (3, 1, 1))))
    scaled = nodes.add("Div", centred, nodes.constant(np.reshape(std, (3, 1, 1))))
    batch = nodes.add("Unsqueeze", scaled, nodes.constant([0], np.int64))  # 1x3xHxW
    if side != LONGEST:
        factor = side / LONGEST
        sizes = nodes.constant([1, 1, factor, factor])
        batch = nodes.add("Resize", batch, None, sizes, mode="linear", antialias=1)
    size = nodes.add("Shape", batch, start=2)
    rest = nodes.add("Sub", nodes.constant([side, side], np.int64), size)
    pads = nodes.add("Concat", nodes.constant([0] * 6, np.int64), rest, axis=0)
    padded = nodes.add("Pad", batch, pads, nodes.constant(0.0), mode="constant")
    image = graph.inputs[0]
    first = next(iter(graph))
    graph.insert_before(first, nodes.made)
    image.replace_all_uses_with(padded)
    graph.inputs[0] = picture
    (embeddings,) = (value for value in graph.outputs if value.name == "image_embeddings")
    graph.outputs[:] = [embeddings]


def _answer_as_sam(model: ir.Model, side: int) -> None:
    """Let a decoder take `orig_im_size`, and return one mask of a picture of that size first."""
    graph = model.graph
    inputs = {str(value.name): value for value in graph.inputs}
    labels = _leave_padding_out(graph, inputs["point_coords"], inputs["point_labels"], side)
    if side != LONGEST:
        _take_whole_grid(graph, inputs["mask_input"], side)
    size = ir.Value(name="orig_im_size", shape=ir.Shape([2]), type=ir.TensorType(ir.DataType.FLOAT))
    graph.inputs.append(size)
    nodes = _Nodes(graph, "answer")
    iou, low_res = graph.outputs
    one_iou, one_low_res = _choose_mask(nodes, iou, low_res, labels)
    masks = _resize_mask(nodes, one_low_res, size, side)
    graph.extend(nodes.made)
    iou.name, low_res.name = "all_iou_predictions", "all_low_res_masks"
    answers: tuple[tuple[ir.Value, str, list[int | str]], ...] = (
        (masks, "masks", ["prompts", 1, "mask_height", "mask_width"]),
        (one_iou, "iou_predictions", ["prompts", 1]),
        (one_low_res, "low_res_masks", ["prompts", 1, side // 4, side // 4]),
    )
    for value, name, shape in answers:
        value.name, value.shape = name, ir.Shape(shape)
        value.type = ir.TensorType(ir.DataType.FLOAT)
    graph.outputs[:] = [value for value, *_ in answers]


def _leave_padding_out(graph: ir.Graph, coords: ir.Value, labels: ir.Value, side: int) -> ir.Value:
    """Leave out the last point where it is padding next to a box, and scale points.

    SAM's predictor pads prompts without a box only, and its masks differ; X-AnyLabeling pads all.
    Returns the labels that are given.
    """
    nodes = _Nodes(graph, "points")
    given_coords, given_labels = _twin(coords), _twin(labels)
    begin, axis = nodes.constant([0], np.int64), nodes.constant([1], np.int64)
    highest = nodes.add("ReduceMax", given_labels, keepdims=0)
    is_box = nodes.add("GreaterOrEqual", highest, nodes.constant(2.0))
    last = nodes.constant([-1], np.int64), nodes.constant([END], np.int64)
    final = nodes.add("ReduceMax", nodes.add("Slice", given_labels, *last, axis), keepdims=0)
    is_padded = nodes.add("Less", final, nodes.constant(0.0))
    surplus = nodes.add("Cast", nodes.add("And", is_box, is_padded), to=INT64)
    used = nodes.add("Sub", nodes.add("Shape", given_labels, start=1, end=2), surplus)
    points = nodes.add("Slice", given_coords, begin, used, axis)
    if side != LONGEST:
        points = nodes.add("Mul", points, nodes.constant(side / LONGEST))
    coords.replace_all_uses_with(points)
    labels.replace_all_uses_with(nodes.add("Slice", given_labels, begin, used, axis))
    _put(graph, coords, given_coords)
    _put(graph, labels, given_labels)
    graph.insert_before(next(iter(graph)), nodes.made)
    return given_labels


def _take_whole_grid(graph: ir.Graph, mask: ir.Value, side: int) -> None:
    """Let a decoder of another size take `mask_input` of `MASK_GRID`."""
    nodes = _Nodes(graph, "mask")
    given = _twin(mask)
    given.shape = ir.Shape(["prompts", 1, MASK_GRID, MASK_GRID])
    share = side / 4 / MASK_GRID
    sizes = nodes.constant([1, 1, share, share])
    mask.replace_all_uses_with(nodes.add("Resize", given, None, sizes, mode="linear"))
    _put(graph, mask, given)
    graph.insert_before(next(iter(graph)), nodes.made)


def _choose_mask(
    nodes: _Nodes, iou: ir.Value, low_res: ir.Value, labels: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """Return the predicted IoU, Bx1, and the logits, Bx1xhxw, of one of four masks."""
    count = nodes.add("Cast", nodes.add("Shape", labels, start=1, end=2), to=FLOAT)
    few = nodes.add("Sub", count, nodes.constant([FEW_POINTS]))
    cost = nodes.add("Mul", few, nodes.constant([MULTIMASK_COST, 0, 0, 0]))
    best = nodes.add("ArgMax", nodes.add("Add", iou, cost), axis=1, keepdims=1)  # Bx1
    chosen = nodes.add("Equal", nodes.constant([[0, 1, 2, 3]], np.int64), best)  # Bx4
    weights = nodes.add("Cast", chosen, to=FLOAT)
    over_masks = nodes.add("Unsqueeze", weights, nodes.constant([2, 3], np.int64))  # Bx4x1x1
    axis = nodes.constant([1], np.int64)
    return (
        nodes.add("ReduceSum", nodes.add("Mul", iou, weights), axis, keepdims=1),
        nodes.add("ReduceSum", nodes.add("Mul", low_res, over_masks), axis, keepdims=1),
    )


def _resize_mask(nodes: _Nodes, low_res: ir.Value, size: ir.Value, side: int) -> ir.Value:
    """Return logits of the picture of `size` (h, w): enlarged, cropped, and resized once more."""
    zoom = LONGEST / (side / 4)
    large = nodes.add("Resize", low_res, None, nodes.constant([1, 1, zoom, zoom]), mode="linear")
    longer = nodes.add("ReduceMax", size, keepdims=1)
    shares = nodes.add("Mul", size, nodes.add("Div", nodes.constant([float(LONGEST)]), longer))
    rounded = nodes.add("Floor", nodes.add("Add", shares, nodes.constant([0.5])))
    ends = nodes.add("Cast", rounded, to=INT64)
    begins, axes = nodes.constant([0, 0], np.int64), nodes.constant([2, 3], np.int64)
    cropped = nodes.add("Slice", large, begins, ends, axes)
    batch = nodes.add("Shape", cropped, start=0, end=2)
    sizes = nodes.add("Concat", batch, nodes.add("Cast", size, to=INT64), axis=0)
    return nodes.add("Resize", cropped, None, None, sizes, mode="linear")


def _twin(value: ir.Value) -> ir.Value:
    """Return another value of the same name, shape and type."""
    shape = None if value.shape is None else ir.Shape(value.shape)
    return ir.Value(name=value.name, shape=shape, type=value.type)


def _put(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Put an input, which has the same name, in the place of another one."""
    graph.inputs[list(graph.inputs).index(old)] = new


def _cleaned(model: ir.Model) -> ir.Model:
    passes = ir.passes.Sequential(
        common_passes.RemoveUnusedNodesPass(), common_passes.TopologicalSortPass()
    )
    return passes(model).model
