"""The outputs of one encoder pass, and the heads that read them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import Hoarding, Tensor
from samclip.engines.device_tensor import DeviceTensor, part_of
from samclip.engines.limits import (
    MAX_HOST_MASKS,
    MAX_HOST_PROMPTS,
    MAX_PHOTO_SIDE,
    MAX_PROMPTS,
)
from samclip.errors import BundleError, CapabilityError, ClosedError, InputError, did_you_mean
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import ClipHead
from samclip.runtime.engine_pool import EnginePool
from samclip.runtime.graph_outputs import (
    AGGREGATED,
    AGGREGATION,
    BACKBONE,
    FULL_LOGITS,
    FULL_MASK,
    IMAGE_SIDE,
    IOUS,
    MASK_STRIDE,
    MASKS,
    NAME_FEATURES,
    UPSCALER,
    Feeds,
)
from samclip.runtime.pixels.image import Letterbox
from samclip.runtime.pixels.mask_ops import PackedMasks, foreground_confidence
from samclip.runtime.pixels.prompts import Prompt, PromptBatch, batch_prompts
from samclip.runtime.series import map_in_order


@dataclass(frozen=True, eq=False)
class ClipFeatures:
    """The embeddings of an image's tokens, not normalised, and the place of each.

    `patch_embeds`: Dxhxw float32; `token_mask`: hxw float32, 1 on tokens of the image, 0 on
    padding; `letterbox`: how the image lies in the input that the h x w tokens cover.
    """

    patch_embeds: NDArray[np.float32]
    token_mask: NDArray[np.float32]
    letterbox: Letterbox


class SecondTower(Protocol):
    """A separate CLIP that looks at the photo of a scene; see `samclip.runtime.clip_tower`."""

    def tokens(self) -> ClipFeatures:
        """Embed the tokens of the photo, in one pass."""
        ...

    def whole_photo(self) -> NDArray[np.float32]:
        """Embed the photo by CLIP's own preprocessing, in one pass: D float32."""
        ...

    def crops(self, masks: PackedMasks) -> NDArray[np.float32]:
        """Embed a crop of the photo around each of N masks, one pass each: NxD float32."""
        ...


@dataclass(frozen=True, eq=False)
class Regions:
    """N regions of the encoder's input; the fields are called as the classifiers' inputs are.

    `boxes`: Nx4 float32 XYXY, in pixels of the input; `low_res_masks`: Nx1xhxw float32 on the
    decoder's grid over the whole input, above 0 inside the region.
    """

    boxes: NDArray[np.float32]
    low_res_masks: NDArray[np.float32]

    def feeds(self) -> dict[str, NDArray[np.float32]]:
        """Return both by name; a classifier takes one of them."""
        return {"boxes": self.boxes, "low_res_masks": self.low_res_masks}


