"""A separate CLIP in a bundle: it looks at a scene's photo, or at crops of it, when asked to.

Every pass of an encoder over an image is counted, by scene and by model: what one pass of a merged
model answers costs a two-tower bundle as many passes as `Passes` says.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from samclip.engines.limits import MAX_CROPS
from samclip.runtime.bundles.manifest import ClipTower
from samclip.runtime.engine_pool import EnginePool
from samclip.runtime.features import ClipFeatures
from samclip.runtime.photo import Photo, pixels_of
from samclip.runtime.pixels.clip_input import (
    masked,
    square_window,
    squashed_input,
    whole_input,
)
from samclip.runtime.pixels.image import Letterbox
from samclip.runtime.pixels.mask_ops import PackedMasks, mask_box

GRAPH = "clip_encoder"
IMAGE, TOKENS = "image_embed", "patch_embeds"


@dataclass(frozen=True)
class Passes:
    """How often the encoders ran.

    `sam`: SAM's, or a merged model's, on the photo and on crops of `everything`; `clip`: that of a
    separate CLIP on whole photos; `crops`: and on crops around masks.
    """

    sam: int = 0
    clip: int = 0
    crops: int = 0

    def __str__(self) -> str:
        """Write them as "1 SAM pass, 12 CLIP crops"."""
        counts = ((self.sam, "SAM pass"), (self.clip, "CLIP pass"), (self.crops, "CLIP crop"))
        return ", ".join(
            f"{count:,} {what}{'' if count == 1 else 'es' if what.endswith('s') else 's'}"
            for count, what in counts
            if count
        )


class PassCounter:
    """Counts passes, from any thread; what it counts, `parent` counts too."""

    def __init__(self, parent: PassCounter | None = None) -> None:
        self._parent = parent
        self._passes = Passes()
        self._lock = threading.RLock()

    @property
    def passes(self) -> Passes:
        """The passes so far."""
        return self._passes

    def add(self, sam: int = 0, clip: int = 0, crops: int = 0) -> None:
        """Count more passes."""
        with self._lock:
            so_far = self._passes
            self._passes = Passes(so_far.sam + sam, so_far.clip + clip, so_far.crops + crops)
        if self._parent is not None:
            self._parent.add(sam, clip, crops)


class ClipOfPhoto:
    """The CLIP of a two-tower bundle, and the photo that it is asked about.

    Methods may be called from any thread; they raise ClosedError and EngineRunError.
    """

    def __init__(
        self, pool: EnginePool, tower: ClipTower, photo: Photo, counter: PassCounter
    ) -> None:
        self._pool = pool
        self._tower = tower
        self._photo = photo
        self._counter = counter

    def tokens(self) -> ClipFeatures:
        """Embed the tokens of the photo, in one pass over all of it, squashed to the square."""
        (patches,) = self._pool.compute(
            GRAPH, {"images": squashed_input(pixels_of(self._photo), self._tower)[None]}, (TOKENS,)
        )
        self._counter.add(clip=1)
        side, grid = self._tower.image_size, self._tower.grid
        height, width = self._photo.shape[:2]
        token_mask = np.ones((grid, grid), np.float32)
        clip = ClipFeatures(
            patch_embeds=patches[0],
            token_mask=token_mask,
            letterbox=Letterbox((height, width), (side, side), side),
        )
        for array in (clip.patch_embeds, clip.token_mask):
            array.flags.writeable = False  # shared by all tasks and threads
        return clip

    def whole_photo(self) -> NDArray[np.float32]:
        """Embed the photo by CLIP's own preprocessing, in one pass: D float32."""
        (embed,) = self._embed([whole_input(pixels_of(self._photo), self._tower)])
        self._counter.add(clip=1)
        embed.flags.writeable = False
        return np.asarray(embed)

    def crops(self, masks: PackedMasks) -> NDArray[np.float32]:
        """Embed a crop of the photo around each of N masks, one pass each: NxD float32.

        `square_window` says what a crop shows. A mask without a pixel is named by the whole photo.
        Up to `MAX_CROPS` crops are one run of the graph, so that memory does not grow with N.
        """
        rows = self._embed(self._crop(mask) for mask in masks)
        self._counter.add(crops=len(masks))
        return rows

    def _crop(self, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        tower = self._tower
        window = square_window(mask_box(mask), tower.crop_margin, (mask.shape[0], mask.shape[1]))
        crop, inside = pixels_of(self._photo)[window], mask[window]
        if tower.crop_background == "masked" and inside.any():
            crop = masked(crop, inside, tower)
        return squashed_input(np.ascontiguousarray(crop), tower)

    def _embed(self, inputs: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Embed N inputs, 3xSxS each: NxD."""
        waiting = iter(inputs)
        rows = [np.zeros((0, self._tower.embed_dim), np.float32)]
        while batch := list(islice(waiting, MAX_CROPS)):
            (embeds,) = self._pool.compute(GRAPH, {"images": np.stack(batch)}, (IMAGE,))
            rows.append(embeds)
        return np.concatenate(rows)
