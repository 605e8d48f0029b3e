"""Prompts: points, boxes and masks, checked once, then batched for the mask decoder.

The caller's coordinates are (x, y) in pixels of the original image, from (0, 0), its upper left
corner, to (width, height); `PromptBatch` holds them in pixels of the encoder's input. Forms and
names follow segment-anything's `SamPredictor`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samclip.engines.limits import MAX_POINTS, MAX_PROMPTS, MAX_TOKENS
from samclip.errors import InputWarning, PromptError, brief, warn_caller
from samclip.runtime.pixels.arrays import as_array
from samclip.runtime.pixels.image import Letterbox

MAX_PROMPTS_PER_CALL = 16_384  # an answer's memory and time grow with it
SMALL_IMAGE = 16  # pixels: coordinates in [0, 1] are usual in images whose sides are shorter
SLACK = 0.1  # by which detectors' boxes in [0, 1] go over its ends
BOX_CORNERS = [2.0, 3.0]
PADDING = [-1.0]
Arrays: TypeAlias = ArrayLike | Sequence[ArrayLike]


@dataclass(frozen=True, eq=False)
class Prompt:
    """One prompt, valid for its image.

    `points`: Nx2, (x, y) in pixels of the original image, N may be 0; `labels`: N, 1 foreground,
    0 background; `box`: 4, XYXY in the same pixels; `mask`: hxw logits in the decoder's frame;
    `has_own_box`: False when the caller gave no box and `box` was computed from the mask.
    """

    points: NDArray[np.float64]
    labels: NDArray[np.float64]
    box: NDArray[np.float64] | None = None
    mask: NDArray[np.float32] | None = None
    has_own_box: bool = True

    @property
    def is_ambiguous(self) -> bool:
        """Whether this is a lone point, which may mean a whole, a part or a part of a part."""
        return len(self.points) == 1 and self.box is None and self.mask is None

    @property
    def centre(self) -> NDArray[np.float64] | None:
        """The middle of the box or points: 2, (x, y); None for a prompt that is a mask alone."""
        if self.box is not None:
            return (self.box[:2] + self.box[2:]) / 2
        chosen = self.points[self.labels == 1] if (self.labels == 1).any() else self.points
        return np.asarray(chosen.mean(axis=0)) if len(chosen) else None

    def scaled(self, factor: float) -> Prompt:
        """Return the prompt for a picture of the image that is `factor` times as large."""
        box = None if self.box is None else self.box * factor
        return replace(self, points=self.points * factor, box=box)


def parse_prompts(
    image_size: tuple[int, int],
    mask_size: int | tuple[int, int],
    *,
    points: Arrays | None = None,
    labels: Arrays | None = None,
    boxes: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> tuple[Prompt, ...]:
    """Check prompts for an image of `image_size` (h, w), and a decoder of `mask_size` logits.

    `mask_size`: (h, w), or one number for both.
    `points`: Nx2 is one prompt of N points; BxNx2, or a sequence of B arrays Nx2 of any lengths,
    is B prompts. `labels`: the shape of `points` without the 2; None for all foreground.
    `boxes`: 4 or Bx4 XYXY, paired one to one with B prompts of points, or an object that has them
    as `xyxy`. `mask`: hxw or Bxhxw.

    Boxes that are partly outside the image are clamped to it. Empty arrays, such as the 0x4 or
    `[]` boxes of a detector that found nothing, 0xNx2 points or 0xhxw masks, give an empty tuple.
    Raises PromptError when no kind of prompt is given, a number is not finite, shapes do not fit,
    a label is neither 0 nor 1, a box is inverted or empty, a point or a whole box lies outside
    the image, a prompt has more than `MAX_POINTS` points, or there are more than
    `MAX_PROMPTS_PER_CALL` prompts. Warns with InputWarning when coordinates look like shares of the
    image, in [0, 1].
    """
    point_sets = None if points is None else _parse_points(points, image_size)
    label_sets = _parse_labels(labels, point_sets)
    box_rows = None if boxes is None else _parse_boxes(boxes, image_size)
    mask_rows = None if mask is None else _parse_masks(mask, _as_size(mask_size))
    count = _common_count(points=point_sets, boxes=box_rows, mask=mask_rows)
    return tuple(
        _make_prompt(
            None if point_sets is None else point_sets[i],
            None if label_sets is None else label_sets[i],
            None if box_rows is None else box_rows[i],
            None if mask_rows is None else mask_rows[i],
        )
        for i in range(count)
    )


def _make_prompt(
    points: NDArray[np.float64] | None,
    labels: NDArray[np.float64] | None,
    box: NDArray[np.float64] | None,
    mask: NDArray[np.float32] | None,
) -> Prompt:
    if points is None or labels is None:
        return Prompt(np.zeros((0, 2)), np.zeros(0), box, mask)
    if not len(points) and box is None and mask is None:
        raise PromptError("a prompt has no point. Give each prompt a point, a box or a mask.")
    return Prompt(points, labels, box, mask)


def _parse_points(points: Arrays, image_size: tuple[int, int]) -> list[NDArray[np.float64]]:
    expected = "Nx2 (x, y) for one prompt, BxNx2 or a list of Nx2 arrays for B prompts"
    sets = []
    for given in _split_prompts(points, 2, "points", expected):
        array: NDArray[np.float64] = (
            given.reshape(0, 2) if given.shape == (0,) else given
        )  # `[]` next to a box
        if array.ndim != 2 or array.shape[1] != 2:
            hint = " Write points=[(x, y)] for a single point." if array.shape == (2,) else ""
            raise PromptError(f"points must be {expected}; got shape {array.shape}.{hint}")
        _check_points(array, image_size)
        sets.append(array)
    for array in sets:
        shares = ((array >= 0) & (array <= 1)).all(axis=1) & (array % 1 != 0).any(axis=1)
        if shares.any() and _warn_of_shares("point", array[np.argmax(shares)], image_size):
            break
    return sets


def _check_points(points: NDArray[np.float64], image_size: tuple[int, int]) -> None:
    if len(points) > MAX_POINTS:
        raise PromptError(
            f"a prompt has {len(points):,} points; at most {MAX_POINTS:,} are accepted. "
            "Give fewer, or several prompts."
        )
    height, width = image_size
    outside = ((points < 0) | (points > (width, height))).any(axis=1)
    if outside.any():
        x, y = points[np.argmax(outside)]
        raise PromptError(
            f"point ({x:g}, {y:g}) lies outside the image, {width} pixels wide and {height} high. "
            "Give (x, y) in pixels of the original image."
        )


def _parse_labels(
    labels: Arrays | None, point_sets: list[NDArray[np.float64]] | None
) -> list[NDArray[np.float64]] | None:
    if labels is None:
        return None if point_sets is None else [np.ones(len(points)) for points in point_sets]
    if point_sets is None:
        raise PromptError("labels were given without points. Give points too, or no labels.")
    expected = "N for one prompt, BxN or a list of N arrays for B prompts"
    sets = _split_prompts(labels, 1, "labels", expected)
    shapes = [array.shape for array in sets]
    if shapes != [(len(points),) for points in point_sets]:
        counts = [len(points) for points in point_sets]
        raise PromptError(
            f"labels have shapes {brief(shapes)}, but the prompts have {brief(counts)} points. "
            "Give one label for each point."
        )
    for array in sets:
        if (others := array[~np.isin(array, (0, 1))]).size:
            raise PromptError(
                f"labels must be 1 (foreground) or 0 (background); got {others[0]:g}."
            )
    return sets


def _parse_boxes(boxes: Any, image_size: tuple[int, int]) -> list[NDArray[np.float64]]:
    boxes = getattr(boxes, "xyxy", boxes)  # a detector's answer
    array = _as_finite(boxes, "boxes", "4 or Bx4 numbers XYXY")
    array = array.reshape(0, 4) if array.shape == (0,) else array  # `[]`
    if array.ndim not in {1, 2} or array.shape[-1] != 4:
        more = array.ndim == 2 and array.shape[1] in (5, 6)  # with a detector's score and class
        raise PromptError(
            f"boxes must be 4 numbers (x0, y0, x1, y1) XYXY, or Bx4; got shape {array.shape}."
            + (" Leave out scores and classes: boxes[:, :4]." if more else "")
        )
    array = array.reshape(-1, 4)  # 4 -> 1x4
    _check_count(len(array), "boxes")
    height, width = image_size
    clamped = np.clip(array, 0, (width, height, width, height))
    if (empty := (array[:, 2:] <= array[:, :2]).any(axis=1)).any():
        raise PromptError(
            f"box {_as_text(array[np.argmax(empty)])} is inverted or empty. Give (x0, y0, x1, y1) "
            "with x0 < x1, y0 < y1; of (x, y, width, height) that is (x, y, x + width, y + height)."
        )
    if (outside := (clamped[:, 2:] <= clamped[:, :2]).any(axis=1)).any():
        raise PromptError(
            f"box {_as_text(array[np.argmax(outside)])} lies outside the image, {width} pixels "
            f"wide and {height} high. Give (x0, y0, x1, y1) in pixels of the original image."
        )
    shares = ((array >= -SLACK) & (array <= 1 + SLACK)).all(axis=1)
    if shares.any():
        _warn_of_shares("box", array[np.argmax(shares)], image_size)
    return list(clamped)


def _warn_of_shares(what: str, numbers: NDArray[np.float64], image_size: tuple[int, int]) -> bool:
    """Warn of coordinates that look like shares of the image; False where the image is small."""
    height, width = image_size
    if max(image_size) < SMALL_IMAGE:
        return False
    warn_caller(
        f"{what} {_as_text(numbers)} lies in [0, 1], and the image is {width} pixels wide and "
        f"{height} high. Coordinates are taken as pixels: if these are shares of the image, "
        f"multiply x by {width} and y by {height}.",
        InputWarning,
    )
    return True


def _as_text(numbers: NDArray[np.float64]) -> str:
    return f"({', '.join(f'{number:g}' for number in numbers)})"


def _check_count(count: int, name: str) -> None:
    """Refuse more prompts than one call may have."""
    if count > MAX_PROMPTS_PER_CALL:
        raise PromptError(
            f"there are {count:,} prompts in {name}; at most {MAX_PROMPTS_PER_CALL:,} are answered "
            "at once. Ask in several calls."
        )


def _as_size(mask_size: int | tuple[int, int]) -> tuple[int, int]:
    return (mask_size, mask_size) if isinstance(mask_size, int) else mask_size


def _parse_masks(mask: ArrayLike, mask_size: tuple[int, int]) -> list[NDArray[np.float32]]:
    height, width = mask_size
    expected = f"logits of {height}x{width}, or B of them, from `low_res_logits`"
    array = _as_finite(mask, "mask", expected, "iuf", np.float32)  # a bool mask holds no logits
    if array.ndim not in {2, 3} or array.shape[-2:] != mask_size:
        raise PromptError(f"mask must be {expected}; got shape {array.shape}.")
    rows = array.reshape(-1, height, width)  # hxw -> 1xhxw
    _check_count(len(rows), "mask")
    return list(rows)


def _common_count(**kinds: Sequence[Any] | None) -> int:
    """Return the number of prompts, on which all the kinds that are given must agree."""
    counts = {name: len(items) for name, items in kinds.items() if items is not None}
    if not counts:
        raise PromptError("there is no prompt. Give points, boxes or a mask.")
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{count} from {name}" for name, count in counts.items())
        raise PromptError(
            f"prompts must pair one to one, but there are {text}. Give as many of each, or ask "
            "in several calls."
        )
    return next(iter(counts.values()))


def _split_prompts(value: Any, ndim: int, name: str, expected: str) -> list[NDArray[np.float64]]:
    """Split `value` into one array per prompt; `ndim` is the number of dimensions of one."""
    try:
        dimensions = np.asarray(value).ndim
    except ValueError as error:  # arrays of different lengths, one per prompt
        if not isinstance(value, Sequence):
            raise PromptError(f"{name} must be {expected}; numpy says: {error}.") from error
        _check_count(len(value), name)
        return [_as_finite(item, name, expected) for item in value]
    except (TypeError, RuntimeError, OverflowError):  # the conversion below reports these
        dimensions = ndim
    array = _as_finite(value, name, expected)
    if dimensions != ndim + 1:
        return [array]
    _check_count(len(array), name)
    return list(array)


def _as_finite(
    value: Any,
    name: str,
    expected: str,
    kinds: str = "biuf",
    dtype: type[np.floating[Any]] = np.float64,
) -> NDArray[Any]:
    """Convert to `dtype`; raises PromptError on anything but finite real numbers.

    Finite numbers beyond the range of float32 become its largest.
    """
    array = as_array(value, name, expected)
    if array.dtype.kind not in kinds:
        raise PromptError(f"{name} must be {expected}, of real numbers; got {array.dtype} values.")
    with np.errstate(over="ignore"):  # a number too large for `dtype` becomes infinite
        converted = array.astype(dtype, copy=False)
    if np.isfinite(converted).all():
        return converted
    if dtype is np.float64 or not np.isfinite(array).all():
        raise PromptError(f"{name} hold NaN or infinity. Give finite numbers only.")
    return np.clip(converted, np.finfo(dtype).min, np.finfo(dtype).max)


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """B prompts of equally many tokens; the arrays are called as the decoder's inputs are.

    `rows`: B, the indices of these prompts among all; `point_coords`: BxNx2 float32, (x, y) in
    pixels of the encoder's input; `point_labels`: BxN float32, 1 foreground, 0 background, 2 and 3
    the corners of a box, -1 padding; `mask_input`: Bx1xhxw float32 logits; `has_mask_input`: B
    float32, 1 or 0.
    """

    rows: NDArray[np.intp]
    point_coords: NDArray[np.float32]
    point_labels: NDArray[np.float32]
    mask_input: NDArray[np.float32]
    has_mask_input: NDArray[np.float32]

    def feeds(self) -> dict[str, NDArray[np.float32]]:
        """Return the decoder's inputs by name, without the image embeddings."""
        return {
            "point_coords": self.point_coords,
            "point_labels": self.point_labels,
            "mask_input": self.mask_input,
            "has_mask_input": self.has_mask_input,
        }


