"""One encoder pass, and the heads that read it.

A bundle's mask decoder, by what its graph gives: four masks and their IoUs, or one mask.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import Tensor
from samclip.errors import BundleError, CapabilityError, ClosedError
from samclip.runtime.engine_pool import EnginePool, Feeds
from samclip.runtime.pixels.image import Letterbox
from samclip.runtime.pixels.masks import foreground_confidence
from samclip.runtime.pixels.prompts import PromptBatch

GRAPH = "mask_decoder"
MASKS, IOUS = "low_res_masks", "iou_predictions"

Decoded = tuple[NDArray[np.float32], NDArray[np.float32]]


class MaskDecoder(Protocol):
    """Turns prompts into M masks each."""

    @property
    def has_multimask(self) -> bool:
        """Whether masks 1 to 3 are answers to ambiguous prompts; else M is 1."""
        ...

    def decode(self, embeddings: Tensor, batch: PromptBatch, letterbox: Letterbox) -> Decoded:
        """Answer B prompts on one image's embedding, 1x256xGxG: scores BxM, logits BxMxhxw.

        Mask 0 is the answer to an unambiguous prompt. Raises ClosedError, EngineRunError.
        """
        ...


class SamDecoder:
    """SAM's: a single mask, then three for ambiguous prompts; the scores are predicted IoUs."""

    has_multimask = True

    def __init__(self, pool: EnginePool) -> None:
        self._pool = pool

    def decode(self, embeddings: Tensor, batch: PromptBatch, letterbox: Letterbox) -> Decoded:  # noqa: ARG002
        """Answer B prompts: scores Bx4, logits Bx4xhxw."""
        iou, logits = self._pool.compute(GRAPH, _feeds(embeddings, batch), (IOUS, MASKS))
        return iou, logits


class OneMaskDecoder:
    """Open-Vocabulary SAM's: one mask, and nothing that predicts an IoU.

    The scores are `foreground_confidence`, of the part of the input that the image fills.
    """

    has_multimask = False

    def __init__(self, pool: EnginePool) -> None:
        self._pool = pool

    def decode(self, embeddings: Tensor, batch: PromptBatch, letterbox: Letterbox) -> Decoded:
        """Answer B prompts: scores Bx1, logits Bx1xhxw."""
        (logits,) = self._pool.compute(GRAPH, _feeds(embeddings, batch), (MASKS,))
        inside = letterbox.token_mask(logits.shape[-1])[0] > 0  # hxw
        return foreground_confidence(logits, inside), logits


def choose_decoder(pool: EnginePool) -> MaskDecoder:
    """Take the decoder that the manifest describes."""
    described = pool.bundle.manifest.graphs.mask_decoder
    outputs = {spec.name for spec in described.outputs}
    return OneMaskDecoder(pool) if outputs == {MASKS} else SamDecoder(pool)


def _feeds(embeddings: Tensor, batch: PromptBatch) -> Feeds:
    return {"image_embeddings": embeddings, **batch.feeds()}


@dataclass(frozen=True, eq=False)
class ClipFeatures:
    """What the CLIP head says of an image, neither normalised.

    `image_embed`: D float32; `patch_embeds`: Dxgxg float32; `token_mask`: gxg float32, 1 on
    tokens of the image, 0 on padding.
    """

    image_embed: NDArray[np.float32]
    patch_embeds: NDArray[np.float32]
    token_mask: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Regions:
    """N regions in the frame of the encoder's input, with the names of the classifiers' inputs.

    `boxes`: Nx4 float32 XYXY, in pixels; `low_res_masks`: Nx1xhxw float32, above 0 inside, on the
    decoder's grid over the whole input.
    """

    boxes: NDArray[np.float32]
    low_res_masks: NDArray[np.float32]

    def feeds(self) -> dict[str, NDArray[np.float32]]:
        """Return both by name; a classifier takes one of them."""
        return {"boxes": self.boxes, "low_res_masks": self.low_res_masks}


