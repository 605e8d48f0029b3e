"""Regions of an image as classifiers take them: boxes, and masks in low resolution.

Masks that the caller brings, in place of prompts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samclip.errors import PromptError
from samclip.runtime.features import Regions
from samclip.runtime.pixels.image import Letterbox
from samclip.runtime.pixels.masks import PackedMasks, mask_box
from samclip.runtime.results.masks import AutoMasks, Masks


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


CELL = 32  # pixels of the input along a side of a cell of CLIP's last map


def regions_of(masks: Masks, letterbox: Letterbox, side: int) -> Regions:
    """Turn N masks into regions on a grid of `side`: as drawn there, else -1 and 1 of the mask."""
    boxes, drawn = region_boxes(masks, letterbox), masks.low_res_logits
    if drawn is None or drawn.shape[1:] != (side, side):
        grids = [_sampled(mask, letterbox, side) for mask in masks.packed]
        drawn = np.asarray(grids, np.float32).reshape(-1, side, side)
    return Regions(boxes, drawn[:, None])


def whole_image(letterbox: Letterbox, side: int) -> Regions:
    """Give all of the image, without the padding, as one region."""
    height, width = letterbox.input_size
    everywhere = np.ones(letterbox.original_size, np.bool_)
    box = np.asarray([[0, 0, width, height]], np.float32)
    return Regions(box, _sampled(everywhere, letterbox, side)[None, None])


def region_boxes(masks: Masks, letterbox: Letterbox) -> NDArray[np.float32]:
    """Choose the boxes by which N masks are named: Nx4 XYXY in pixels of the input.

    The prompt's own box; of a prompt without one, and of masks without prompts, the box around
    the mask, as the paper takes it for points. (The released code takes it from the mask in low
    resolution, to four pixels of the input.) A mask without a pixel has none: then it is a cell of
    CLIP's map around what its prompt pointed at, or the middle of the image.
    """
    own = [_own_box(masks, int(index)) for index in masks.prompt_index]
    chosen = [box if box is not None else masks.boxes[row] for row, box in enumerate(own)]
    corners = np.asarray(chosen, np.float64).reshape(-1, 2, 2)  # Nx4 -> Nx2x2
    boxes = letterbox.to_input(corners).reshape(-1, 4)  # Nx2x2 -> Nx4
    for row, centre in enumerate(centres(masks)):
        if own[row] is None and not masks.areas[row]:
            boxes[row] = _cell_around(centre, letterbox)
    return boxes


def _own_box(masks: Masks, index: int) -> NDArray[np.float64] | None:
    if not masks.prompts:
        return None
    prompt = masks.prompts[index]
    return prompt.box if prompt.has_own_box else None


def _cell_around(centre: NDArray[np.float64] | None, letterbox: Letterbox) -> NDArray[np.float32]:
    height, width = letterbox.original_size
    point = letterbox.to_input((width / 2, height / 2) if centre is None else centre)
    return np.concatenate([point - CELL / 2, point + CELL / 2]).astype(np.float32)


def _sampled(mask: NDArray[np.bool_], letterbox: Letterbox, side: int) -> NDArray[np.float32]:
    """Read a HxW mask at the centres of a grid over the input, hxw: 1 inside, -1 outside."""
    places = (np.arange(side) + 0.5) / side * letterbox.image_size  # in pixels of the input
    sizes = zip(letterbox.original_size, letterbox.input_size, strict=True)
    rows, columns = [
        (places[places < resized] * (original / resized)).astype(int) for original, resized in sizes
    ]
    sampled = np.full((side, side), -1, np.float32)
    sampled[: len(rows), : len(columns)] = np.where(mask[np.ix_(rows, columns)], 1, -1)
    return sampled
