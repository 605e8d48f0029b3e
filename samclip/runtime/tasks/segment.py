"""Prompted segmentation: points, boxes and masks through the mask decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from samclip.engines.device_tensor import DeviceTensor
from samclip.errors import PromptError
from samclip.runtime.features import Features
from samclip.runtime.photo import Photo
from samclip.runtime.pixels.image import Letterbox
from samclip.runtime.pixels.mask_ops import MASK_THRESHOLD, PackedMasks, mask_box
from samclip.runtime.pixels.prompts import Prompt
from samclip.runtime.results.device_masks import DeviceMasks
from samclip.runtime.results.masks import Masks
from samclip.runtime.room import require_memory
from samclip.runtime.stages import stage

SINGLE = 0  # the decoder's single-mask output
MAX_ANSWER_BYTES = 2**30  # of the masks of one call
DECODER_BYTES = 2**29  # what a run of the decoder takes meanwhile
MULTI = (1, 2, 3)  # its outputs for ambiguous prompts: whole, part, part of a part


def segment(
    features: Features,
    prompts: Sequence[Prompt],
    image: Photo,
    *,
    multimask: bool = False,
    return_logits: bool = False,
) -> Masks:
    """Answer each prompt with one mask, or with three when `multimask`; see `Masks` for scores.

    The one mask is the decoder's single-mask output, except for a lone point: there it is the best
    of the three multimask outputs by predicted IoU, as segment-anything advises for ambiguous
    prompts. A decoder of one mask always gives that one, and refuses `multimask`. A prompt that is
    a mask alone is given the box around it, see `box_of_mask`. Logits are upscaled to the original
    image before the threshold (> 0). Host memory: per mask 4 bytes a low-resolution logit and a
    bit a pixel; with `return_logits` 4 bytes a pixel more. More than `MAX_ANSWER_BYTES` are
    refused, and more than this machine has free. Raises PromptError, CapabilityError, ClosedError,
    EngineRunError, DeviceMemoryError.
    """
    if multimask:
        features.check_multimask("multimask=True")
    per_prompt = len(MULTI) if multimask else 1
    check_answer(features, len(prompts), per_prompt, return_logits)
    prompts = with_boxes(prompts, features.letterbox)
    with stage("prompts"):
        scores, low_res = decode_chosen(features, prompts, multimask)
    with stage("upscale"):
        packed, boxes, logits = upscale_masks(features, low_res, return_logits)
    return Masks(
        packed=packed,
        scores=scores,
        boxes=boxes,
        prompt_index=np.repeat(np.arange(len(prompts)), per_prompt),
        low_res_logits=low_res,
        logits=logits,
        image=image,
        prompts=tuple(prompts),
    )


def segment_on_device(
    features: Features,
    prompts: Sequence[Prompt],
    *,
    multimask: bool = False,
    return_logits: bool = False,
) -> DeviceMasks:
    """Answer prompts as `segment` does, with masks that stay on the device.

    The masks are those of `segment`, but for pixels whose logit is within 2e-5 of the mask's
    largest one from the threshold. One graph run makes one mask: a byte a pixel, and 4 with
    `return_logits`. Raises CapabilityError for a bundle without a `mask_upscaler`, and as
    `segment`.
    """
    features.check_upscaler()
    if multimask:
        features.check_multimask("multimask=True")
    per_prompt = len(MULTI) if multimask else 1
    check_answer(features, len(prompts), per_prompt, return_logits, pixel_bits=8)
    prompts = with_boxes(prompts, features.letterbox)
    scores = np.empty((len(prompts), per_prompt), np.float32)
    made: dict[int, list[tuple[DeviceTensor, DeviceTensor | None]]] = {}
    for batch in features.batches(prompts):
        with stage("prompts"):
            iou, low_res = features.decode_on_device(batch)
        for place, row in enumerate(batch.rows):
            chosen = choose_masks(features, prompts[row], iou[place], multimask)
            scores[row] = iou[place, chosen]
            with stage("upscale"):
                made[int(row)] = [
                    features.upscale_on_device(low_res, place, mask, return_logits)
                    for mask in chosen
                ]
    answers = [answer for row in sorted(made) for answer in made[row]]
    logits = tuple(kept for _, kept in answers if kept is not None)
    return DeviceMasks(
        masks=tuple(mask for mask, _ in answers),
        scores=scores.reshape(-1),  # Pxk -> N
        prompt_index=np.repeat(np.arange(len(prompts)), per_prompt),
        logits=logits if return_logits else None,
        size=features.letterbox.original_size,
    )


def with_boxes(prompts: Sequence[Prompt], letterbox: Letterbox) -> list[Prompt]:
    """Return the prompts, with a box around each that is a mask alone, see `box_of_mask`."""
    return [
        replace(prompt, box=box_of_mask(prompt.mask, letterbox), has_own_box=False)
        if prompt.mask is not None and prompt.box is None and not len(prompt.points)
        else prompt
        for prompt in prompts
    ]


def check_answer(
    features: Features, prompts: int, per_prompt: int, with_logits: bool, pixel_bits: int = 1
) -> None:
    """Check that the masks of so many prompts fit, before the first is computed.

    `pixel_bits`: of each mask in the answer. Raises PromptError, DeviceMemoryError.
    """
    pixels = math.prod(features.letterbox.original_size)
    each = per_prompt * (
        math.prod(features.mask_size) * 4
        + pixels * pixel_bits // 8
        + (pixels * 4 if with_logits else 0)
    )
    most = max(1, MAX_ANSWER_BYTES // each)
    if prompts > most:
        raise PromptError(
            f"{prompts:,} prompts would give masks of {prompts * each / 1e9:.1f} GB; for this "
            f"image at most {most:,} are answered at once. Ask in several calls."
        )
    require_memory(prompts * each, f"the masks of {prompts:,} prompts", DECODER_BYTES)


def box_of_mask(mask: NDArray[np.float32], letterbox: Letterbox) -> NDArray[np.float64]:
    """Return the box, 4 XYXY in pixels of the original image, around the positive logits hxw.

    SAM was trained on masks together with points or boxes only. Given a mask alone, its decoder
    may answer with something other than the mask. Raises PromptError when no logit is positive.
    """
    edges = mask_box(mask > MASK_THRESHOLD).astype(np.float64)
    edges *= letterbox.canvas[0] / len(mask)
    height, width = letterbox.original_size
    scale = np.asarray([width / letterbox.input_size[1], height / letterbox.input_size[0]] * 2)
    box = np.clip(edges * scale, 0, (width, height, width, height))
    if (box[2:] <= box[:2]).any():
        raise PromptError(
            "mask has no positive logit inside the image, so it shows nothing to refine. "
            "Give a point or a box with it."
        )
    return np.asarray(box)


def decode_chosen(
    features: Features,
    prompts: Sequence[Prompt],
    multimask: bool,
    letterbox: Letterbox | None = None,
    resolve: bool = True,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Decode P prompts and choose among the outputs, in the order of the prompts.

    `letterbox`: maps the prompts' coordinates to the encoder's input, None for the image's own;
    `resolve`: a lone point gets the best of three masks. Return scores N and low-resolution logits
    Nxhxw, N = P, or 3 * P when `multimask`.
    """
    per_prompt = len(MULTI) if multimask else 1
    size = features.mask_size
    scores = np.empty((len(prompts), per_prompt), np.float32)
    logits = np.empty((len(prompts), per_prompt, *size), np.float32)
    for batch in features.batches(prompts, letterbox=letterbox):
        iou, low_res = features.decode(batch)
        for place, row in enumerate(batch.rows):
            chosen = choose_masks(features, prompts[row], iou[place], multimask, resolve)
            scores[row] = iou[place, chosen]
            logits[row] = low_res[place, chosen]
    return scores.reshape(-1), logits.reshape(-1, *size)  # Pxk -> N, Pxkxhxw -> Nxhxw


