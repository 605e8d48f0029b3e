"""Masks given by the caller, and masks as regions for the classifiers: boxes and grids."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samclip.engines.limits import MAX_REGION
from samclip.errors import PromptError
from samclip.runtime.features import Regions
from samclip.runtime.photo import Photo
from samclip.runtime.pixels.arrays import as_array
from samclip.runtime.pixels.image import Letterbox
from samclip.runtime.pixels.mask_ops import PackedMasks, mask_box
from samclip.runtime.results.masks import AutoMasks, Masks

CELL = 32  # pixels of the input along a side of a cell of CLIP's last map


def parse_given(masks: Masks | ArrayLike, image: Photo) -> Masks:
    """Turn the caller's masks of `image`, HWC uint8, into `Masks`; `Masks` stay as they are.

    `masks`: HxW or NxHxW bool in pixels of the image, or `supervision.Detections` with masks. The
    scores are NaN, because no model predicted them. Raises PromptError for another shape or type.
    """
    size = (image.shape[0], image.shape[1])
    if isinstance(masks, Masks):
        if masks.packed.size != size:
            raise PromptError(
                f"masks are of an image of (h, w) = {masks.packed.size}; the scene's has {size}. "
                "Give masks of the scene's own image."
            )
        return masks
    return pack_given(PackedMasks.pack(_as_bool_masks(_masks_of(masks), size), size), image)


def pack_given(packed: PackedMasks, image: Photo) -> Masks:
    """Return masks of `image` that no model made as `Masks`: their scores are NaN."""
    boxes = [mask_box(mask) for mask in packed]
    return Masks(
        packed=packed,
        scores=np.full(len(packed), np.nan, np.float32),
        boxes=np.asarray(boxes, np.float32).reshape(-1, 4),
        prompt_index=np.arange(len(packed)),
        image=image,
    )


def _masks_of(given: Any) -> Any:
    """Return the masks of `supervision.Detections`; what is not that stays as it is."""
    if not hasattr(given, "xyxy"):
        return given
    found = getattr(given, "mask", None)
    if found is None:
        raise PromptError(
            f"the {type(given).__name__} has boxes and no masks, and masks are named. Make them, "
            "with names, in one call: scene.segment(boxes=detections, names=[...])."
        )
    return found


def _as_bool_masks(masks: ArrayLike, size: tuple[int, int]) -> NDArray[np.bool_]:
    array = as_array(masks, "masks", "NxHxW bool")
    if array.dtype != np.bool_ or array.ndim not in {2, 3} or array.shape[-2:] != size:
        raise PromptError(
            f"masks must be HxW or NxHxW bool with H, W = {size}, the image's; got "
            f"{'x'.join(map(str, array.shape))} {array.dtype}. Compare logits or labels first, "
            "as in labels == 3."
        )
    return array.reshape(-1, *size)  # HxW -> 1xHxW


def prompt_centres(masks: Masks) -> list[NDArray[np.float64] | None]:
    """Return the centre of each mask's prompt, see `Prompt.centre`; None without a prompt."""
    if isinstance(masks, AutoMasks):
        return list(masks.points)
    prompts = masks.prompts
    return [prompts[index].centre if prompts else None for index in masks.prompt_index]


def regions_of(masks: Masks, letterbox: Letterbox, size: tuple[int, int]) -> Regions:
    """Turn N masks into regions on a grid of `size` (h, w).

    The grid holds the masks' own low-resolution logits where they have them, else 1 inside the
    mask and -1 outside.
    """
    grids = masks.low_res_logits
    if grids is None or grids.shape[1:] != size:
        sampled = [_sample_mask(mask, letterbox, size) for mask in masks.packed]
        grids = np.asarray(sampled, np.float32).reshape(-1, *size)
    return Regions(boxes=region_boxes(masks, letterbox), low_res_masks=grids[:, None])


def whole_image(letterbox: Letterbox, size: tuple[int, int]) -> Regions:
    """Return the whole image, without the padding, as one region."""
    height, width = letterbox.input_size
    everywhere = np.ones(letterbox.original_size, np.bool_)
    box = np.asarray([[0, 0, width, height]], np.float32)
    grid = _sample_mask(everywhere, letterbox, size)
    return Regions(boxes=box, low_res_masks=grid[None, None])


def region_boxes(masks: Masks, letterbox: Letterbox) -> NDArray[np.float32]:
    """Choose the boxes by which N masks are named: Nx4 XYXY in pixels of the input.

    It is the prompt's own box. Without one it is the box around the mask, which the paper takes
    for points. (The released code computes it from the low-resolution mask, to four pixels of the
    input.) An empty mask has no such box and gets a cell of CLIP's map, around the centre of its
    prompt or of the image. Boxes are cut off at `MAX_REGION`, far outside of the image.
    """
    own: list[NDArray[np.float64] | None] = [None] * len(masks)
    if masks.prompts:
        asked = [masks.prompts[index] for index in masks.prompt_index]
        own = [prompt.box if prompt.has_own_box else None for prompt in asked]
    chosen = [box if box is not None else masks.boxes[row] for row, box in enumerate(own)]
    corners = np.asarray(chosen, np.float64).reshape(-1, 2, 2)  # Nx4 -> Nx2x2
    boxes = letterbox.to_input(corners).reshape(-1, 4)  # Nx2x2 -> Nx4
    for row, centre in enumerate(prompt_centres(masks)):
        if own[row] is None and not masks.areas[row]:
            height, width = letterbox.original_size
            point = letterbox.to_input((width / 2, height / 2) if centre is None else centre)
            boxes[row] = np.concatenate([point - CELL / 2, point + CELL / 2])
    return np.clip(boxes, -MAX_REGION, MAX_REGION)


def _sample_mask(
    mask: NDArray[np.bool_], letterbox: Letterbox, size: tuple[int, int]
) -> NDArray[np.float32]:
    """Sample an HxW mask at the centres of a grid over the input: hxw, 1 inside, -1 outside."""
    indices = []
    for count, whole, original, resized in zip(
        size, letterbox.canvas, letterbox.original_size, letterbox.input_size, strict=True
    ):
        places = (np.arange(count) + 0.5) / count * whole  # in pixels of the input
        indices.append((places[places < resized] * (original / resized)).astype(int))
    rows, columns = indices
    sampled = np.full(size, -1, np.float32)
    sampled[: len(rows), : len(columns)] = np.where(mask[np.ix_(rows, columns)], 1, -1)
    return sampled
