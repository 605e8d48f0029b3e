"""Open-vocabulary semantic segmentation: a name for every pixel.

The coarse map comes from the CLIP head: a cosine per name and token, upscaled name by name. With
`refine`, SAM's decoder draws sharp borders, prompted by the coarse map.

For the second step SAM-CLIP (section 4.3, "composing both heads") goes from each class's coarse
mask to one to three points, gives points and mask to the prompt encoder, and takes the argmax of
the classes' mask logits. It leaves open how masks become logits, how points are chosen, and what
happens to a class in several places. The choices here:

- one prompt per region, a connected part of the coarse map, because SAM's decoder outlines single
  objects; regions smaller than a token, or beyond the 256 largest, get none;
- up to three points, chosen without randomness: the first where probability times distance to the
  region's edge is highest, the next where that times the distance to the nearest point so far is;
- the region's box, and as mask the log-odds of its name against the best other name, upscaled
  and clipped to +-10: its zero is the coarse border;
- the single-mask output; where its predicted IoU is below 0.7, and where there was no prompt, the
  coarse region itself, as logit 2 (RADSeg, too, keeps coarse regions whose predicted IoU is low);
- a mask gets the name whose mean cosine inside it is highest, which may differ from the name of
  the region it was prompted with: the whole object tells more than a few odd tokens;
- per pixel the mask with the highest logit above 0, else the coarse label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby

import cv2
import numpy as np
from numpy.typing import NDArray

from samclip.errors import InputWarning, VocabularyError, brief, warn_caller
from samclip.runtime.features import ClipFeatures, Features
from samclip.runtime.photo import Photo
from samclip.runtime.pixels.image import Letterbox
from samclip.runtime.pixels.prompts import Prompt
from samclip.runtime.results.classification import SemanticMap
from samclip.runtime.stages import stage
from samclip.runtime.tasks.segment import SINGLE
from samclip.runtime.tasks.token_naming import TokenSpread
from samclip.runtime.text.vocabulary import Vocabulary, unit_rows

TIE = 1e-4  # rounding may swap the order of cosines closer than this
MAX_PROMPTED_REGIONS = 256  # the largest ones
MAX_POINTS = 3  # per region
MIN_IOU = 0.7
COARSE_LOGIT = 2.0
MAX_LOG_ODDS = 10.0
DROPPED = np.float32(-2)  # below every cosine
# Chosen on photos of COCO that samclip-tiny was not trained on: docs/models/samclip-tiny.md.
SIMILARITY = 0.2  # of SAM's embeddings, 1 less the cosine, at which a token counts 1/e
DISTANCE = 3.0  # tokens: the standard deviation of a Gaussian
_NEIGHBOURS = np.ones((3, 3), np.uint8)


def semantic(
    features: Features,
    vocabulary: Vocabulary,
    image: Photo,
    *,
    refine: bool = False,
    background: float | None = None,
    denoise: float | None = None,
) -> SemanticMap:
    """Label every pixel with the name whose upscaled cosine is highest; see `CoarseMap`.

    `refine`: let SAM's decoder draw the borders, see `refine_labels`. `background`: pixels whose
    probability is below this number in [0, 1] get label -1; None labels all. The papers treat the
    background differently for each data set; a threshold is this package's choice. `denoise`: names
    whose probability is below this number in [0, 1] everywhere are left out, see
    `CoarseMap.denoise`, and the others are compared with averages over tokens that are alike, see
    `average_alike`; None does neither. Raises VocabularyError for a number out of range,
    CapabilityError, ClosedError, EngineRunError.
    """
    for what, value in (("background", background), ("denoise", denoise)):
        is_number = isinstance(value, int | float | np.integer | np.floating)
        if value is not None and not (is_number and 0 <= value <= 1):
            raise VocabularyError(f"{what} must be a number in [0, 1] or None; got {brief(value)}.")
    if background is not None and len(vocabulary.names) == 1:
        warn_caller(
            f"{vocabulary.names[0]!r:.60} is the only name, so its probability is 1 everywhere and "
            "no pixel is background. Add names of what else there may be.",
            InputWarning,
        )
    coarse = CoarseMap(features, vocabulary)
    if denoise is not None:
        coarse.denoise(denoise)
        coarse = coarse.averaged(features, vocabulary)
    labels = coarse.argmax()
    if refine:
        labels = refine_labels(features, coarse, labels)
    scores = coarse.scores(labels)
    if background is not None:
        labels[scores < background] = -1
    return SemanticMap(
        labels=labels,
        names=vocabulary.names,
        scores=scores,
        refined=refine,
        trained_head=vocabulary.trained_head,
        image=image,
    )


class CoarseMap:
    """Cosines of K names at h x w tokens; only one name at a time is upscaled.

    Tokens of the padding take the values of the nearest token of the image, so that upscaling
    does not mix padding into the image's border. Memory: 4 * K * h * w bytes, and a few arrays of
    the image's size whatever K is.
    """

    def __init__(
        self, features: Features, vocabulary: Vocabulary, clip: ClipFeatures | None = None
    ) -> None:
        """Compare the tokens of `clip` with the names; None stands for those of `features`."""
        clip = features.clip() if clip is None else clip
        dim, *grid = clip.patch_embeds.shape
        tokens = unit_rows(clip.patch_embeds.reshape(dim, -1).T)  # Dxhxw -> hwxD
        cosines = vocabulary.best_synonyms(vocabulary.embeddings @ tokens.T, axis=0)  # Kxhw
        cosines = cosines.reshape(-1, *grid)  # Kxhw -> Kxhxw
        # Repeat the last row and column of the image into the padding below and to the right.
        rows, columns = (
            np.minimum(np.arange(count), np.flatnonzero(clip.token_mask.any(axis=1 - axis))[-1])
            for axis, count in enumerate(grid)
        )
        self.cosines = np.ascontiguousarray(cosines[:, rows[:, None], columns[None, :]])
        self.letterbox = clip.letterbox
        self._scale = np.float32(vocabulary.logit_scale)
        self._log_sums = self._sum_exponentials()

    def denoise(self, least: float) -> None:
        """Leave out the names whose probability is below `least` at every token.

        RADSeg's prompt denoising, which gives such a name the probability 0 everywhere; those of
        the others stay as they are. Where no name reaches `least`, all stay: there would be no
        answer.
        """
        highest = np.array([self.probabilities(i).max() for i in range(len(self.cosines))])
        if (highest >= least).any():
            self.cosines[highest < least] = DROPPED

    def averaged(self, features: Features, vocabulary: Vocabulary) -> CoarseMap:
        """Return the map of tokens averaged by `average_alike`, without the names left out here.

        Itself for a bundle whose tokens are averaged by a graph, or come from a separate CLIP.
        """
        clip = features.clip()
        if features.names_apart or clip.letterbox != features.letterbox:
            return self
        averaged = average_alike(clip, features.image_embeddings()[0])
        found = CoarseMap(features, vocabulary, averaged)
        found.cosines[(self.cosines == DROPPED).all(axis=(1, 2))] = DROPPED
        return found

    def probabilities(self, index: int) -> NDArray[np.float32]:
        """Return hxw: the softmax probability of one name at each token, among all names."""
        logits = self.cosines[index] * self._scale
        return np.asarray(np.exp(logits - self._log_sums), np.float32)

    def log_odds(self, index: int) -> NDArray[np.float32]:
        """Return hxw: the logit of one name minus that of the best other; needs two names."""
        others = np.delete(np.arange(len(self.cosines)), index)
        best = np.full(self.cosines.shape[1:], -np.inf, np.float32)
        for other in others:
            np.maximum(best, self.cosines[other], out=best)
        return np.asarray((self.cosines[index] - best) * self._scale, np.float32)

    def upscale(self, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
        """Upscale hxw values to the original image: HxW, bilinear."""
        return self.letterbox.upscale(tokens)

    def argmax(self) -> NDArray[np.int32]:
        """Return HxW int32: the name whose upscaled cosine is highest at each pixel.

        As in SAM-CLIP, section 4.2: cosine per patch, linear upsampling, argmax. On a tie the
        first name wins.
        """
        size = self.letterbox.original_size
        best = np.full(size, -np.inf, np.float32)
        labels = np.zeros(size, np.int32)
        for index in self._find_candidates():
            full = self.upscale(self.cosines[index])
            better = full > best
            labels[better] = index
            np.copyto(best, full, where=better)
        return labels

    def best_inside(self, weights: NDArray[np.float32]) -> int:
        """Return the name whose cosine, averaged with hxw `weights`, is highest."""
        return int(np.argmax(np.tensordot(self.cosines, weights, axes=2)))  # Kxhw, hw -> K

    def scores(self, labels: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return HxW: the upscaled probability of the name that `labels` holds at each pixel."""
        scores = np.zeros(labels.shape, np.float32)
        for index in np.unique(labels[labels >= 0]).tolist():
            chosen = labels == index
            scores[chosen] = self.upscale(self.probabilities(index))[chosen]
        return np.clip(scores, 0, 1)

    def _sum_exponentials(self) -> NDArray[np.float32]:
        """Return hxw: log of the sum over names of exp(scale * cosine)."""
        top = self.cosines.max(axis=0)
        total = np.zeros_like(top)
        for one in self.cosines:
            total += np.exp((one - top) * self._scale)
        return np.asarray(np.log(total) + top * self._scale, np.float32)

    def _find_candidates(self) -> list[int]:
        """Return the indices of the names that can win at some pixel, in order.

        A bilinear pixel mixes at most 3x3 neighbouring tokens (two resizes of 2x2 each). A name
        whose highest cosine among the neighbours of every token is below the lowest of another
        name there cannot win, and need not be upscaled.
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


def average_alike(clip: ClipFeatures, embedding: NDArray[np.float32]) -> ClipFeatures:
    """Average every token with those near it at which SAM's embedding is alike.

    `embedding`: SAM's of the image, CxHxW, of which blocks of equal size lie on each of h x w
    tokens. With f the unit vectors of the blocks' means, from which the image's mean is subtracted,
    token i is the mean of all tokens j of the image with the weights

        exp((f_i . f_j - 1) / SIMILARITY - |i - j|^2 / (2 DISTANCE^2))

    where |i - j| is the distance in tokens. So names follow what SAM holds for one thing. Memory: a
    row of tokens against all.
    """
    dim, height, width = clip.patch_embeds.shape
    channels, *sides = embedding.shape
    blocks = embedding.reshape(channels, height, sides[0] // height, width, sides[1] // width)
    inside = clip.token_mask.reshape(-1) > 0
    means = blocks.mean(axis=(2, 4)).reshape(channels, -1).T  # CxHxW -> hwxC
    alike = unit_rows(means - means[inside].mean(axis=0))
    tokens = clip.patch_embeds.reshape(dim, -1).T  # Dxhxw -> hwxD
    rows, columns = np.divmod(np.arange(height * width), width)
    averaged = np.empty_like(tokens)
    for row in range(height):
        here = slice(row * width, (row + 1) * width)
        apart = (rows - row) ** 2 + (columns - np.arange(width)[:, None]) ** 2  # wxhw
        power = (alike[here] @ alike.T - 1) / SIMILARITY - apart / (2 * DISTANCE**2)
        weights = np.where(inside, np.exp(power), 0).astype(np.float32)
        # Padding far from the image has no weights; its tokens are not read.
        sums = np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        averaged[here] = weights @ tokens / sums
    return replace(clip, patch_embeds=averaged.T.reshape(dim, height, width))


def refine_labels(
    features: Features, coarse: CoarseMap, labels: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Redraw the borders of coarse `labels`, HxW int32 indices of names: HxW int32.

    There is one decoder prompt per region. Raises ClosedError, EngineRunError.
    """
    letterbox, mask_size = features.letterbox, features.mask_size
    refined: NDArray[np.int32] = labels.copy()
    if len(np.unique(labels)) < 2:
        return refined
    regions = _find_regions(labels, min_area=_token_area(coarse))
    # The highest logit so far: the coarse one, or 0 in the regions that get a prompt.
    best = np.full(labels.shape, COARSE_LOGIT, np.float32)
    for region in regions:
        best[region.window][region.inside] = 0
    spread = TokenSpread(coarse.letterbox, features.clip().token_mask)
    prompts = list(_make_prompts(regions, coarse, letterbox, mask_size))
    for batch in features.batches(prompts):
        with stage("prompts"):
            iou, low_res = features.decode(batch)
        for place, row in enumerate(batch.rows):
            region = regions[row]
            if iou[place, SINGLE] >= MIN_IOU:
                with stage("upscale"):
                    logits, window = letterbox.upscale_above(low_res[place, SINGLE], 0)
                mask = np.zeros(labels.shape, np.bool_)
                mask[window] = logits > 0
                weights = spread.covered(mask)
                index = coarse.best_inside(weights) if weights.any() else region.index
                _paint_label(refined[window], best[window], index, logits)
            else:
                coarse_logits: NDArray[np.float32] = np.float32(COARSE_LOGIT) * region.inside
                window = region.window
                _paint_label(refined[window], best[window], region.index, coarse_logits)
    return refined


