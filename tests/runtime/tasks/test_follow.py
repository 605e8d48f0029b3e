"""Objects followed by tokens: made embeddings, and the shipped bundle on a photo that moves."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import samclip
from samclip.errors import PromptError
from samclip.runtime.pixels.image import Letterbox
from samclip.runtime.pixels.mask_ops import PackedMasks, mask_box
from samclip.runtime.pixels.prompts import PromptBatch, batch_prompts
from samclip.runtime.results.masks import Masks
from samclip.runtime.tasks.follow import follow, follow_masks, region_embeddings, remember

GRID, SIDE, IMAGE = 32, 128, 512  # tokens, logits and pixels along a side


class TokenFeatures:
    """Features whose tokens look like the object where it is; the decoder draws its prompt.

    `seen`: whether the object is in the picture at all. `contrary`: the decoder draws something
    else. `cells`: tokens along a side, in which x, y and side are.
    """

    mask_size = (SIDE, SIDE)

    def __init__(
        self, x: int, y: int, side: int = 6, size: tuple[int, int] = (384, 512), seen: bool = True,
        contrary: bool = False, cells: int = GRID,
    ) -> None:  # fmt: skip
        self.letterbox = Letterbox.fit(size, IMAGE)
        generator = np.random.default_rng(3)
        ground = generator.normal(0, 1, (8, cells, cells)).astype(np.float32)
        look = np.zeros(8, np.float32)
        look[0] = 12
        if seen:
            ground[:, y : y + side, x : x + side] = look[:, None, None]
        self._embedding = ground[None]
        self._contrary = contrary
        self.has_multimask = True

    def image_embeddings(self) -> NDArray[np.float32]:
        return self._embedding

    def batches(self, prompts: Any, letterbox: Letterbox | None = None) -> Iterator[PromptBatch]:
        return batch_prompts(prompts, letterbox or self.letterbox, self.mask_size)

    def decode(self, batch: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        drawn = batch.mask_input.repeat(4, axis=1)
        if self._contrary:
            drawn = np.full_like(drawn, -5)
            drawn[..., :4, :4] = 5
        return np.full((len(drawn), 4), 0.9, np.float32), drawn


def truth(x: int, y: int, side: int = 6, size: tuple[int, int] = (384, 512)) -> NDArray[np.bool_]:
    """The pixels of the object's tokens."""
    scale = max(size) / GRID
    mask = np.zeros(size, np.bool_)
    edges = [round(edge * scale) for edge in (y, y + side, x, x + side)]
    mask[edges[0] : edges[1], edges[2] : edges[3]] = True
    return mask


def as_masks(*masks: NDArray[np.bool_]) -> Masks:
    size = masks[0].shape
    return Masks(
        packed=PackedMasks.pack(masks, (size[0], size[1])),
        scores=np.ones(len(masks), np.float32),
        boxes=np.asarray([mask_box(mask) for mask in masks]),
        prompt_index=np.arange(len(masks)),
        image=np.zeros((*size, 3), np.uint8),
    )


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(np.count_nonzero(one & other) / np.count_nonzero(one | other))


def step(features: TokenFeatures, memory: Any) -> Masks:
    height, width = features.letterbox.original_size
    return follow(features, memory, np.zeros((height, width, 3), np.uint8))  # type: ignore[arg-type]


def begin(x: int = 4, y: int = 4) -> Any:
    return remember(TokenFeatures(x, y), as_masks(truth(x, y)))  # type: ignore[arg-type]


def test_an_object_is_followed_where_it_moves() -> None:
    memory = begin()
    for shift in range(1, 12):
        found = step(TokenFeatures(4 + shift, 4), memory)
        assert iou(found.masks[0], truth(4 + shift, 4)) > 0.9  # borders lie within a token
        assert found.scores[0] == pytest.approx(0.9)
    assert memory.lost == (0,)


