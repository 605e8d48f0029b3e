"""Encoders by torch: the models that samclip exports, with random weights, in each lowering.

Times do not depend on weights. Layers that start at zero get random weights, so that every term of
attention counts.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from report import NotHereError

from parts.timing import Contender
from parts.torch_here import need_torch
from samclip.errors import SamclipError
from samclip.runtime.bundles.manifest import Manifest, Preprocessing
from samclip.runtime.pixels.image import load_image, photo_paths, preprocess

PYRAMIDS = ((1,), (1, 2))  # that this project trains; a manifest does not say which
Pixels = NDArray[np.float32]


def random_encoder(model_type: str, size: int, pyramid: tuple[int, ...] = (1,)) -> Any:
    """Make an encoder with seeded random weights; raises CheckpointError for an unknown type."""
    import torch

    from samclip.export.models.merged import build_encoder

    torch.manual_seed(0)
    encoder = build_encoder(model_type, size, pyramid).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return encoder


def lower(encoder: Any, lowering: str) -> Any:
    """Put attention into one of its exact forms, or onto torch's flex attention."""
    from samclip.export.models.attention import RelPosAttention, set_attention_lowering

    if lowering != "flex":
        set_attention_lowering(encoder, lowering)
        return encoder
    from torch.nn.attention.flex_attention import flex_attention

    def attend(self: Any, q: Any, k: Any, v: Any, rel_h: Any, rel_w: Any) -> Any:
        width = self.input_size[1]

        def placed(score: Any, image: Any, head: Any, query: Any, key: Any) -> Any:
            row = rel_h[image, head, query, key // width]
            return score + row + rel_w[image, head, query, key % width]

        return flex_attention(q, k, v, score_mod=placed, scale=self.scale)

    for part in encoder.modules():
        if isinstance(part, RelPosAttention):
            part.attend = attend.__get__(part)
    return encoder


def photos(options: Namespace, batch: int, pixels: Preprocessing) -> Pixels:
    """Return `batch` real photos as an encoder takes them: Bx3xSxS float32."""
    paths = photo_paths(options.photos)
    chosen = [paths[place % len(paths)] for place in range(batch)]
    return np.concatenate([preprocess(load_image(path), pixels)[0] for path in chosen])


def torch_contender(
    name: str, forward: Callable[[Any], Any], dtype: Any, pixels: Pixels, options: Namespace
) -> tuple[Contender, Callable[[], Any]]:
    """Return a torch encoder as a contender, and a function that gives its embeddings.

    Inputs and outputs are float32, as an engine's are: conversions count on both sides. All outputs
    are computed, and the embeddings are brought to the host, through pinned memory as engines do.
    """
    torch, device = need_torch(options)
    on_cpu = options.dry_run
    wait = (lambda: None) if on_cpu else torch.cuda.synchronize
    host = torch.from_numpy(pixels)
    placed = host.to(device)
    staged = host.clone() if on_cpu else host.pin_memory()

    def embeddings(image: Any) -> Any:
        with torch.inference_mode():
            return [part.float() for part in as_tuple(forward(image.to(dtype)))][-1]

    shape = tuple(embeddings(placed).shape)
    landing = torch.empty(shape) if on_cpu else torch.empty(shape).pin_memory()

    def on_device() -> None:
        embeddings(placed)
        wait()

    def with_transfers() -> None:
        staged.copy_(host)
        landing.copy_(embeddings(staged.to(device, non_blocking=True)), non_blocking=True)
        wait()
        landing.numpy().copy()

    return Contender(name, on_device, with_transfers, len(pixels)), lambda: embeddings(placed)


def as_tuple(results: Any) -> tuple[Any, ...]:
    return tuple(results) if isinstance(results, tuple | list) else (results,)


def torch_reference(
    manifest: Manifest,
    precision: str,
    pixels: Pixels,
    shapes: set[tuple[int, ...]],
    options: Namespace,
) -> tuple[Contender | None, str]:
    """Return torch's form of a bundle's encoder, eager and in the same precision.

    `shapes`: of the bundle's outputs, all of which torch's must have. Without a model that does so
    return None, and the reason.
    """
    types = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
    if precision not in types:
        return None, f"torch has no {precision} form of this encoder"
    if options.dry_run and precision != "fp32":
        return None, "a dry run has FP32 alone"
    model_type, size = manifest.model_type, manifest.preprocessing.image_size
    for pyramid in PYRAMIDS:
        try:
            torch, device = need_torch(options)
            encoder = random_encoder(model_type, size, pyramid)
        except (NotHereError, ImportError, SamclipError) as error:
            return None, f"no torch model of {model_type!r}: {error}"
        dtype = getattr(torch, types[precision])
        encoder = lower(encoder, "bias").to(device, dtype)
        with torch.inference_mode():
            found = as_tuple(encoder(torch.from_numpy(pixels).to(device, dtype)))
        if shapes <= {tuple(part.shape) for part in found}:
            name = f"torch, eager, {precision}"
            return torch_contender(name, encoder, dtype, pixels, options)[0], ""
    return None, f"the torch model of {model_type!r} has outputs of other shapes"