def _token_area(coarse: CoarseMap) -> float:
    """Return the area of a token in pixels of the original image."""
    placed = coarse.letterbox
    sides = zip(placed.original_size, placed.input_size, strict=True)
    side = placed.canvas[0] / coarse.cosines.shape[1]  # of a token, in pixels of the input
    height, width = (side * old / new for old, new in sides)
    return float(height * width)


def _paint_label(
    labels: NDArray[np.int32], best: NDArray[np.float32], index: int, logits: NDArray[np.float32]
) -> None:
    """Set `labels` to `index` in the pixels whose logit is above `best`, and update `best`."""
    better = logits > best
    labels[better] = index
    np.copyto(best, logits, where=better)


@dataclass(frozen=True, eq=False)
class Region:
    """A connected part of the coarse map.

    `index`: that of its name; `box`: XYXY in pixels; `inside`: bool, its pixels in the box.
    """

    index: int
    box: tuple[int, int, int, int]
    inside: NDArray[np.bool_]

    @property
    def window(self) -> tuple[slice, slice]:
        """The slices that cut the box out of an HxW array."""
        x0, y0, x1, y1 = self.box
        return slice(y0, y1), slice(x0, x1)


def _find_regions(labels: NDArray[np.int32], min_area: float) -> list[Region]:
    """Return the largest 8-connected regions of at least `min_area` pixels, name by name."""
    found: list[tuple[int, Region]] = []
    for index in np.unique(labels).tolist():
        _, parts, stats, _ = cv2.connectedComponentsWithStats(
            (labels == index).astype(np.uint8), connectivity=8
        )
        for part, (x, y, width, height, area) in enumerate(stats[1:].tolist(), start=1):
            if area >= min_area:
                inside = parts[y : y + height, x : x + width] == part
                found.append((area, Region(index, (x, y, x + width, y + height), inside)))
    largest = sorted(found, key=lambda pair: -pair[0])[:MAX_PROMPTED_REGIONS]
    return sorted((region for _, region in largest), key=lambda region: region.index)