class Features:
    """The encoder's outputs for one image, kept on the device that computed them.

    `letterbox` says how the image lies in the encoder's input; `mask_size` is the (h, w) of the
    decoder's masks in logits. `has_multimask`: the decoder answers a prompt with four
    masks and predicts their IoUs, as SAM's does; where it is False, one mask and no IoU, as
    Open-Vocabulary SAM's. Methods may be called from any thread; they raise ClosedError once the
    features or their model are closed.
    """

    def __init__(
        self,
        pool: EnginePool,
        letterbox: Letterbox,
        encoded: dict[str, Tensor],
        tower: SecondTower | None = None,
    ) -> None:
        decoder = pool.bundle.manifest.graphs.mask_decoder
        self.letterbox = letterbox
        self._mask_side = letterbox.image_size // MASK_STRIDE
        self.mask_size = letterbox.grid(self._mask_side)
        self.has_multimask = {spec.name for spec in decoder.outputs} != {MASKS}
        self._pool = pool
        self._encoded: dict[str, Tensor] | None = encoded
        self._tower = tower
        self._clip: ClipFeatures | None = None
        self._image_embed: NDArray[np.float32] | None = None
        self._clip_lock = threading.RLock()
        self._side: dict[str, Tensor] | None = None
        self._side_lock = threading.RLock()

    @property
    def bundle(self) -> Bundle:
        """The bundle whose graphs these are of."""
        return self._pool.bundle

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
        self._pool.check_open("the scene's model")
        return encoded

    def close(self) -> None:
        """Release the encoder's outputs; closing again does nothing."""
        self._encoded = self._side = None
        self._clip = self._image_embed = None

    def clip(self) -> ClipFeatures:
        """Return the tokens' embeddings by the CLIP head, or by a separate CLIP, computed once.

        Raises CapabilityError for a bundle with neither.
        """
        self.check_open()
        with self._clip_lock:
            if self._clip is None:
                self._clip = self._run_clip_head() if self._tower is None else self._tower.tokens()
            return self._clip

    def image_embed(self) -> NDArray[np.float32]:
        """Return CLIP's embedding of the image, D float32, computed once; raises as `clip`."""
        self.check_open()
        with self._clip_lock:
            if self._image_embed is None and self._tower is not None:
                self._image_embed = self._tower.whole_photo()
            elif self._image_embed is None and self.names_apart:
                self._embed_image()
        if self._image_embed is None:
            self.clip()
        embed = self._image_embed
        if embed is None:  # closed meanwhile
            self.check_open()
            raise ClosedError("the scene is closed. Encode the image again.")
        return embed

    def tower(self) -> SecondTower:
        """Return the bundle's own CLIP at the photo; CapabilityError for a bundle without."""
        self.check_open()
        if self._tower is None:
            raise CapabilityError(
                f"bundle {self._pool.bundle.manifest.name!r} has no separate CLIP, by "
                "which masks could be named. Leave out name_by, or export a bundle with two towers."
            )
        return self._tower

    def batches(
        self,
        prompts: Sequence[Prompt],
        limit: int = MAX_PROMPTS,
        letterbox: Letterbox | None = None,
    ) -> Iterator[PromptBatch]:
        """Group prompts into runs of the decoder, each of `limit` prompts at most.

        A CPU gets few at a time. `letterbox`: maps the prompts' coordinates to the encoder's input,
        None for the image's own. See `batch_prompts`.
        """
        backend = self._pool.backend
        if backend.traits.on_host:
            masked = any(prompt.mask is not None for prompt in prompts)
            keeps = isinstance(backend, Hoarding)
            limit = min(limit, MAX_HOST_MASKS if masked and keeps else MAX_HOST_PROMPTS)
        return batch_prompts(prompts, letterbox or self.letterbox, self.mask_size, limit)

    def decode_all(
        self, prompts: Sequence[Prompt], limit: int = MAX_PROMPTS, of: int | None = None
    ) -> Iterator[tuple[PromptBatch, NDArray[np.float32], NDArray[np.float32]]]:
        """Decode prompts in runs of `limit` at most; yield each batch with what `decode` returns.

        Many prompts are decoded ahead in another thread, on a CPU in several where that is faster,
        and come in their order all the same. `of`: how many may come in all, where these are a part
        of them.
        """
        runs = of or len(prompts)
        streams = self._pool.streams_for(runs)
        batches = self.batches(prompts, limit)
        if not self._pool.runs_ahead(runs):
            for batch in batches:
                yield batch, *self.decode(batch)
            return
        for batch, decoded in map_in_order(
            lambda batch: self.decode(batch, streams), batches, streams
        ):
            yield batch, *decoded.result()

    def decode(
        self, batch: PromptBatch, streams: int = 1
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the mask decoder on B prompts: scores BxM and low-resolution logits BxMxhxw.

        With `has_multimask` M is 4: mask 0 answers an unambiguous prompt, masks 1 to 3 are the
        choices for an ambiguous one, and the scores are predicted IoUs. Else M is 1, and the score
        is the mean probability of the mask's pixels, see `foreground_confidence`. `streams`: of how
        many such runs at once this is one. Raises ClosedError, EngineRunError.
        """
        decoder, feeds = self._asked(batch)
        if self.has_multimask:
            scores, logits = self._pool.compute(decoder, feeds, (IOUS, MASKS), streams)
            return scores, logits
        (logits,) = self._pool.compute(decoder, feeds, (MASKS,), streams)
        return self._score(logits), logits

    def _asked(self, batch: PromptBatch) -> tuple[str, Feeds]:
        """Return the name of the graph that answers a batch, and what it reads."""
        *before, decoder = self._pool.decoders(self.letterbox.canvas)
        if batch.has_mask_input.any() or not before:
            whole: Feeds = {**self._pick("image_embeddings"), **batch.feeds()}
            return self._name("mask_decoder"), whole
        points: Feeds = {
            **self._image_side(before[0]),
            "point_coords": batch.point_coords,
            "point_labels": batch.point_labels,
        }
        return decoder, points

    def _image_side(self, graph: str) -> dict[str, Tensor]:
        """Return what prompts without masks share, computed once by a graph."""
        embeddings: Feeds = self._pick("image_embeddings")
        with self._side_lock:
            if self._side is None:
                self._side = self._pool.run(graph, embeddings, IMAGE_SIDE)
            return self._side

    def decode_on_device(self, batch: PromptBatch) -> tuple[NDArray[np.float32], Tensor]:
        """Run the mask decoder as `decode` does; the logits BxMxhxw stay on the device."""
        decoder, feeds = self._asked(batch)
        outputs = (IOUS, MASKS) if self.has_multimask else (MASKS,)
        results = self._pool.run(decoder, feeds, outputs)
        if self.has_multimask:
            scores = self._pool.to_host(decoder, IOUS, results[IOUS])
        else:
            scores = self._score(self._pool.to_host(decoder, MASKS, results[MASKS]))
        return scores, results[MASKS]

    def upscale_on_device(
        self, logits: Tensor, prompt: int, mask: int, keep_logits: bool
    ) -> tuple[DeviceTensor, DeviceTensor | None]:
        """Upscale one of BxMxhxw masks to the image: HxW uint8, 1 inside; HxW logits if kept.

        Raises CapabilityError for a bundle without the graph, else as `decode`.
        """
        rows, columns = self._taps
        feeds: Feeds = {
            "low_res_mask": part_of(logits, prompt, mask),
            "rows": rows,
            "columns": columns,
        }
        outputs = (FULL_MASK, FULL_LOGITS) if keep_logits else (FULL_MASK,)
        results = self._pool.run(self._name(UPSCALER), feeds, outputs)
        kept = DeviceTensor(results[FULL_LOGITS]) if keep_logits else None
        return DeviceTensor(results[FULL_MASK]), kept

    @cached_property
    def _taps(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.letterbox.upscale_taps(self._mask_side)

    def _name(self, graph: str) -> str:
        """Return the name of a graph for the shape of this image's input."""
        return self._pool.bundle.manifest.name_for(graph, self.letterbox.canvas)

    def _score(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score the masks BxMxhxw of a decoder that predicts no IoU: BxM."""
        inside = self.letterbox.token_mask(self._mask_side)[0] > 0  # hxw, without the padding
        return foreground_confidence(logits, inside)

    def check_upscaler(self) -> None:
        """Check that the bundle can upscale masks on its device; raises CapabilityError."""
        if not self._pool.has(self._name(UPSCALER)):
            raise CapabilityError(
                f"bundle {self._pool.bundle.manifest.name!r} has no {UPSCALER} graph, which makes "
                "masks on the device. Export it with one, or call segment, which makes them on "
                "the host."
            )
        height, width = self.letterbox.original_size
        if max(height, width) > MAX_PHOTO_SIDE:
            raise CapabilityError(
                f"the image has {width} x {height} pixels; masks on the device have up to "
                f"{MAX_PHOTO_SIDE:,} a side. Make it smaller, or call segment."
            )

    def check_multimask(self, wish: str) -> None:
        """Check that prompts get several masks; CapabilityError, which names the `wish`, else."""
        if not self.has_multimask:
            raise CapabilityError(
                f"{wish} needs a decoder with three masks for each prompt; the decoder of bundle "
                f"{self._pool.bundle.manifest.name!r} gives one mask, and predicts no IoU. Prompt "
                "it with points or boxes, without multimask, or choose another bundle."
            )

    def score_regions(self, regions: Regions, text: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the classifier that was trained to name regions: logits NxR.

        `text`: RxD, unit rows. Raises CapabilityError when the bundle has none.
        """
        return self._classify_regions("roi_classifier", "logits", regions, text)

    def score_regions_by_clip(
        self, regions: Regions, text: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Run CLIP's own pooling on regions: logits NxR; otherwise as `score_regions`."""
        return self._classify_regions("clip_roi", "clip_logits", regions, text)

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """The names of the encoder's outputs; raises ClosedError."""
        return tuple(self.check_open())

    def tensor(self, name: str) -> DeviceTensor:
        """Return one of the encoder's outputs on its device; InputError for another name."""
        encoded = self.check_open()
        if name not in encoded:
            raise InputError(
                f"the encoder has no output {name!r:.60}{did_you_mean(str(name), encoded)}, only "
                f"{', '.join(encoded)}. Choose one of those."
            )
        return DeviceTensor(encoded[name])

    def image_embeddings(self) -> NDArray[np.float32]:
        """Copy SAM's image embedding to the host: 1x256xhxw float32, a position for 16 pixels."""
        (embeddings,) = self._pick("image_embeddings").values()
        return self._pool.to_host(self._name("encoder"), "image_embeddings", embeddings)

    def _pick(self, *names: str) -> dict[str, Tensor]:
        """Pick outputs of the encoder, on the device; raises BundleError for a missing one."""
        encoded = self.check_open()
        if lacking := [name for name in names if name not in encoded]:
            raise BundleError(
                f"the encoder of bundle {self._pool.bundle.manifest.name!r} has no output "
                f"{', '.join(lacking)}: the bundle's parts do not fit together. Export it again."
            )
        return {name: encoded[name] for name in names}

    def _classify_regions(
        self, graph: str, output: str, regions: Regions, text: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Run a classifier on the inputs that its graph has: encoder outputs, regions, texts."""
        given = {**regions.feeds(), "text": text}
        inputs = self._pool.inputs(graph)
        encoded = self._pick(*(name for name in inputs if name not in given))
        feeds: Feeds = {**encoded, **{name: given[name] for name in inputs if name in given}}
        return self._pool.compute(graph, feeds, (output,))[0]

    @property
    def names_apart(self) -> bool:
        """Whether tokens are named by other features than the image as a whole."""
        return NAME_FEATURES in self.check_open() or self._pool.has(self._name(AGGREGATION))

    def _name_features(self) -> Tensor:
        """Return the features by which tokens are named, on the device, aggregated if need be."""
        source = NAME_FEATURES if NAME_FEATURES in self.check_open() else BACKBONE
        (features,) = self._pick(source).values()
        graph = self._name(AGGREGATION)
        if not self._pool.has(graph):
            return features
        feeds: Feeds = {NAME_FEATURES: features, "token_mask": self._mask_of(graph)}
        return self._pool.run(graph, feeds, (AGGREGATED,))[AGGREGATED]

    def _mask_of(self, graph: str) -> NDArray[np.float32]:
        """Return the mask of tokens on the grid that a graph declares: 1xhxw."""
        described = self._pool.bundle.manifest.graph(graph)
        inputs = () if described is None else described.inputs
        longest = self.letterbox.canvas.index(self.letterbox.image_size)  # which axis it is
        sides = (spec.shape[1 + longest] for spec in inputs if spec.name == "token_mask")
        side = next(sides, None)
        if not isinstance(side, int):
            raise BundleError(
                f"the graph {graph} of bundle {self._pool.bundle.manifest.name!r} declares no "
                "token_mask of a fixed size: the bundle's parts do not fit together. Export it "
                "again."
            )
        return self.letterbox.token_mask(side)

    def _embed_image(self) -> None:
        """Run the CLIP head for the image as a whole, by the features that no name is read from."""
        head = self._clip_head()
        feeds: Feeds = {**self._pick(BACKBONE), "token_mask": self.letterbox.token_mask(head.grid)}
        (image,) = self._pool.compute(self._name("clip_head"), feeds, ("image_embed",))
        self._image_embed = image[0]
        self._image_embed.flags.writeable = False  # shared by all tasks and threads

    def _clip_head(self) -> ClipHead:
        """Return the description of the CLIP head; raises CapabilityError without one."""
        manifest = self._pool.bundle.manifest
        head = manifest.clip_head
        if head is None:
            able = manifest.region_head is not None
            what = "name pixels or tokens, only masks and whole images" if able else "name anything"
            raise CapabilityError(
                f"bundle {manifest.name!r} has no CLIP head, so it cannot {what}. Export it with "
                "one, or choose another bundle."
            )
        return head

    def _run_clip_head(self) -> ClipFeatures:
        token_mask = self.letterbox.token_mask(self._clip_head().grid)  # 1xhxw
        feeds: Feeds = {BACKBONE: self._name_features(), "token_mask": token_mask}
        outputs = ("image_embed", "patch_embeds")
        image, patches = self._pool.compute(self._name("clip_head"), feeds, outputs)
        clip = ClipFeatures(patches[0], token_mask[0], self.letterbox)
        if not self.names_apart:
            self._image_embed = image[0]
            self._image_embed.flags.writeable = False  # shared by all tasks and threads
        for array in (clip.patch_embeds, clip.token_mask):
            array.flags.writeable = False
        return clip
