"""Objects followed from one picture of a stream to the next, by what the encoder pass has anyway.

SAM's image embedding of each token is compared with those of the object's first and last picture:
tokens inherit the label, object or not, of the most similar ones nearby. What that gives is coarse.
It becomes the decoder's prompt, as a mask and the box around it, and the decoder draws the border.
No video model and no second encoder takes part.

Labels are propagated as in the DAVIS evaluation of self-supervised features (Jabri et al. 2020,
section 4; Caron et al. 2021, DINO, section 4.2): the most similar tokens of the first and the last
frame, within a neighbourhood, weighted by a softmax of their cosines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from samclip.errors import PromptError
from samclip.runtime.features import Features
from samclip.runtime.photo import Photo
from samclip.runtime.pixels.image import Letterbox
from samclip.runtime.pixels.mask_ops import MASK_THRESHOLD, PackedMasks, mask_box
from samclip.runtime.pixels.prompts import Prompt
from samclip.runtime.results.masks import Masks
from samclip.runtime.stages import stage
from samclip.runtime.tasks.segment import box_of_mask, decode_chosen, upscale_masks
from samclip.runtime.tasks.token_naming import TokenSpread

NEIGHBOURS = 7  # tokens that vote for each token
TEMPERATURE = 0.05  # of the softmax of their cosines
REACH = 10  # tokens that an object may move between two pictures
LOST_GROWTH = 4  # tokens that the reach grows by for each picture without the object
PART = 0.2  # of the largest coarse part that another part needs to be kept
AGREEMENT = 0.4  # IoU with the coarse mask below which the decoder's mask is not taken
COARSE_LOGIT = 8.0  # of tokens that are surely the object
WINDOW = 4096  # tokens of a window at most, so that a step's time and memory are bounded

Tokens = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Look:
    """The tokens around an object in one picture: TxC unit rows, their places and their labels."""

    tokens: Tokens
    places: NDArray[np.int32]  # Tx2, (row, column)
    labels: NDArray[np.float32]  # T, the share of the object in each


@dataclass(frozen=True, eq=False)
class _Object:
    """An object that is followed: its first look, its last one, and for how long it is lost.

    `box`: XYXY in tokens, of its last look; `grid`: the (rows, columns) of its picture's tokens.
    """

    first: _Look
    last: _Look
    box: tuple[int, int, int, int]
    grid: tuple[int, int]
    lost: int = 0

    def on(self, grid: tuple[int, int]) -> _Object:
        """Return it with the places of its last look on a grid of other (rows, columns)."""
        if grid == self.grid:
            return self
        down, across = grid[0] / self.grid[0], grid[1] / self.grid[1]
        centres = (self.last.places + 0.5) * (down, across)
        x0, y0, x1, y1 = self.box
        left, top = int(x0 * across), int(y0 * down)
        right, bottom = math.ceil(x1 * across), math.ceil(y1 * down)
        last = replace(self.last, places=centres.astype(np.int32))
        first = last if self.first is self.last else self.first
        return _Object(first, last, (left, top, right, bottom), grid, self.lost)


class Memory:
    """What is remembered of N objects between the pictures of a stream; made by `Scene.remember`.

    `Scene.follow` finds the objects and updates it. It keeps two looks at each object, whatever
    the length of the stream. Pictures may have another size each, and other encoder inputs.

    Examples:
        >>> cup = scene.segment(boxes=[(172, 17, 410, 308)])
        >>> memory = scene.remember(cup)
        >>> len(scene.follow(memory)), memory.lost
        (1, (0,))
    """

    def __init__(self, objects: Sequence[_Object]) -> None:
        self._objects = list(objects)

    def __len__(self) -> int:
        return len(self._objects)

    @property
    def lost(self) -> tuple[int, ...]:
        """For each object the number of pictures in a row in which it was not found."""
        return tuple(each.lost for each in self._objects)

    def forget(self, index: int) -> None:
        """Follow an object no longer; those after it move up."""
        del self._objects[index]


@dataclass(frozen=True, eq=False)
class _Grid:
    """The tokens of one picture: RxKxC unit rows, without the padding, and their letterbox."""

    tokens: Tokens
    side: int  # the longer one of the whole grid, padding included
    letterbox: Letterbox

    @property
    def size(self) -> tuple[int, int]:
        """The (rows, columns) of tokens."""
        rows, columns = self.tokens.shape[:2]
        return rows, columns


def remember(features: Features, masks: Masks) -> Memory:
    """Return a memory of the objects that N masks of this picture show.

    Raises PromptError for an empty mask.
    """
    grid = _read_grid(features)
    spread = _spread(grid)
    objects = []
    for index, mask in enumerate(masks.packed):
        if not mask.any():
            raise PromptError(
                f"mask {index} is empty, so there is nothing to follow. Leave it out."
            )
        look, box = _look_at(grid, _shares(spread, mask, grid))
        objects.append(_Object(look, look, box, grid.size))
    return Memory(objects)


def follow(features: Features, memory: Memory, image: Photo) -> Masks:
    """Find the objects of a memory in this picture: N masks, empty ones for what is not found.

    The memory is updated. Scores are the decoder's predicted IoUs; where its mask does not agree
    with the propagated one, the latter is the answer, and the score is the IoU of the two. An
    object that is not found has the score 0, and is looked for in more and more of the pictures
    that come. Raises ClosedError, EngineRunError.
    """
    with stage("prompts"):
        grid = _read_grid(features)
        size = features.mask_size
        coarse = [_propagate(grid, each) for each in memory._objects]
        guides = [None if shares is None else _as_logits(shares, grid, size) for shares in coarse]
        low_res = np.full((len(coarse), *size), -COARSE_LOGIT, np.float32)
        scores = np.zeros(len(coarse), np.float32)
        for row, score, mask in zip(*_redraw(features, guides), strict=True):
            low_res[row] = guides[row]
            alike = _iou(mask > MASK_THRESHOLD, low_res[row] > MASK_THRESHOLD)
            scores[row] = score if alike >= AGREEMENT else alike
            if alike >= AGREEMENT:
                low_res[row] = mask
    with stage("upscale"):
        packed, boxes, _ = upscale_masks(features, low_res, keep_logits=False)
    with stage("prompts"):
        _update(memory, grid, packed)
    scores[~(boxes[:, 2:] > boxes[:, :2]).all(axis=1)] = 0
    return Masks(
        packed=packed,
        scores=scores,
        boxes=boxes,
        prompt_index=np.arange(len(coarse)),
        low_res_logits=low_res,
        image=image,
    )


def follow_masks(features: Features, previous: Masks, image: Photo) -> Masks:
    """Draw the masks of the picture before this one again: each is the prompt, with its box.

    For slow movements; nothing but the masks is known of the objects. An empty mask stays empty.
    Raises ClosedError, EngineRunError.
    """
    size = features.mask_size
    grids = previous.low_res_logits
    if grids is None or grids.shape[1:] != size or previous.packed.size != _size(features):
        grids = np.asarray(
            [_sample_logits(mask, features.letterbox, size) for mask in previous.packed], np.float32
        ).reshape(-1, *size)
    low_res = np.full((len(previous), *size), -COARSE_LOGIT, np.float32)
    scores = np.zeros(len(previous), np.float32)
    with stage("prompts"):
        rows, scores[rows], low_res[rows] = _redraw(features, grids)
    with stage("upscale"):
        packed, boxes, _ = upscale_masks(features, low_res, keep_logits=False)
    return Masks(
        packed=packed,
        scores=scores,
        boxes=boxes,
        prompt_index=np.arange(len(previous)),
        low_res_logits=low_res,
        image=image,
    )


def _redraw(
    features: Features, guides: Iterable[NDArray[np.float32] | None]
) -> tuple[list[int], NDArray[np.float32], NDArray[np.float32]]:
    """Have the decoder draw from low-resolution logits, each a prompt with the box around it.

    Returns the M rows that were drawn, their scores M and logits Mxhxw. None, and logits that mark
    nothing of the image, are left out.
    """
    prompts, rows = [], []
    for row, logits in enumerate(guides):
        if logits is None:
            continue
        try:
            box = box_of_mask(logits, features.letterbox)
        except PromptError:  # all of it lies in the padding
            continue
        prompts.append(Prompt(np.zeros((0, 2)), np.zeros(0), box, logits, has_own_box=False))
        rows.append(row)
    return rows, *decode_chosen(features, prompts, multimask=False)


def region_embeddings(features: Features, packed: PackedMasks) -> NDArray[np.float32]:
    """Average SAM's embedding over each of N masks: NxC unit rows, zeros for an empty mask."""
    grid = _read_grid(features)
    spread = _spread(grid)
    flat = grid.tokens.reshape(-1, grid.tokens.shape[-1])  # RxKxC -> RKxC
    rows = np.zeros((len(packed), flat.shape[1]), np.float32)
    for row, mask in enumerate(packed):
        if mask.any():
            rows[row] = _shares(spread, mask, grid).reshape(-1) @ flat
    return _unit(rows)


