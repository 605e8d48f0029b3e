"""The picture of all three answers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from samclip.runtime.pixels.mask_ops import PackedMasks
from samclip.runtime.pixels.prompts import Prompt
from samclip.runtime.results.captions import Label, write_labels
from samclip.runtime.results.classification import Classification, SemanticMap
from samclip.runtime.results.masks import Masks
from samclip.runtime.results.palette import colour
from samclip.runtime.results.poster import (
    INNER,
    PAPER,
    TRACK,
    WIDTH,
    Overview,
    area_shares,
    draw_heading,
    draw_poster,
    draw_ranking,
    draw_shares,
)

NAMES = ("cup", "spoon", "a name that is far too long to stand on a chip or next to a bar")


def overview(size: tuple[int, int], trained: bool = True) -> Overview:
    """The upper half is a cup, the lower a spoon."""
    image = np.full((*size, 3), 128, np.uint8)
    upper = np.zeros(size, np.bool_)
    upper[: size[0] // 2] = True
    masks = Masks(
        packed=PackedMasks.pack([upper, ~upper], size),
        scores=np.ones(2, np.float32),
        boxes=np.asarray([[0, 0, size[1], size[0]]] * 2, np.float32),
        prompt_index=np.arange(2),
        image=image,
        vocabulary=NAMES,
        class_ids=np.asarray([0, 1]),
        name_probabilities=np.asarray([0.75, 0.5], np.float32),
        trained_head=trained,
        prompts=(Prompt(np.zeros((0, 2)), np.zeros(0), np.asarray([1.0, 1, 5, 5])),) * 2,
    )
    semantic = SemanticMap(
        labels=np.where(upper, 0, 1).astype(np.int32),
        names=NAMES,
        scores=np.ones(size, np.float32),
        refined=True,
        trained_head=trained,
        image=image,
    )
    probabilities = np.asarray([0.6, 0.3, 0.1], np.float32)
    classification = Classification(
        names=NAMES,
        probabilities=probabilities,
        logits=np.log(probabilities),
        trained_head=trained,
        image=image,
    )
    return Overview(classification=classification, masks=masks, semantic=semantic)


def count(picture: NDArray[np.uint8], tint: tuple[int, int, int]) -> int:
    return int((picture == np.asarray(tint)).all(axis=-1).sum())


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (900, 1600), (3, 50), (50, 3), (1, 1)])
def test_any_photo_gives_a_picture_of_one_width(size: tuple[int, int]) -> None:
    picture = overview(size).draw()
    assert picture.shape[1:] == (WIDTH, 3)
    assert picture.dtype == np.uint8
    for edge in (picture[:, 0], picture[:, -1]):
        assert (edge == PAPER).all()


def test_a_name_has_one_colour_in_all_three_answers() -> None:
    whole = overview((40, 60))
    picture = whole.draw()
    nameless = replace(whole.masks, packed=PackedMasks.pack((), (40, 60)))[:0]
    parts = {
        "bars": draw_poster("", whole.classification, nameless, hidden(whole.semantic)),
        "masks": draw_poster("", flat(whole.classification), whole.masks, hidden(whole.semantic)),
        "map": draw_poster("", flat(whole.classification), nameless, whole.semantic),
    }
    for index in (0, 1):
        found = {part: count(drawn, colour(index)) for part, drawn in parts.items()}
        assert all(number > 300 for number in found.values()), found
        assert count(picture, colour(index)) > max(found.values())


def hidden(semantic: SemanticMap) -> SemanticMap:
    return replace(semantic, labels=np.full_like(semantic.labels, -1))


def flat(classification: Classification) -> Classification:
    """Of other names, so that the bars have other colours."""
    others = tuple(f"other {index}" for index in range(3))
    names = (*NAMES, *others)  # ranked last
    logits = np.asarray([-9, -9, -9, 1, 1, 1], np.float32)
    return replace(
        classification, names=names, logits=logits, probabilities=np.zeros(6, np.float32)
    )


def test_a_landscape_is_stacked_and_a_portrait_is_not() -> None:
    landscape, portrait = overview((300, 600)).draw(), overview((600, 300)).draw()
    assert landscape.shape[0] > 2 * INNER * 300 / 600  # masks and map, each as wide as the page
    assert portrait.shape[0] < 2 * INNER * 600 / 300


def test_names_that_mean_nothing_are_marked() -> None:
    trained, untrained = (overview((40, 60), state).draw() for state in (True, False))
    assert untrained.shape[0] > trained.shape[0]
    assert (untrained[-1] == (185, 28, 28)).all()
    assert (trained[-1] == PAPER).all()


def test_shares_are_of_all_pixels_the_largest_first() -> None:
    semantic = overview((40, 60)).semantic
    labels = semantic.labels.copy()
    labels[0] = -1  # a fortieth has no name
    assert area_shares(replace(semantic, labels=labels)) == {"spoon": 0.5, "cup": 0.475}


def test_bars_are_as_long_as_their_shares() -> None:
    strip = draw_ranking(
        [("cup", 0.5, "50%", (255, 0, 0)), ("spoon", 0.0, "0%", (0, 0, 255))], 160, 400
    )
    full = (strip == (255, 0, 0)).all(axis=-1).sum(axis=1).max()
    assert 195 <= full <= 205
    assert count(strip, TRACK) > 0
    assert count(strip, (0, 0, 255)) == 0


def test_chips_that_do_not_fit_go_to_the_next_line() -> None:
    entry = ("a rather long name", 0.1, "10%", (10, 20, 30))
    one, many = draw_shares([entry]), draw_shares([entry] * 9)
    assert one.shape == (64, INNER, 3)
    assert many.shape[0] > 3 * one.shape[0]
    assert draw_shares([]).shape == one.shape


def test_headings_take_their_width() -> None:
    assert draw_heading("segment", width=500).shape == (64, 500, 3)


def test_the_overview_is_plain_values() -> None:
    record = json.loads(json.dumps(overview((8, 8)).to_dict()))
    assert record["classify"]["best"] == "cup"
    assert [mask["name"] for mask in record["segment"]["masks"]] == ["cup", "spoon"]
    assert record["semantic"]["size"] == [8, 8]


def test_crumbs_of_the_map_have_no_name() -> None:
    whole = overview((100, 100))
    labels = whole.semantic.labels.copy()
    labels[0, :2] = 2  # 0.02 %: below a chip, and below the legend's 0 %
    semantic = replace(whole.semantic, labels=labels)
    without = draw_poster("", whole.classification, whole.masks, whole.semantic)
    assert draw_poster("", whole.classification, whole.masks, semantic).shape == without.shape


def test_an_empty_text_gets_no_chip() -> None:
    grey = np.full((50, 50, 3), 128, np.uint8)
    assert (write_labels(grey, [Label("", (25, 25), (1, 2, 3))]) == grey).all()
