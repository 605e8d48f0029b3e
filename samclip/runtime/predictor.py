"""`SamPredictor`: segment-anything's interface, for code that was written for it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samclip.engines.machine.host import as_memory_error
from samclip.errors import ImageError, InputError, InputWarning, PromptError, brief, warn_caller
from samclip.runtime.features import Features
from samclip.runtime.model import Model
from samclip.runtime.pixels.arrays import as_array, as_flag, as_pixels
from samclip.runtime.pixels.image import Letterbox
from samclip.runtime.pixels.mask_ops import MASK_THRESHOLD
from samclip.runtime.pixels.prompts import Prompt, parse_prompts
from samclip.runtime.pixels.resize_transform import (
    ResizeLongestSide,
    check_size,
    is_tensor,
    to_numpy,
)
from samclip.runtime.tasks.segment import MULTI, check_answer, decode_chosen

ROUNDING = 1e-3  # pixels of the input by which a mapped coordinate may lie outside
NOT_A_POINT = -1  # the label of points that only fill up a row


class SamPredictor:
    """Answers prompts about the image that was set last.

    Methods, arguments and results are those of segment-anything's `SamPredictor`, as numpy arrays;
    `predict_torch` also takes tensors of torch, and then returns tensors. Three things differ:
    boxes are clamped to the image, points outside it are refused, see `parse_prompts`, and
    `features` are a copy. Where a bundle has several shapes of input, images are encoded on the
    square, so that all sizes are SAM's; `Model.encode` takes the shape of the image, and is faster.
    A predictor is not for several threads at once; share its `Model`.

    Examples:
        >>> import numpy as np
        >>> predictor = samclip.SamPredictor(model)
        >>> predictor.set_image(scene.image)
        >>> masks, iou, low_res = predictor.predict(box=np.array([172, 17, 410, 308]))
        >>> masks.shape, iou.shape, low_res.shape
        ((3, 400, 600), (3,), (3, 256, 256))
    """

    def __init__(self, model: Model) -> None:
        if not isinstance(model, Model):
            raise InputError(
                f"SamPredictor takes a model of samclip.load(); got {type(model).__name__}."
            )
        self._model = model
        self._transform = ResizeLongestSide(model.manifest.preprocessing.image_size)
        self._features: Features | None = None
        side = model.manifest.preprocessing.image_size
        self._aspects = "1:1" if (side, side) in model.bundle.canvases else None

    @property
    def model(self) -> Model:
        """The model that answers."""
        return self._model

    @property
    def transform(self) -> ResizeLongestSide:
        """What maps images and coordinates to the encoder's input."""
        return self._transform

    @property
    def is_image_set(self) -> bool:
        """Whether an image was set since the last reset."""
        return self._features is not None

    @property
    def device(self) -> str:
        """Where tensors for `predict_torch` may be: "cpu", whichever backend runs the graphs."""
        return "cpu"

    @property
    def original_size(self) -> tuple[int, int] | None:
        """(h, w) of the image in pixels; None before an image is set."""
        return None if self._features is None else self._features.letterbox.original_size

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(h, w) of the image in pixels of the encoder's input, without padding; None as above."""
        return None if self._features is None else self._transform_size(self._features)

    def _transform_size(self, features: Features) -> tuple[int, int]:
        """Return the image's (h, w) as `transform` resizes it, whatever the encoder's shape."""
        size = features.letterbox.original_size
        return Letterbox.fit(size, features.letterbox.image_size).input_size

    @property
    def features(self) -> NDArray[np.float32] | None:
        """SAM's embedding of the image, as `get_image_embedding`; None before an image is set."""
        return None if self._features is None else self._features.image_embeddings()

    def set_image(self, image: ArrayLike, image_format: str = "RGB") -> None:
        """Encode an HWC uint8 image, [0, 255], whose channels are "RGB" or "BGR".

        Raises ImageError for anything else, ClosedError, EngineRunError.
        """
        if not isinstance(image_format, str) or image_format not in {"RGB", "BGR"}:
            raise ImageError(f"image_format must be 'RGB' or 'BGR'; got {brief(image_format)}.")
        pixels = as_pixels(image)
        self.reset_image()
        ordered = pixels if image_format == "RGB" else pixels[..., ::-1]
        self._features = self.model.encode(ordered, aspects=self._aspects).features

    def set_torch_image(self, transformed_image: Any, original_image_size: Any) -> None:
        """Encode an image that `transform` has resized: 1x3xhxw RGB in [0, 255].

        `transformed_image`: a tensor or an array, whose longer side is the encoder's input side;
        `original_image_size`: (h, w) before. Raises ImageError for anything else, InputError,
        ClosedError, EngineRunError.
        """
        array = as_array(
            to_numpy(transformed_image), "transformed_image", "1x3xhxw", error=ImageError
        )
        if array.ndim != 4 or array.shape[:2] != (1, 3) or array.dtype.kind not in "uif":
            raise ImageError(
                "transformed_image must be 1x3xhxw in [0, 255], as transform.apply_image_torch "
                f"returns it; got {array.dtype} of shape {array.shape}."
            )
        if not (np.isfinite(array).all() and array.min(initial=0) >= 0):
            raise ImageError("transformed_image must be finite numbers in [0, 255].")
        if array.max(initial=0) > 255:
            raise ImageError(
                f"transformed_image must be in [0, 255]; got up to {array.max():g}. Scale it."
            )
        if array.dtype.kind == "f" and 0 < array.max(initial=0) <= 1:
            warn_caller(
                "transformed_image lies in [0, 1] and is used as nearly black; its range is "
                "[0, 255]. Multiply it by 255.",
                InputWarning,
            )
        self.reset_image()
        resized = array[0].transpose(1, 2, 0).astype(np.float32)  # 1x3xhxw -> hxwx3
        size = check_size(original_image_size)
        self._features = self.model.encode_resized(resized, size, aspects=self._aspects)

    def predict(
        self,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[NDArray[np.bool_] | NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Segment one prompt.

        `point_coords`: Nx2, (x, y) in pixels of the original image; `point_labels`: N, 1
        foreground, 0 background; `box`: 4 or 1x4, XYXY; `mask_input`: 1xhxw logits of an earlier
        prediction.

        Returns masks CxHxW bool, or float32 logits with `return_logits`; their predicted IoUs, C
        float32; and low-resolution logits Cxhxw float32. C is 3, or 1 without `multimask_output`.
        Raises InputError before an image is set, PromptError, ClosedError, and CapabilityError for
        `multimask_output` with a decoder of one mask.
        """
        features = self._require_features()
        multimask_output = as_flag(multimask_output, "multimask_output")
        return_logits = as_flag(return_logits, "return_logits")
        if multimask_output:
            features.check_multimask("multimask_output=True")
        _require_labels(point_coords, point_labels)
        prompts = parse_prompts(
            features.letterbox.original_size,
            features.mask_size,
            points=None if point_coords is None else [point_coords],  # Nx2 -> 1xNx2
            labels=None if point_labels is None else [point_labels],  # N -> 1xN
            boxes=box,
            mask=mask_input,
        )
        if len(prompts) != 1:
            raise PromptError(
                f"predict takes one prompt at a time; got {len(prompts)} boxes or masks. Call it "
                "once for each, or give them all to Scene.segment or predict_torch."
            )
        masks, iou, low_res = _answer(
            features, prompts, features.letterbox, multimask_output, return_logits
        )
        return masks[0], iou[0], low_res[0]

    def predict_torch(
        self,
        point_coords: Any,
        point_labels: Any,
        boxes: Any = None,
        mask_input: Any = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Any, Any, Any]:
        """Segment B prompts, whose coordinates `transform` has mapped to the encoder's input.

        `point_coords`: BxNx2 (x, y) in pixels of the input; `point_labels`: BxN, 1 foreground, 0
        background, -1 for a point that only fills up its row; `boxes`: Bx4 XYXY; `mask_input`:
        Bx1xhxw logits. Each may be None, an array, or a tensor.

        Returns masks BxCxHxW bool, or float32 logits with `return_logits`; predicted IoUs, BxC
        float32; and low-resolution logits BxCxhxw float32: tensors, on the device of the prompts,
        if a prompt is a tensor, else arrays. C, and the errors, are those of `predict`.
        """
        features = self._require_features()
        multimask_output = as_flag(multimask_output, "multimask_output")
        return_logits = as_flag(return_logits, "return_logits")
        if multimask_output:
            features.check_multimask("multimask_output=True")
        given = (point_coords, point_labels, boxes, mask_input)
        tensors = [value for value in given if is_tensor(value)]
        size = self._transform_size(features)
        arrays = (to_numpy(value) for value in given)
        prompts = _parse_mapped(*arrays, size=size, mask_size=features.mask_size)
        mapped = replace(features.letterbox, original_size=size)  # maps nothing, or a squeeze
        answer = _answer(features, prompts, mapped, multimask_output, return_logits)
        if not tensors:
            return answer
        torch = sys.modules["torch"]
        masks, iou, low_res = (torch.from_numpy(array).to(tensors[0].device) for array in answer)
        return masks, iou, low_res

    def get_image_embedding(self) -> NDArray[np.float32]:
        """Return SAM's embedding of the image: 1x256xhxw float32, 1/16 of the encoder's input."""
        return self._require_features().image_embeddings()

    def reset_image(self) -> None:
        """Forget the image."""
        if self._features is not None:
            self._features.close()
        self._features = None

    def _require_features(self) -> Features:
        if self._features is None:
            raise InputError("no image is set. Call set_image(image) first.")
        return self._features


def _require_labels(coords: object, labels: object) -> None:
    if coords is not None and labels is None:
        raise PromptError("point_coords came without point_labels. Give one label for each point.")


def _parse_mapped(
    coords: Any,
    labels: Any,
    boxes: Any,
    mask: Any,
    *,
    size: tuple[int, int],
    mask_size: tuple[int, int],
) -> tuple[Prompt, ...]:
    """Check prompts for `predict_torch`, in pixels of the input; `size` is the image's there."""
    _require_labels(coords, labels)
    height, width = size
    filling = None
    if coords is not None:
        coords = as_array(coords, "point_coords", "BxNx2 numbers", dtype=np.float64)
        labels = as_array(labels, "point_labels", "BxN numbers", dtype=np.float64)
        if coords.ndim != 3 or coords.shape[2] != 2 or labels.shape != coords.shape[:2]:
            raise PromptError(
                "point_coords must be BxNx2 and point_labels BxN; got shapes "
                f"{coords.shape} and {labels.shape}."
            )
        filling = labels == NOT_A_POINT
        coords = np.where(filling[..., None], 0.0, _snap(coords, (width, height)))
        labels = np.where(filling, 0, labels)
    if boxes is not None:
        boxes = as_array(boxes, "boxes", "Bx4 numbers", dtype=np.float64)
        if boxes.shape[-1:] != (4,) or (boxes.ndim == 3 and boxes.shape[1] != 1):
            raise PromptError(f"boxes must be Bx4 XYXY; got shape {boxes.shape}.")
        boxes = boxes.reshape(-1, 4)  # Bx1x4 -> Bx4
    if mask is not None:
        mask = as_array(mask, "mask_input", "Bx1xhxw numbers")
        if mask.ndim != 4 or mask.shape[1] != 1:
            raise PromptError(f"mask_input must be Bx1xhxw; got shape {mask.shape}.")
        mask = mask[:, 0]  # Bx1xhxw -> Bxhxw
    prompts = parse_prompts(size, mask_size, points=coords, labels=labels, boxes=boxes, mask=mask)
    if filling is not None:
        for prompt, fills in zip(prompts, filling, strict=True):
            prompt.labels[fills] = NOT_A_POINT
    return prompts


def _snap(coords: NDArray[np.float64], ends: tuple[int, int]) -> NDArray[np.float64]:
    """Move coordinates that rounding has put just outside the image onto its border."""
    inside = np.clip(coords, 0, ends)
    return np.where(np.abs(coords - inside) <= ROUNDING, inside, coords)


@as_memory_error
def _answer(
    features: Features,
    prompts: Sequence[Prompt],
    letterbox: Letterbox,
    multimask: bool,
    return_logits: bool,
) -> tuple[NDArray[np.bool_] | NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Decode B prompts: masks or logits BxCxHxW, predicted IoUs BxC, logits BxCxhxw."""
    count = len(MULTI) if multimask else 1
    bits = 0 if return_logits else 8
    check_answer(features, len(prompts), count, return_logits, pixel_bits=bits)
    iou, low_res = decode_chosen(features, prompts, multimask, letterbox, resolve=False)
    size = features.letterbox.original_size
    kind = np.dtype(np.float32 if return_logits else np.bool_)
    masks: NDArray[Any] = np.empty((len(low_res), *size), kind)
    for row, small in enumerate(low_res):
        placed = features.letterbox
        masks[row] = (
            placed.upscale(small) if return_logits else placed.upscale_mask(small, MASK_THRESHOLD)
        )
    shape = (len(prompts), count)
    return (
        masks.reshape(*shape, *size),
        np.asarray(iou.reshape(shape), np.float32),
        low_res.reshape(*shape, *low_res.shape[1:]),
    )
