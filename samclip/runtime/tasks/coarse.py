"""The CLIP head's coarse answer: a cosine per name and token, upscaled name by name."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from samclip.runtime.features import Features
from samclip.runtime.texts.vocabulary import Vocabulary, unit_rows

TIE = 1e-4  # cosines closer than this may change places through rounding

_NEIGHBOURS = np.ones((3, 3), np.uint8)


class CoarseMap:
    """Cosines of K names at g x g tokens; only one name at a time is brought to full size.

    Tokens of the padding take the values of the nearest token of the image, so that upscaling
    does not mix padding into the image's border. Memory: 4 * K * g * g bytes, and some arrays
    of the image's size whatever K is.
    """

    def __init__(self, features: Features, vocabulary: Vocabulary) -> None:
        clip = features.clip()
        dim, self.grid = clip.patch_embeds.shape[:2]
        tokens = unit_rows(clip.patch_embeds.reshape(dim, -1).T)  # Dxgxg -> ggxD
        cosines = vocabulary.best_synonyms(vocabulary.embeddings @ tokens.T, axis=0)  # Kxgg
        cosines = cosines.reshape(-1, self.grid, self.grid)  # Kxgg -> Kxgxg
        self.cosines = _extend(cosines, clip.token_mask)
        self._letterbox = features.letterbox
        self._scale = np.float32(vocabulary.logit_scale)
        self._log_sums = self._sum_powers()

    def probabilities(self, index: int) -> NDArray[np.float32]:
        """Return gxg: the softmax probability of one name at each token, among all names."""
        logits = self.cosines[index] * self._scale
        return np.asarray(np.exp(logits - self._log_sums), np.float32)

    def log_odds(self, index: int) -> NDArray[np.float32]:
        """Return gxg: the logit of one name less that of the best other; needs two names."""
        others = np.delete(np.arange(len(self.cosines)), index)
        best = np.full(self.cosines.shape[1:], -np.inf, np.float32)
        for other in others:
            np.maximum(best, self.cosines[other], out=best)
        return np.asarray((self.cosines[index] - best) * self._scale, np.float32)

    def upscale(self, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring gxg values to the original image: HxW, bilinear."""
        return self._letterbox.upscale(tokens)

    def argmax(self) -> NDArray[np.int32]:
        """Return HxW int32: at each pixel the name whose upscaled cosine is highest.

        SAM-CLIP section 4.2: cosine per patch, linear upsampling, argmax. On a tie the first
        name wins.
        """
        size = self._letterbox.original_size
        best = np.full(size, -np.inf, np.float32)
        labels = np.zeros(size, np.int32)
        for index in self._contenders():
            full = self.upscale(self.cosines[index])
            better = full > best
            labels[better] = index
            np.copyto(best, full, where=better)
        return labels

    def best_inside(self, weights: NDArray[np.float32]) -> int:
        """Return the name whose cosine, averaged with gxg `weights`, is highest."""
        return int(np.argmax(np.tensordot(self.cosines, weights, axes=2)))  # Kxgg, gxg -> K

    def scores(self, labels: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return HxW: the upscaled probability of the name that `labels` holds at each pixel."""
        scores = np.zeros(labels.shape, np.float32)
        for index in np.unique(labels[labels >= 0]).tolist():
            chosen = labels == index
            scores[chosen] = self.upscale(self.probabilities(index))[chosen]
        return np.clip(scores, 0, 1)

    def _sum_powers(self) -> NDArray[np.float32]:
        """Return gxg: log of the sum over names of exp(scale * cosine)."""
        top = self.cosines.max(axis=0)
        total = np.zeros_like(top)
        for one in self.cosines:
            total += np.exp((one - top) * self._scale)
        return np.asarray(np.log(total) + top * self._scale, np.float32)

    def _contenders(self) -> list[int]:
        """List the names that can win at some pixel, in order.

        A bilinear pixel mixes at most 3x3 neighbouring tokens (two resizes, each of 2x2), so a
        name whose highest cosine near every token stays below the lowest of another name there
        cannot win, and need not be upscaled.
        """
        floor = np.full(self.cosines.shape[1:], -np.inf, np.float32)
        for one in self.cosines:
            np.maximum(floor, cv2.erode(one, _NEIGHBOURS), out=floor)
        floor -= TIE
        return [
            index
            for index, one in enumerate(self.cosines)
            if (cv2.dilate(one, _NEIGHBOURS) >= floor).any()
        ]


def _extend(cosines: NDArray[np.float32], token_mask: NDArray[np.float32]) -> NDArray[np.float32]:
    """Repeat the last image row and column of Kxgxg into the padding below and to the right."""
    last = len(token_mask) - 1
    rows = np.minimum(np.arange(last + 1), np.flatnonzero(token_mask.any(axis=1))[-1])
    columns = np.minimum(np.arange(last + 1), np.flatnonzero(token_mask.any(axis=0))[-1])
    return np.ascontiguousarray(cosines[:, rows[:, None], columns[None, :]])
