"""CLIP's vision encoder as an ONNX graph at full size with random weights, for timing alone.

The architecture is OpenCLIP's `VisionTransformer` (Radford et al. 2021; sizes of ViT-B/16 and
ViT-L/14 from their table 20): a patch convolution without bias, a class token, learned positions,
LayerNorm, pre-norm blocks with GELU, LayerNorm, a projection. Positions of a larger input are as
many as it has patches, as if they had been interpolated. On ONNX Runtime the graph uses its fused
attention operator, which does not write the scores to memory: the baseline is as fast as it can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from samclip.benchmarks.roofline.read_graph import import_onnx

OPSET, IR_VERSION = 20, 10  # Gelu is one operator from 20 on
IMAGE, IMAGE_EMBED, PATCH_EMBEDS = "image", "image_embed", "patch_embeds"
SCALE = 0.02  # of random weights, as transformers are initialised

Architecture = Literal["vit-b-16", "vit-l-14"]


@dataclass(frozen=True)
class ClipVisionConfig:
    """Sizes: `width` of tokens, `patch` in pixels, `dim` of the text space."""

    width: int
    layers: int
    heads: int
    patch: int
    dim: int


CONFIGS: dict[Architecture, ClipVisionConfig] = {
    "vit-b-16": ClipVisionConfig(width=768, layers=12, heads=12, patch=16, dim=512),
    "vit-l-14": ClipVisionConfig(width=1024, layers=24, heads=16, patch=14, dim=768),
}


def dense_size(config: ClipVisionConfig, wanted: int = 1024) -> int:
    """Return the largest side up to `wanted` pixels that patches fill."""
    return wanted // config.patch * config.patch


def make_clip_vision(
    config: ClipVisionConfig, image_size: int, *, dense: bool = False, fused: bool = True
) -> bytes:
    """Make the graph: `image` 1x3xSxS float32 to `image_embed` 1xD, not normalised.

    `dense`: also `patch_embeds` 1xNxD, each patch's token through the last LayerNorm and the
    projection (MaskCLIP, Zhou et al. 2022, keeps more of the last block; its work is the same).
    Raises CapabilityError without onnx.
    """
    return _Builder(config, image_size, fused).build(dense)


class _Builder:
    """Adds nodes and random weights to a graph."""

    def __init__(self, config: ClipVisionConfig, image_size: int, fused: bool) -> None:
        self._onnx = import_onnx()
        self._config = config
        self._size = image_size
        self._tokens = (image_size // config.patch) ** 2 + 1
        self._fused = fused
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._random = np.random.default_rng(0)

    def build(self, dense: bool) -> bytes:
        config = self._config
        x = self._norm(self._embed(), "ln_pre")
        for layer in range(config.layers):
            x = self._block(x, f"block{layer}")
        x = self._norm(x, "ln_post")  # 1xNxW
        embeds = self._product(x, "proj", config.width, config.dim, bias=False)
        self._add("Gather", [embeds, self._integers("first", 0)], [IMAGE_EMBED], axis=1)
        outputs = {IMAGE_EMBED: [1, config.dim]}
        if dense:
            ends = [self._integers(name, [value]) for name, value in (("one", 1), ("end", 2**31))]
            axis = self._integers("axis", [1])
            self._add("Slice", [embeds, *ends, axis], [PATCH_EMBEDS])
            outputs[PATCH_EMBEDS] = [1, self._tokens - 1, config.dim]
        return self._serialise(outputs)

    def _embed(self) -> str:
        """Cut the image into patches, put the class token first, add positions: 1xNxW."""
        config, patch = self._config, self._config.patch
        kernel = self._weight("patches", (config.width, 3, patch, patch))
        x = self._add("Conv", [IMAGE, kernel], strides=[patch, patch])  # 1xWxgxg
        x = self._add("Reshape", [x, self._integers("flat", [1, config.width, -1])])
        x = self._add("Transpose", [x], perm=[0, 2, 1])
        token = self._weight("class", (1, 1, config.width))
        x = self._add("Concat", [token, x], axis=1)
        return self._add("Add", [x, self._weight("positions", (1, self._tokens, config.width))])

    def _block(self, x: str, name: str) -> str:
        width = self._config.width
        y = self._norm(x, f"{name}.ln_1")
        q, k, v = (self._product(y, f"{name}.{part}", width, width) for part in "qkv")
        y = self._product(self._attention(q, k, v, name), f"{name}.out", width, width)
        x = self._add("Add", [x, y])
        y = self._product(self._norm(x, f"{name}.ln_2"), f"{name}.fc", width, 4 * width)
        y = self._product(self._add("Gelu", [y]), f"{name}.mlp", 4 * width, width)
        return self._add("Add", [x, y])

    def _attention(self, q: str, k: str, v: str, name: str) -> str:
        heads, width = self._config.heads, self._config.width
        if self._fused:
            return self._add(
                "MultiHeadAttention", [q, k, v], domain="com.microsoft", num_heads=heads
            )
        side = width // heads
        split = self._integers(f"{name}.split", [1, -1, heads, side])
        q, k, v = (
            self._add("Transpose", [self._add("Reshape", [part, split])], perm=perm)
            for part, perm in ((q, [0, 2, 1, 3]), (k, [0, 2, 3, 1]), (v, [0, 2, 1, 3]))
        )
        scale = self._constant(f"{name}.scale", np.float32(side**-0.5))
        scores = self._add("MatMul", [self._add("Mul", [q, scale]), k])  # 1xhxNxN
        mixed = self._add("MatMul", [self._add("Softmax", [scores], axis=-1), v])
        mixed = self._add("Transpose", [mixed], perm=[0, 2, 1, 3])
        return self._add("Reshape", [mixed, self._integers(f"{name}.join", [1, -1, width])])

    def _norm(self, x: str, name: str) -> str:
        width = self._config.width
        ones = self._constant(f"{name}.weight", np.ones(width, np.float32))
        zeros = self._constant(f"{name}.bias", np.zeros(width, np.float32))
        return self._add("LayerNormalization", [x, ones, zeros], axis=-1)

    def _product(self, x: str, name: str, wide: int, out: int, bias: bool = True) -> str:
        x = self._add("MatMul", [x, self._weight(f"{name}.weight", (wide, out))])
        if not bias:
            return x
        return self._add("Add", [x, self._weight(f"{name}.bias", (out,))])

    def _weight(self, name: str, shape: tuple[int, ...]) -> str:
        values = self._random.standard_normal(shape, np.float32) * np.float32(SCALE)
        return self._constant(name, values)

    def _integers(self, name: str, values: int | Sequence[int]) -> str:
        return self._constant(name, np.asarray(values, np.int64))

    def _constant(self, name: str, values: Any) -> str:
        self._weights.append(self._onnx.numpy_helper.from_array(np.asarray(values), name))
        return name

    def _add(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str] = (),
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node; return the name of its output."""
        names = list(outputs) or [f"{operator.lower()}_{len(self._nodes)}"]
        node = self._onnx.helper.make_node(
            operator, list(inputs), names, domain=domain, **attributes
        )
        self._nodes.append(node)
        return names[0]

    def _serialise(self, outputs: dict[str, list[int]]) -> bytes:
        helper, float32 = self._onnx.helper, self._onnx.TensorProto.FLOAT
        image = helper.make_tensor_value_info(IMAGE, float32, [1, 3, self._size, self._size])
        results = [helper.make_tensor_value_info(n, float32, s) for n, s in outputs.items()]
        graph = helper.make_graph(self._nodes, "clip_vision", [image], results, self._weights)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        data: bytes = model.SerializeToString()
        return data