def batch_prompts(
    prompts: Sequence[Prompt],
    letterbox: Letterbox,
    mask_size: int | tuple[int, int],
    max_prompts: int = MAX_PROMPTS,
) -> Iterator[PromptBatch]:
    """Group prompts by their number of tokens and cut the groups into batches.

    Only prompts of equally many tokens share a batch: every token takes part in the decoder's
    attention, so padding a short prompt to the length of a long one would change its mask. A
    prompt without a box ends in one padding point, (0, 0) with label -1; a mask alone has no
    tokens (segment-anything, `PromptEncoder`). A batch has at most `max_prompts` prompts, never
    more than `MAX_PROMPTS`; a batch of two or more has at most `MAX_TOKENS` tokens.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for row, prompt in enumerate(prompts):
        groups[_token_count(prompt)].append(row)
    for tokens, rows in groups.items():
        size = max(1, min(max_prompts, MAX_PROMPTS, MAX_TOKENS // max(1, tokens)))
        for start in range(0, len(rows), size):
            yield _make_batch(prompts, rows[start : start + size], letterbox, _as_size(mask_size))


def _token_count(prompt: Prompt) -> int:
    if prompt.box is not None:
        return len(prompt.points) + len(BOX_CORNERS)
    return len(prompt.points) + len(PADDING) if len(prompt.points) else 0


def _make_batch(
    prompts: Sequence[Prompt], rows: list[int], letterbox: Letterbox, mask_size: tuple[int, int]
) -> PromptBatch:
    chosen = [prompts[row] for row in rows]
    tokens = [_tokens(prompt, letterbox) for prompt in chosen]
    mask_input = np.zeros((len(rows), 1, *mask_size), np.float32)
    for place, prompt in enumerate(chosen):
        if prompt.mask is not None:
            mask_input[place, 0] = prompt.mask
    return PromptBatch(
        rows=np.asarray(rows, np.intp),
        point_coords=np.stack([coords for coords, _ in tokens]),
        point_labels=np.stack([labels for _, labels in tokens]),
        mask_input=mask_input,
        has_mask_input=np.asarray([prompt.mask is not None for prompt in chosen], np.float32),
    )


def _tokens(
    prompt: Prompt, letterbox: Letterbox
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return Nx2 coordinates in the input frame and N labels: points, then corners or padding."""
    points = letterbox.to_input(prompt.points)
    if not _token_count(prompt):
        return points, np.zeros(0, np.float32)
    if prompt.box is None:
        last, labels = np.zeros((1, 2), np.float32), PADDING
    else:
        corners = prompt.box.reshape(2, 2)  # 4 -> 2x2, upper left and lower right
        last, labels = letterbox.to_input(corners), BOX_CORNERS
    coords = np.concatenate([points, last]).astype(np.float32)
    return coords, np.concatenate([prompt.labels, labels]).astype(np.float32)