class Features:
    """The encoder's outputs for one image, kept where they were computed.

    `letterbox` says how the image lies in the encoder's input. Methods may be called from any
    thread; they raise ClosedError once the features or their model are closed.
    """

    def __init__(
        self,
        pool: EnginePool,
        letterbox: Letterbox,
        encoded: dict[str, Tensor],
        mask_size: int,
        decoder: MaskDecoder,
    ) -> None:
        self.letterbox = letterbox
        self.mask_size = mask_size  # logits along a side of the decoder's masks
        self.has_multimask = decoder.has_multimask
        self._pool = pool
        self._decoder = decoder
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

    def decode(self, batch: PromptBatch) -> Decoded:
        """Run the mask decoder: scores BxM and low-resolution logits BxMxhxw.

        M is 4, output 0 the single-mask token's and 1 to 3 the multimask tokens', the scores
        predicted IoUs; or 1, see `OneMaskDecoder`, where `has_multimask` is False.
        """
        (embeddings,) = self._encoded_as("image_embeddings").values()
        return self._decoder.decode(embeddings, batch, self.letterbox)

    def check_multimask(self, wish: str) -> None:
        """Raise CapabilityError, which names the `wish`, where prompts get one mask only."""
        if not self.has_multimask:
            raise CapabilityError(
                f"{wish} needs a decoder with three masks for each prompt; that of bundle "
                f"{self._pool.bundle.manifest.name!r} gives one, and predicts no IoU. Prompt it "
                "with points or boxes, without multimask, or choose another bundle."
            )

    def score_regions(self, regions: Regions, text: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the classifier that was trained to name regions: logits NxR.

        `text`: RxD, unit rows. Raises CapabilityError when the bundle has none.
        """
        return self._classify_regions("roi_classifier", "logits", regions, text)

    def score_regions_by_clip(
        self, regions: Regions, text: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Run CLIP's own pooling on regions: logits NxR; arguments and errors as above."""
        return self._classify_regions("clip_roi", "clip_logits", regions, text)

    def image_embeddings(self) -> NDArray[np.float32]:
        """Bring SAM's image embedding to the host: 1x256xGxG."""
        (embeddings,) = self._encoded_as("image_embeddings").values()
        return self._pool.to_host(embeddings)

    def _encoded_as(self, *names: str) -> dict[str, Tensor]:
        """Pick outputs of the encoder, on the device; raises BundleError when it lacks one."""
        encoded = self.check_open()
        if lacking := [name for name in names if name not in encoded]:
            raise BundleError(
                f"the encoder of bundle {self._pool.bundle.manifest.name!r} gives no "
                f"{', '.join(lacking)}: its parts do not fit together. Export it again."
            )
        return {name: encoded[name] for name in names}

    def _classify_regions(
        self, graph: str, output: str, regions: Regions, text: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Feed a classifier what its graph takes: outputs of the encoder, boxes or masks, texts."""
        given = {**regions.feeds(), "text": text}
        wanted = self._pool.inputs(graph)
        own = self._encoded_as(*(name for name in wanted if name not in given))
        feeds: Feeds = {**own, **{name: given[name] for name in wanted if name in given}}
        return self._pool.compute(graph, feeds, (output,))[0]

    def _run_clip_head(self) -> ClipFeatures:
        manifest = self._pool.bundle.manifest
        head = manifest.clip_head
        if head is None:
            able = manifest.region_head is not None
            what = "name pixels or tokens, only masks and whole images" if able else "name anything"
            raise CapabilityError(
                f"bundle {manifest.name!r} has no CLIP head, so it cannot {what}. Export it with "
                "one, or choose another bundle."
            )
        token_mask = self.letterbox.token_mask(head.grid)  # 1xgxg
        feeds: Feeds = {**self._encoded_as("backbone_features"), "token_mask": token_mask}
        image, patches = self._pool.compute("clip_head", feeds, ("image_embed", "patch_embeds"))
        clip = ClipFeatures(image[0], patches[0], token_mask[0])
        for array in (clip.image_embed, clip.patch_embeds, clip.token_mask):
            array.flags.writeable = False  # shared by all tasks and threads
        return clip
