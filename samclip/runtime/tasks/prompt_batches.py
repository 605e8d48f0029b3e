"""Prompts as the mask decoder takes them: the input frame, tokens, bounded batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samclip.runtime.images.letterbox import Letterbox
from samclip.runtime.tasks.prompts import Prompt

# Bounds per run of the decoder: its memory grows with prompts and tokens, its speed per prompt
# hardly with either beyond these.
MAX_PROMPTS = 16
MAX_TOKENS = 512

BOX_CORNERS = [2.0, 3.0]
PADDING = [-1.0]


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """B prompts of equally many tokens, with the names of the decoder's inputs.

    `rows`: B, their places among all prompts. `point_coords`: BxNx2 float32, (x, y) in pixels of
    the resized input; `point_labels`: BxN float32, 1 foreground, 0 background, 2 and 3 the
    corners of a box, -1 padding; `mask_input`: Bx1xhxw float32 logits; `has_mask_input`: B
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
    mask_size: int,
    max_prompts: int = MAX_PROMPTS,
) -> Iterator[PromptBatch]:
    """Group prompts by their number of tokens and cut the groups into batches.

    Only prompts of equally many tokens share a batch: every token takes part in the decoder's
    attention, so padding a short prompt to the length of a long one would change its mask. A
    prompt without a box ends in one padding point, (0, 0) with label -1; a mask alone has no
    token at all (segment-anything, `PromptEncoder`). A batch has at most `max_prompts` prompts,
    never more than `MAX_PROMPTS`, and beyond one prompt at most `MAX_TOKENS` tokens.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for row, prompt in enumerate(prompts):
        groups[_token_count(prompt)].append(row)
    for tokens, rows in groups.items():
        size = max(1, min(max_prompts, MAX_PROMPTS, MAX_TOKENS // max(1, tokens)))
        for start in range(0, len(rows), size):
            yield _make_batch(prompts, rows[start : start + size], letterbox, mask_size)


def _token_count(prompt: Prompt) -> int:
    if prompt.box is not None:
        return len(prompt.points) + len(BOX_CORNERS)
    return len(prompt.points) + len(PADDING) if len(prompt.points) else 0


def _make_batch(
    prompts: Sequence[Prompt], rows: list[int], letterbox: Letterbox, mask_size: int
) -> PromptBatch:
    chosen = [prompts[row] for row in rows]
    tokens = [_tokens(prompt, letterbox) for prompt in chosen]
    mask_input = np.zeros((len(rows), 1, mask_size, mask_size), np.float32)
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
