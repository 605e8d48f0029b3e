"""Features of labelled regions from a frozen encoder, kept on disk, photo by photo.

A region gives one row, the mean of its tokens by covered area, and a few rows of single tokens that
it covers. Both are what the head sees at run time: regions when masks are named, tokens in label
maps. A photo goes through the encoder once; runs with other settings of the fit read the rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samclip.errors import ConfigError
from samclip.export.models.conse_head import ConseHead, masked_mean
from samclip.export.models.stitched_encoder import StitchedEncoder
from samclip.merge.config.stages import LabelSource
from samclip.merge.data.label_sources import LabelledPhoto
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.data.seeds import derive_seed
from samclip.merge.students.merged_student import MergedStudent
from samclip.merge.teachers.output_cache import OutputCache, Tensors
from samclip.runtime.pixels.image import resize_longest_side
from samclip.runtime.tasks.token_naming import TokenSpread

VERSION = 1  # of the rows' form, part of their keys in the cache
INSIDE = 0.6  # least share of a token that a region covers for the token to be a row of it


@dataclass(frozen=True)
class PhotoRows:
    """The rows of one photo, NxF and NxD, the region of each, N; F and D of the whole photo."""

    features: Tensor
    conse: Tensor
    regions: Tensor
    context: Tensor
    image_conse: Tensor


class RowMaker:
    """Pools the features of a merged model with a ConSE head.

    Raises ConfigError for a student of another kind.
    """

    def __init__(self, student: MergedStudent, cache: OutputCache) -> None:
        encoder, head = student.model.image_encoder, student.model.clip_head
        if not isinstance(encoder, StitchedEncoder) or not isinstance(head, ConseHead):
            raise ConfigError(
                "names are taught to a student of model type lite2, whose head is ConSE's; give "
                "such a checkpoint as student.checkpoint"
            )
        self._student, self._encoder, self._head = student, encoder, head
        self._cache = cache
        self._fingerprint = _fingerprint(encoder, head)

    def rows(self, photo: LabelledPhoto, source: LabelSource) -> PhotoRows:
        """Return the rows of a labelled photo. Raises ImageError."""
        described = (source.tokens, photo.names)
        return self._stored(photo.key, source.size, described, photo.image, photo)

    def whole(self, key: str, image: Callable[[], NDArray[np.uint8]], size: int) -> PhotoRows:
        """Return the row of a whole photo by the SHA-256 of its file. Raises ImageError."""
        photo = LabelledPhoto(Path(), key, ("",), lambda: [None])
        return self._stored(key, size, (0, photo.names), image, photo)

    def _stored(
        self,
        key: str,
        size: int,
        described: tuple[int, tuple[str, ...]],
        image: Callable[[], NDArray[np.uint8]],
        photo: LabelledPhoto,
    ) -> PhotoRows:
        """Return rows from the cache, or compute them."""
        digest = hashlib.sha256()
        named = msgspec.json.encode((VERSION, size, described))
        for part in (self._fingerprint, key.encode(), named):
            digest.update(len(part).to_bytes(8, "little") + part)
        found = self._cache.get(digest.hexdigest())
        if found is None:
            computed = self._compute(image(), size, described[0], photo)
            found = self._cache.put(digest.hexdigest(), computed)
        return PhotoRows(**found)

    @torch.inference_mode()
    def _compute(
        self, image: NDArray[np.uint8], size: int, tokens: int, photo: LabelledPhoto
    ) -> Tensors:
        resized, letterbox = resize_longest_side(image, size)
        picture = torch.from_numpy(resized.astype(np.float32)).permute(2, 0, 1)
        pixels = PixelBatch.of([picture], size).to(self._student.device)
        normalised = pixels.normalised(self._student.mean, self._student.std)
        head = self._head
        maps = self._encoder.last_maps(normalised, self._encoder.backbone(normalised))
        token_mask = pixels.token_mask(maps.shape[-1])
        features = head.features(maps)  # 1, L, g, g, H
        image_logits, logits = head.logits(maps, token_mask)
        flat = features[0].permute(1, 2, 0, 3).flatten(2).flatten(0, 1)  # gg, L H
        conse = (logits.softmax(dim=-1) @ head.names)[0].flatten(0, 1)  # gg, D
        spread = TokenSpread(letterbox, token_mask[0].cpu().numpy())
        weights, regions = _weights(photo, spread, token_mask[0], size, tokens)
        weights = weights.to(flat.device)
        return {
            "features": (weights @ flat).half().cpu(),
            "conse": (weights @ conse).cpu(),
            "regions": regions,
            "context": masked_mean(features, token_mask).flatten(1)[0].half().cpu(),
            "image_conse": (image_logits.softmax(dim=1) @ head.names)[0].cpu(),
        }


def _weights(
    photo: LabelledPhoto, spread: TokenSpread, token_mask: Tensor, size: int, tokens: int
) -> tuple[Tensor, Tensor]:
    """Return the weights of N rows on the tokens, Nxgg, and their regions, N int64."""
    whole = (token_mask / token_mask.sum()).cpu().numpy()
    area = (size / len(token_mask)) ** 2  # of a token
    random = np.random.default_rng(derive_seed("tokens", photo.key))
    rows, regions = [], []
    for place, mask in enumerate(photo.read()):
        rows.append(whole if mask is None else spread.weights(mask, _middle(mask)))
        regions.append(place)
        if mask is None:
            continue
        inside = np.argwhere(spread.covered(mask) >= INSIDE * area)
        for row, column in random.permutation(inside)[:tokens]:
            one = np.zeros_like(whole)
            one[row, column] = 1
            rows.append(one)
            regions.append(place)
    return torch.from_numpy(np.stack(rows).astype(np.float32)).flatten(1), torch.tensor(regions)


def _middle(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean (x, y) of a mask's pixels; the photo's middle for an empty one."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return np.asarray([mask.shape[1] / 2, mask.shape[0] / 2])
    return np.asarray([columns.mean() + 0.5, rows.mean() + 0.5])


def _fingerprint(*modules: torch.nn.Module) -> bytes:
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            if not name.startswith("taught."):
                digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest().encode()


def gather_rows(
    photos: Sequence[LabelledPhoto],
    source: LabelSource,
    maker: RowMaker,
    advance: Callable[[str], None],
) -> list[PhotoRows]:
    """Return the rows of all photos of a source; `advance` is called after each."""
    found = []
    for photo in photos:
        found.append(maker.rows(photo, source))
        advance(f"{len(found[-1].regions)} rows of {photo.path.name}")
    return found
