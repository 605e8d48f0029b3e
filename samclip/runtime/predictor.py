"""`SamPredictor`: segment-anything's interface, for code that was written for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samclip.errors import ImageError, InputError, PromptError
from samclip.runtime.model import Model
from samclip.runtime.pixels.prompts import batch_prompts, parse_prompts
from samclip.runtime.scene import Scene
from samclip.runtime.tasks.segment import MULTI, SINGLE, upscale_masks


class SamPredictor:
    """Answers one prompt at a time about the image that was set last.

    Methods, arguments and return values are those of segment-anything's `SamPredictor`, as numpy
    arrays. One thing differs: boxes are clamped to the image, and points outside it are refused,
    see `parse_prompts`. A predictor is not for several threads at once; share its `Model` instead.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._scene: Scene | None = None

    @property
    def is_image_set(self) -> bool:
        """Whether `set_image` was called since the last reset."""
        return self._scene is not None

    def set_image(self, image: ArrayLike, image_format: str = "RGB") -> None:
        """Encode an HWC uint8 image, [0, 255], whose channels are "RGB" or "BGR".

        Raises ImageError for anything else, ClosedError, EngineRunError.
        """
        if image_format not in {"RGB", "BGR"}:
            raise ImageError(f"image_format must be 'RGB' or 'BGR'; got {image_format!r}.")
        try:
            pixels = np.asarray(image)
        except ValueError as error:
            raise ImageError(
                "image must be HWC; got rows of unequal shape. Pass one array."
            ) from error
        if pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ImageError(
                f"image must be HWC with 3 channels; got shape {pixels.shape}. Pass HxWx3."
            )
        self.reset_image()
        self._scene = self.model.encode(pixels if image_format == "RGB" else pixels[..., ::-1])

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
        Raises InputError before `set_image`, PromptError, ClosedError, and CapabilityError for
        `multimask_output` with a decoder of one mask.
        """
        scene = self._require_scene()
        if multimask_output:
            scene.features.check_multimask("multimask_output=True")
        if point_coords is not None and point_labels is None:
            raise PromptError(
                "point_coords came without point_labels. Give one 1 or 0 for each point."
            )
        features = scene.features
        prompts = parse_prompts(
            scene.size,
            features.mask_size,
            points=None if point_coords is None else [point_coords],  # Nx2 -> 1xNx2
            labels=None if point_labels is None else [point_labels],  # N -> 1xN
            boxes=box,
            mask=mask_input,
        )
        if len(prompts) != 1:
            raise PromptError(
                f"predict takes one prompt at a time; got {len(prompts)} boxes or masks. Call it "
                "once for each, or give them all to Scene.segment."
            )
        (batch,) = batch_prompts(prompts, features.letterbox, features.mask_size)
        iou, low_res = features.decode(batch)
        chosen = list(MULTI) if multimask_output else [SINGLE]
        kept = low_res[0, chosen]  # Cxhxw
        packed, _, logits = upscale_masks(features, kept, return_logits)
        return (packed.unpack_all() if logits is None else logits), iou[0, chosen], kept

    def get_image_embedding(self) -> NDArray[np.float32]:
        """Return SAM's embedding of the image: 1x256xGxG float32, G = input side / 16."""
        return self._require_scene().image_embeddings

    def reset_image(self) -> None:
        """Forget the image."""
        if self._scene is not None:
            self._scene.close()
        self._scene = None

    def _require_scene(self) -> Scene:
        if self._scene is None:
            raise InputError("no image is set. Call set_image(image) first.")
        return self._scene
