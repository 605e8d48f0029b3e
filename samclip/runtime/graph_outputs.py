"""The outputs that each graph of a bundle must have, and the check of what an engine returned.

Between engine and runtime nothing is taken on trust: type and shape of every output are compared
with what the tasks expect of it, and with the manifest; and an output that is on the host must hold
numbers. One sum of squares finds NaN, infinity, and numbers too large for any later product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import HostTensor, Tensor
from samclip.errors import EngineRunError
from samclip.runtime.bundles.manifest import Graph, Manifest, TensorSpec, base_name

EMBEDDING_STRIDE = 16  # pixels of the encoder's input per position of SAM's embedding
MASK_STRIDE = 4  # and per low-resolution logit
MASKS, IOUS = "low_res_masks", "iou_predictions"  # outputs of the mask decoder
BACKBONE, NAME_FEATURES = "backbone_features", "name_features"  # of the encoder
AGGREGATION, AGGREGATED = "token_aggregation", "aggregated_features"  # a graph, its output
IMAGE_KEYS, POINT_DECODER = "image_keys", "point_decoder"  # of prompts without masks
# In place of the mask decoder, on backends that they have a variant for; others do without.
STAND_INS = frozenset({IMAGE_KEYS, POINT_DECODER})
DECODING_GRAPHS = ("mask_decoder", IMAGE_KEYS, POINT_DECODER)  # one or both ways to answer prompts
# What the former makes of an image and the latter reads.
IMAGE_SIDE = ("image_tokens", "image_keys", "image_values", "image_queries")
UPSCALER = "mask_upscaler"
FULL_MASK, FULL_LOGITS = "mask", "logits"  # its outputs

Dim = int | str | None  # a number, the name of a size that the inputs decide, or any
Feeds = Mapping[str, "NDArray[np.generic] | Tensor"]

DECODED: dict[str, tuple[Dim, ...]] = {
    IOUS: ("prompts", 4),
    MASKS: ("prompts", "masks", "logits h", "logits w"),
}
# What the tasks read, and the shapes they rely on. A size in the manifest is looked up by name.
EXPECTED: dict[str, dict[str, tuple[Dim, ...]]] = {
    "encoder": {
        BACKBONE: (1, None, None, None),
        NAME_FEATURES: (1, None, None, None),
        "image_embeddings": (1, None, "rows", "columns"),
    },
    AGGREGATION: {AGGREGATED: (1, None, None, None)},
    "clip_head": {
        "image_embed": (1, "embed_dim"),
        "patch_embeds": (1, "embed_dim", "token rows", "token columns"),
    },
    "mask_decoder": DECODED,
    IMAGE_KEYS: dict.fromkeys(IMAGE_SIDE[1:], (1, None, None, None)),
    POINT_DECODER: DECODED,
    UPSCALER: {FULL_MASK: ("height", "width"), FULL_LOGITS: ("height", "width")},
    "text_encoder": {"text_embeddings": ("names", "text_dim")},
    "roi_classifier": {"logits": ("regions", "texts")},
    "clip_roi": {"clip_logits": ("regions", "texts")},
    "clip_encoder": {
        "image_embed": ("crops", "embed_dim"),
        "patch_embeds": ("crops", "embed_dim", "grid", "grid"),
    },
}
# Sizes that the inputs decide: each is the length of the first of these inputs that the graph has.
FED: dict[str, tuple[str, ...]] = {
    "prompts": ("point_coords",),
    "names": ("tokens",),
    "regions": ("boxes", "low_res_masks"),
    "texts": ("text",),
    "crops": ("images",),
    "height": ("rows",),
    "width": ("columns",),
}
DTYPES = {FULL_MASK: "uint8"}  # of outputs that are not float32


@dataclass(frozen=True)
class ExpectedOutput:
    """One output: `dtype` as numpy names it, and a dimension for each axis."""

    dtype: str
    dims: tuple[Dim, ...]

    def fits(self, tensor: Tensor, sizes: Mapping[str, int]) -> bool:
        """Whether a tensor has this type and shape."""
        if str(tensor.dtype) != self.dtype or len(tensor.shape) != len(self.dims):
            return False
        wanted = (sizes.get(dim) if isinstance(dim, str) else dim for dim in self.dims)
        pairs = zip(tensor.shape, wanted, strict=True)
        return all(size is None or size == got for got, size in pairs)

    def describe(self, sizes: Mapping[str, int]) -> str:
        """Write it as "float32 of shape 1x4x256x256"."""
        known = (sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in self.dims)
        shape = "x".join("any" if size is None else str(size) for size in known)
        return f"{self.dtype} of shape {shape or '()'}"


class OutputCheck:
    """Checks the outputs of `graph`, called `name`, of the bundle that `manifest` describes.

    `token_rows` is that of its signature.
    """

    def __init__(
        self, name: str, graph: Graph, manifest: Manifest, token_rows: int | None = None
    ) -> None:
        self._name = name
        self._token_rows = token_rows
        declared = {spec.name: spec for spec in graph.outputs}
        sizes = _sizes(manifest, manifest.canvas_of(name))
        known = _with_numbers(EXPECTED.get(base_name(name), {}), sizes)
        self._expected = known | {
            output: _merge(known.get(output), spec) for output, spec in declared.items()
        }

    def check_tokens(self, feeds: Feeds) -> None:
        """Check that the graph has a row for each token: engines may read past its last one.

        Raises EngineRunError.
        """
        tokens = feeds.get("tokens")
        if self._token_rows is None or not isinstance(tokens, np.ndarray) or not tokens.size:
            return
        low, high = int(tokens.min()), int(tokens.max())
        if not 0 <= low <= high < self._token_rows:
            raise EngineRunError(
                f"the tokenizer makes the tokens {low} to {high}, the graph {self._name!r} knows "
                f"{self._token_rows:,}: the bundle's parts do not fit together. Export it again, "
                "or choose another bundle."
            )

    def check(self, feeds: Feeds, results: Mapping[str, Tensor]) -> None:
        """Check types and shapes, and the numbers of what is on the host already.

        Raises EngineRunError, which names graph and output.
        """
        sizes = {
            size: feeds[inputs[0]].shape[0]
            for size, names in FED.items()
            if (inputs := [name for name in names if name in feeds])
        }
        for output, tensor in results.items():
            expected = self._expected.get(output)
            if expected is not None and not expected.fits(tensor, sizes):
                self._refuse_shape(output, tensor, expected.describe(sizes))
            data = _on_host(tensor)
            if data is not None:
                self._check_numbers(output, data)

    def to_host(self, output: str, tensor: Tensor) -> NDArray[np.float32]:
        """Copy an output to the host as float32; its numbers are checked when it comes from a GPU.

        Raises EngineRunError.
        """
        data = _on_host(tensor)
        if data is None:
            data = tensor.numpy()
            self._check_numbers(output, data)
        return data.astype(np.float32, copy=False)

    def _check_numbers(self, output: str, data: NDArray[np.generic]) -> None:
        # Logits of masks are only compared and resized: their squares may be too large.
        if not are_sound(data) and not (output == MASKS and np.isfinite(data).all()):
            raise EngineRunError(
                f"the output {output!r} of the graph {self._name!r} holds NaN, infinity or numbers "
                "too large to compute with, expected finite ones: there is no answer. Choose "
                "another precision or backend, or export the bundle again."
            )

    def _refuse_shape(self, output: str, tensor: Tensor, expected: str) -> None:
        shape = "x".join(map(str, tensor.shape)) or "()"
        raise EngineRunError(
            f"the output {output!r} of the graph {self._name!r} is {tensor.dtype} of shape "
            f"{shape}, expected {expected}: the bundle's parts do not fit together. Export it "
            "again, or choose another bundle."
        )


def _on_host(tensor: Tensor) -> NDArray[np.generic] | None:
    """Return the data of a tensor that is on the host already, None of any other."""
    return tensor.on_host() if isinstance(tensor, HostTensor) else None


def are_sound(data: NDArray[np.generic]) -> bool:
    """Whether all numbers are finite, and their squares can be added up in float32."""
    if data.dtype.kind != "f":
        return data.dtype.kind in "iub"
    with np.errstate(over="ignore", invalid="ignore"):
        flat: NDArray[np.float32] = data.reshape(-1).astype(np.float32, copy=False)
        return bool(np.isfinite(np.vdot(flat, flat)))


def _sizes(manifest: Manifest, canvas: tuple[int, int]) -> dict[str, int | None]:
    """Return the sizes that the manifest fixes for a canvas; None where it has no such part."""
    (height, width), side = canvas, manifest.preprocessing.image_size
    head, text = manifest.clip_head or manifest.clip_tower, manifest.text
    masks = {spec.name for spec in manifest.graphs.mask_decoder.outputs}
    return {
        "rows": height // EMBEDDING_STRIDE,
        "columns": width // EMBEDDING_STRIDE,
        "logits h": height // MASK_STRIDE,
        "logits w": width // MASK_STRIDE,
        "masks": 1 if masks == {MASKS} else 4,
        "embed_dim": None if head is None else head.embed_dim,
        "grid": None if head is None else head.grid,
        "token rows": None if head is None else head.grid * height // side,
        "token columns": None if head is None else head.grid * width // side,
        "text_dim": None if text is None else text.embed_dim,
    }


def _with_numbers(
    outputs: Mapping[str, tuple[Dim, ...]], sizes: Mapping[str, int | None]
) -> dict[str, ExpectedOutput]:
    return {
        output: ExpectedOutput(
            DTYPES.get(output, "float32"),
            tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in dims),
        )
        for output, dims in outputs.items()
    }


def _merge(known: ExpectedOutput | None, declared: TensorSpec) -> ExpectedOutput:
    """Join what the tasks expect with what the manifest says of dimensions they leave open."""
    fixed = tuple(dim if isinstance(dim, int) else None for dim in declared.shape)
    if known is None:
        return ExpectedOutput(declared.dtype, fixed)
    if len(fixed) != len(known.dims):
        return known
    dims = tuple(dim if own is None else own for own, dim in zip(known.dims, fixed, strict=True))
    return ExpectedOutput(known.dtype, dims)
