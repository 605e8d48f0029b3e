"""Masks that the caller brings, in place of prompts."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samclip.errors import PromptError
from samclip.runtime.results.masks import AutoMasks, Masks
from samclip.runtime.results.packed_masks import PackedMasks
from samclip.runtime.tasks.mask_ops import mask_box


def parse_given(masks: Masks | ArrayLike, image: NDArray[np.uint8]) -> Masks:
    """Bring masks of `image`, HWC uint8, into one form; `Masks` stay as they are.

    `masks`: HxW or NxHxW bool in pixels of the image; the answer's scores are NaN, because
    nobody predicted them. Raises PromptError for another shape or type.
    """
    size = (image.shape[0], image.shape[1])
    if isinstance(masks, Masks):
        if masks.packed.size != size:
            raise PromptError(
                f"masks are of an image of (h, w) = {masks.packed.size}; the scene's has {size}. "
                "Give masks of the scene's own image."
            )
        return masks
    array = _stack(masks, size)
    boxes = [mask_box(mask) for mask in array]
    return Masks(
        packed=PackedMasks.pack(array, size),
        scores=np.full(len(array), np.nan, np.float32),
        boxes=np.asarray(boxes, np.float32).reshape(-1, 4),
        prompt_index=np.arange(len(array)),
        image=image,
    )


def centres(masks: Masks) -> list[NDArray[np.float64] | None]:
    """Return, for each mask, the middle of what its prompt pointed at; None where none did."""
    if isinstance(masks, AutoMasks):
        return list(masks.points)
    prompts = masks.prompts
    return [prompts[index].centre if prompts else None for index in masks.prompt_index]


def _stack(masks: ArrayLike, size: tuple[int, int]) -> NDArray[np.bool_]:
    try:
        array = np.asarray(masks)
    except ValueError as error:
        raise PromptError("masks must be NxHxW bool; got arrays of unequal shape.") from error
    except (TypeError, RuntimeError) as error:  # as of tensors on a GPU
        raise PromptError(f"masks must be NxHxW bool; numpy says: {error}") from error
    if array.dtype != np.bool_ or array.ndim not in {2, 3} or array.shape[-2:] != size:
        raise PromptError(
            f"masks must be HxW or NxHxW bool with H, W = {size}, the image's; got "
            f"{'x'.join(map(str, array.shape))} {array.dtype}. Compare logits or labels first, "
            "as in labels == 3."
        )
    return array.reshape(-1, *size)  # HxW -> 1xHxW