def _size(features: Features) -> tuple[int, int]:
    return features.letterbox.original_size


def _read_grid(features: Features) -> _Grid:
    embedding = features.image_embeddings()[0]  # Cxhxw
    side = max(embedding.shape[1:])
    inside = features.letterbox.token_mask(side)[0] > 0
    rows, columns = int(inside.any(axis=1).sum()), int(inside.any(axis=0).sum())
    tokens = np.ascontiguousarray(embedding[:, :rows, :columns].transpose(1, 2, 0))  # RxKxC
    return _Grid(_unit(tokens), side, features.letterbox)


def _unit(rows: Tokens) -> Tokens:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def _spread(grid: _Grid) -> TokenSpread:
    return TokenSpread(grid.letterbox, grid.letterbox.token_mask(grid.side)[0])


def _shares(spread: TokenSpread, mask: NDArray[np.bool_], grid: _Grid) -> NDArray[np.float32]:
    """Return RxK: the share of each token that the mask covers."""
    area = (grid.letterbox.image_size / grid.side) ** 2
    rows, columns = grid.tokens.shape[:2]
    return np.asarray(np.minimum(spread.covered(mask)[:rows, :columns] / area, 1), np.float32)


def _look_at(grid: _Grid, shares: NDArray[np.float32]) -> tuple[_Look, tuple[int, int, int, int]]:
    """Return the tokens in and around what `shares` RxK mark, and the box of it in tokens."""
    x0, y0, x1, y1 = (int(edge) for edge in mask_box(shares >= min(0.5, float(shares.max()))))
    return _cut(grid, (x0, y0, x1, y1), REACH, shares), (x0, y0, x1, y1)