def choose_masks(
    features: Features,
    prompt: Prompt,
    scores: NDArray[np.float32],
    multimask: bool,
    resolve: bool = True,
) -> list[int]:
    """Choose among the decoder's masks for a prompt, by their scores M; see `decode_chosen`."""
    if multimask:
        return list(MULTI)
    if resolve and features.has_multimask and prompt.is_ambiguous:
        return [MULTI[int(scores[list(MULTI)].argmax())]]
    return [SINGLE]


def upscale_masks(
    features: Features, low_res: NDArray[np.float32], keep_logits: bool
) -> tuple[PackedMasks, NDArray[np.float32], NDArray[np.float32] | None]:
    """Upscale Nxhxw logits one by one; return masks, boxes Nx4, and logits NxHxW if kept."""
    size = features.letterbox.original_size
    boxes = np.zeros((len(low_res), 4), np.float32)
    logits = np.empty((len(low_res), *size), np.float32) if keep_logits else None
    bits = np.empty((len(low_res), (math.prod(size) + 7) // 8), np.uint8)
    for row, small in enumerate(low_res):
        if logits is None:
            mask = features.letterbox.upscale_mask(small, MASK_THRESHOLD)
        else:
            logits[row] = features.letterbox.upscale(small)
            mask = logits[row] > MASK_THRESHOLD
        boxes[row] = mask_box(mask)
        bits[row] = np.packbits(mask)
    return PackedMasks(bits, size), boxes, logits
