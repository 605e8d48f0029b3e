"""One encoder pass, and the heads that read it."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import Tensor
from samclip.errors import CapabilityError, ClosedError
from samclip.runtime.engine_pool import EnginePool, Feeds
from samclip.runtime.images.letterbox import Letterbox
from samclip.runtime.tasks.prompt_batches import PromptBatch


@dataclass(frozen=True, eq=False)
class ClipFeatures:
    """What the CLIP head says of an image, neither normalised.

    `image_embed`: D float32; `patch_embeds`: Dxgxg float32; `token_mask`: gxg float32, 1 on
    tokens of the image, 0 on padding.
    """

    image_embed: NDArray[np.float32]
    patch_embeds: NDArray[np.float32]
    token_mask: NDArray[np.float32]


class Features:
    """The encoder's outputs for one image, kept where they were computed.

    `letterbox` says how the image lies in the encoder's input. Methods may be called from any
    thread; they raise ClosedError once the features or their model are closed.
    """

    def __init__(
        self, pool: EnginePool, letterbox: Letterbox, encoded: dict[str, Tensor], mask_size: int
    ) -> None:
        self.letterbox = letterbox
        self.mask_size = mask_size  # logits along a side of the decoder's masks
        self._pool = pool
        self._encoded: dict[str, Tensor] | None = encoded
        self._clip: ClipFeatures | None = None
        self._clip_lock = threading.Lock()

    @property
    def closed(self) -> bool:
        """Whether the features or their model were closed."""
        return self._encoded is None or self._pool.closed

    def check_open(self) -> dict[str, Tensor]:
        """Return the encoder's outputs by name.

        Raises ClosedError when they are gone, EngineRunError in a forked child.
        """
        encoded = self._encoded
        if encoded is None:
            raise ClosedError("the scene is closed. Encode the image again.")
        self._pool.check_process()
        if self._pool.closed:
            raise ClosedError("the scene's model is closed. Load it again with samclip.load().")
        return encoded

    def close(self) -> None:
        """Let go of the encoder's outputs; again: do nothing."""
        self._encoded = None
        self._clip = None

    def clip(self) -> ClipFeatures:
        """Run the CLIP head, once; raises CapabilityError when the bundle has none."""
        self.check_open()
        with self._clip_lock:
            if self._clip is None:
                self._clip = self._run_clip_head()
            return self._clip

    def decode(self, batch: PromptBatch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the mask decoder: predicted IoUs Bx4 and low-resolution logits Bx4xhxw.

        Output 0 is the single-mask token's, 1 to 3 the multimask tokens'.
        """
        feeds: Feeds = {"image_embeddings": self.check_open()["image_embeddings"], **batch.feeds()}
        iou, logits = self._pool.compute(
            "mask_decoder", feeds, ("iou_predictions", "low_res_masks")
        )
        return iou, logits

    def image_embeddings(self) -> NDArray[np.float32]:
        """Bring SAM's image embedding to the host: 1x256xGxG."""
        return self._pool.to_host(self.check_open()["image_embeddings"])

    def _run_clip_head(self) -> ClipFeatures:
        head = self._pool.bundle.manifest.clip_head
        if head is None:
            raise CapabilityError(
                f"bundle {self._pool.bundle.manifest.name!r} has no CLIP head, so it cannot name "
                "anything. Export it with one, or choose another bundle."
            )
        token_mask = self.letterbox.token_mask(head.grid)  # 1xgxg
        feeds: Feeds = {
            "backbone_features": self.check_open()["backbone_features"],
            "token_mask": token_mask,
        }
        image, patches = self._pool.compute("clip_head", feeds, ("image_embed", "patch_embeds"))
        clip = ClipFeatures(image[0], patches[0], token_mask[0])
        for array in (clip.image_embed, clip.patch_embeds, clip.token_mask):
            array.flags.writeable = False  # shared by all tasks and threads
        return clip