def _cut(
    grid: _Grid, box: tuple[int, int, int, int], reach: int, shares: NDArray[np.float32]
) -> _Look:
    rows, columns = grid.tokens.shape[:2]
    x0, y0, x1, y1 = box
    top, left = max(0, min(y0, rows) - reach), max(0, min(x0, columns) - reach)
    bottom, right = min(rows, y1 + reach), min(columns, x1 + reach)
    window = (slice(top, max(bottom, top + 1)), slice(left, max(right, left + 1)))
    places = np.indices((rows, columns), np.int32)[:, window[0], window[1]].reshape(2, -1).T
    tokens = grid.tokens[window].reshape(-1, grid.tokens.shape[-1])
    labels = shares[window].reshape(-1)
    step = -(-len(tokens) // WINDOW)
    return _Look(tokens[::step].copy(), places[::step].copy(), labels[::step].copy())


def _propagate(grid: _Grid, known: _Object) -> NDArray[np.float32] | None:
    """Return RxK: how likely each token is the object; None where it is not found."""
    known = known.on(grid.size)
    reach = REACH + LOST_GROWTH * known.lost
    empty = np.zeros(grid.tokens.shape[:2], np.float32)
    window = _cut(grid, known.box, reach, empty)
    looks = [known.first] if known.last is known.first else [known.first, known.last]
    cosines, labels = [], []
    for look in looks:
        alike = window.tokens @ look.tokens.T  # QxT
        if look is known.last:  # the first picture may be long ago: its places say nothing
            near = np.abs(window.places[:, None] - look.places[None]).max(axis=-1) <= reach
            alike[~near] = -1
        cosines.append(alike)
        labels.append(look.labels)
    alike, voices = np.concatenate(cosines, axis=1), np.concatenate(labels)
    count = min(NEIGHBOURS, alike.shape[1])
    best = np.argpartition(-alike, count - 1, axis=1)[:, :count]
    top = np.take_along_axis(alike, best, axis=1)
    weights = np.exp((top - top.max(axis=1, keepdims=True)) / TEMPERATURE)
    votes = (weights * voices[best]).sum(axis=1) / weights.sum(axis=1)
    empty[window.places[:, 0], window.places[:, 1]] = votes
    return _main_parts(empty)


def _main_parts(shares: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Return `shares` without small parts; None where no token is more likely object than not."""
    inside = (shares > 0.5).astype(np.uint8)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
    if count < 2:
        return None
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept = np.concatenate([[True], areas >= PART * areas.max()])
    return np.where(kept[parts], shares, 0)


def _as_logits(
    shares: NDArray[np.float32], grid: _Grid, size: tuple[int, int]
) -> NDArray[np.float32]:
    """Return RxK shares as logits on the decoder's grid of `size` (h, w)."""
    whole = np.zeros(grid.letterbox.grid(grid.side), np.float32)
    whole[: shares.shape[0], : shares.shape[1]] = shares
    logits = (whole - 0.5) * 2 * COARSE_LOGIT
    return np.asarray(cv2.resize(logits, size[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def _sample_logits(
    mask: NDArray[np.bool_], letterbox: Letterbox, size: tuple[int, int]
) -> NDArray[np.float32]:
    """Bring the mask of a picture of any size to the decoder's grid, `size` (h, w), as logits."""
    scale = max(size) / letterbox.image_size
    height, width = (max(1, round(edge * scale)) for edge in letterbox.input_size)
    small = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    logits = np.full(size, -COARSE_LOGIT, np.float32)
    logits[:height, :width] = (small - 0.5) * 2 * COARSE_LOGIT
    return logits


def _update(memory: Memory, grid: _Grid, packed: PackedMasks) -> None:
    spread = _spread(grid)
    for index, (known, mask) in enumerate(zip(memory._objects, packed, strict=True)):
        shares = _shares(spread, mask, grid)
        if shares.max() <= 0:
            memory._objects[index] = replace(known, lost=known.lost + 1)
            continue
        look, box = _look_at(grid, shares)
        memory._objects[index] = _Object(known.first, look, box, grid.size)


def _iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    either = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / either if either else 0.0