def _make_prompts(
    regions: list[Region], coarse: CoarseMap, letterbox: Letterbox, mask_size: tuple[int, int]
) -> Iterator[Prompt]:
    """Yield a prompt per region; `regions` are sorted by name; `letterbox` is that of the decoder.

    The decoder's masks have `mask_size` (h, w) logits.
    """
    for index, group in groupby(regions, key=lambda region: region.index):
        probability = coarse.upscale(coarse.probabilities(index))
        odds = np.clip(coarse.log_odds(index), -MAX_LOG_ODDS, MAX_LOG_ODDS)
        mask = _placed(odds, coarse.letterbox, letterbox, mask_size)
        for region in group:
            points = _choose_points(region, probability[region.window])
            box = np.asarray(region.box, np.float64)
            yield Prompt(points, np.ones(len(points)), box, np.asarray(mask, np.float32))


def _placed(
    tokens: NDArray[np.float32], placed: Letterbox, target: Letterbox, size: tuple[int, int]
) -> NDArray[np.float32]:
    """Resample values of tokens, which cover `placed`, on the input of `target`: `size` (h, w).

    Bilinear; places outside of the image take the values at its edges.
    """
    if placed == target:
        resized = cv2.resize(tokens, size[::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(resized, np.float32)
    sizes = (size, target.canvas, target.input_size, target.original_size, placed.input_size)
    places = [
        ((np.arange(count) + 0.5) * whole / count / seen * original).clip(0, original)
        / original
        * shown
        for count, whole, seen, original, shown in zip(*sizes, strict=True)
    ]
    token = placed.canvas[0] / len(tokens)
    rows, columns = (np.asarray(each / token - 0.5, np.float32) for each in places)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    sampled = cv2.remap(tokens, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(sampled, np.float32)


def _choose_points(region: Region, probability: NDArray[np.float32]) -> NDArray[np.float64]:
    """Choose up to three points well inside the region: Nx2 (x, y), at pixel centres.

    `probability`: that of the region's name at each pixel of its box.
    """
    padded = np.pad(region.inside, 1).astype(np.uint8)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    weight = depth * probability
    rows, columns = np.indices(region.inside.shape)
    apart = np.ones(region.inside.shape)
    points: list[tuple[float, float]] = []
    for _ in range(MAX_POINTS):
        weight = depth * probability * apart
        row, column = np.unravel_index(int(weight.argmax()), weight.shape)
        if weight[row, column] <= 0:  # fewer pixels than points
            break
        points.append((region.box[0] + column + 0.5, region.box[1] + row + 0.5))
        distance = np.hypot(rows - row, columns - column)
        apart = np.minimum(apart, distance) if len(points) > 1 else distance
    return np.asarray(points, np.float64).reshape(-1, 2)
