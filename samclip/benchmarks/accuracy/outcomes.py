"""What prompts for known objects got: how well masks fit, how sure the model was, outlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samclip.runtime.pixels.masks import encode_rle
from samclip.runtime.results.coco import RleDict
from samclip.runtime.results.masks import Masks


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The answers to N prompts, one mask each.

    `fits`: N IoUs with the truth; `scores`: N, the IoUs that the model predicts; `outlines`: N.
    """

    fits: NDArray[np.float64]
    scores: NDArray[np.float64]
    outlines: tuple[RleDict, ...]

    @classmethod
    def of(cls, masks: Masks, truth: Sequence[NDArray[np.bool_]]) -> Outcomes:
        """Compare N masks with their N truths, HxW each."""
        return cls(
            np.fromiter(map(iou, masks.packed, truth), np.float64),
            masks.scores.astype(np.float64),
            tuple(map(encode_rle, masks.packed)),
        )

    def taken(self, rows: NDArray[np.int64]) -> Outcomes:
        """Take M of the answers."""
        outlines = tuple(self.outlines[row] for row in rows)
        return Outcomes(self.fits[rows], self.scores[rows], outlines)

    def replaced(self, rows: Sequence[int], others: Outcomes) -> Outcomes:
        """Put M other answers in place of those at M `rows`."""
        fits, scores, outlines = self.fits.copy(), self.scores.copy(), list(self.outlines)
        fits[rows], scores[rows] = others.fits, others.scores
        for row, outline in zip(rows, others.outlines, strict=True):
            outlines[row] = outline
        return Outcomes(fits, scores, tuple(outlines))


def iou(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Divide the pixels in both HxW masks by those in either; 0 where both are empty."""
    either = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / either if either else 0.0