def test_a_hidden_object_is_lost_and_found_again_farther_away() -> None:
    memory = begin()
    for number in range(1, 4):
        hidden = step(TokenFeatures(4, 4, seen=False), memory)
        assert (hidden.areas[0], hidden.scores[0], memory.lost) == (0, 0, (number,))
    found = step(TokenFeatures(22, 14), memory)
    assert iou(found.masks[0], truth(22, 14)) > 0.9
    assert memory.lost == (0,)


def test_a_decoder_that_draws_something_else_is_not_believed() -> None:
    found = step(TokenFeatures(6, 4, contrary=True), begin())
    assert iou(found.masks[0], truth(6, 4)) > 0.9
    assert found.scores[0] < 0.4


def test_the_picture_may_change_its_size() -> None:
    memory = begin()
    found = step(TokenFeatures(7, 5, size=(768, 1024)), memory)
    assert found.masks.shape == (1, 768, 1024)
    assert iou(found.masks[0], truth(7, 5, size=(768, 1024))) > 0.9


def test_the_encoders_input_may_change_its_size() -> None:
    """A smaller input has fewer tokens, and the object is looked for where it was."""
    memory = begin(26, 16)
    for shift in (0, 2, 0):
        coarse = TokenFeatures((26 - shift) // 2, 8, side=3, cells=GRID // 2)
        assert iou(step(coarse, memory).masks[0], truth(26 - shift, 16)) > 0.85  # half the tokens
    found = step(TokenFeatures(25, 16), memory)
    assert iou(found.masks[0], truth(25, 16)) > 0.9
    assert memory.lost == (0,)


def test_memory_stays_as_large_as_two_looks() -> None:
    memory = begin()
    for shift in range(40):
        step(TokenFeatures(4 + shift % 20, 4), memory)
    (known,) = memory._objects
    assert (
        sum(look.tokens.nbytes for look in (known.first, known.last)) < 2 * GRID * GRID * 8 * 4 + 1
    )
    memory.forget(0)
    assert len(step(TokenFeatures(4, 4), memory)) == len(memory) == 0


def test_masks_alone_are_prompts_at_any_size() -> None:
    features: Any = TokenFeatures(4, 4)
    previous = as_masks(truth(4, 4, size=(768, 1024)), np.zeros((768, 1024), np.bool_))
    found = follow_masks(features, previous, np.zeros((384, 512, 3), np.uint8))
    assert iou(found.masks[0], truth(4, 4)) > 0.9
    assert (found.areas[1], found.scores[1]) == (0, 0)


def test_embeddings_of_regions_are_alike_for_the_same_object() -> None:
    here: Any = TokenFeatures(4, 4)
    there: Any = TokenFeatures(20, 12)
    empty = np.zeros((384, 512), np.bool_)
    one = region_embeddings(here, PackedMasks.pack([truth(4, 4), truth(20, 2), empty], (384, 512)))
    other = region_embeddings(there, PackedMasks.pack([truth(20, 12)], (384, 512)))
    assert one[0] @ other[0] > 0.99
    assert one[1] @ other[0] < 0.7
    assert not one[2].any()


def test_an_empty_mask_cannot_be_remembered() -> None:
    with pytest.raises(PromptError, match="mask 0 is empty"):
        remember(TokenFeatures(4, 4), as_masks(np.zeros((384, 512), np.bool_)))  # type: ignore[arg-type]


def test_a_scene_takes_a_memory_or_masks_alone(photo: NDArray[np.uint8]) -> None:
    """The shipped bundle follows the cup of a photo that moves by 40 pixels."""
    box = (172, 17, 410, 308)
    with samclip.load(threads=1) as model:
        with model.encode(photo[:320, :480]) as first:
            cup = first.segment(boxes=[box])
            memory = first.remember(cup)
        with model.encode(photo[40:360, 40:520]) as second:
            found = second.follow(memory, ["cup", "cat"])
            moved = cup.masks[0][40:, 40:]
            assert iou(found.masks[0][:280, :440], moved) > 0.95  # 0.984 on x86
            assert found.names == ("cup",)
            assert found.timings["encode"] > 0
            with pytest.raises(samclip.InputError, match="remember"):
                second.follow(SimpleNamespace())  # type: ignore[arg-type]
