from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from samclip.runtime.pixels.image import Letterbox
from samclip.runtime.pixels.prompts import MAX_PROMPTS, MAX_TOKENS, Prompt, batch_prompts

LETTERBOX = Letterbox.fit((100, 200), 64)


def prompt(points: int, box: bool = False, mask: bool = False) -> Prompt:
    coords = np.arange(2.0 * points).reshape(points, 2)
    return Prompt(
        coords,
        np.ones(points),
        np.array([10.0, 20, 30, 40]) if box else None,
        np.full((16, 16), 5, np.float32) if mask else None,
    )


def test_a_prompt_without_a_box_ends_in_a_padding_point() -> None:
    (batch,) = batch_prompts([prompt(2)], LETTERBOX, 16)
    np.testing.assert_allclose(batch.point_coords, [[[0, 0.32], [0.64, 0.96], [0, 0]]], rtol=1e-6)
    assert batch.point_labels.tolist() == [[1, 1, -1]]
    assert batch.has_mask_input.tolist() == [0]


def test_a_box_ends_in_its_corners() -> None:
    (batch,) = batch_prompts([prompt(1, box=True, mask=True)], LETTERBOX, 16)
    np.testing.assert_allclose(
        batch.point_coords, [[[0, 0.32], [3.2, 6.4], [9.6, 12.8]]], rtol=1e-6
    )
    assert batch.point_labels.tolist() == [[1, 2, 3]]
    assert batch.has_mask_input.tolist() == [1]
    assert (batch.mask_input == 5).all()


def test_a_mask_alone_has_no_token() -> None:
    (batch,) = batch_prompts([prompt(0, mask=True)], LETTERBOX, 16)
    assert batch.point_coords.shape == (1, 0, 2)
    assert batch.point_labels.shape == (1, 0)


def test_all_inputs_are_float32() -> None:
    (batch,) = batch_prompts([prompt(1)], LETTERBOX, 16)
    assert {array.dtype for array in batch.feeds().values()} == {np.dtype(np.float32)}
    assert batch.mask_input.shape == (1, 1, 16, 16)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.booleans()), max_size=40),
    st.integers(1, 8),
)
def test_every_prompt_comes_once_with_its_own_tokens(rows: list, limit: int) -> None:
    prompts = [prompt(*row) for row in rows]
    seen = []
    for batch in batch_prompts(prompts, LETTERBOX, 16, limit):
        assert 1 <= len(batch.rows) <= limit
        for place, row in enumerate(batch.rows):
            count = len(prompts[row].points)
            tail = [2, 3] if prompts[row].box is not None else [-1]
            assert batch.point_labels[place].tolist() == [1] * count + tail
            assert batch.has_mask_input[place] == (prompts[row].mask is not None)
        seen.extend(batch.rows.tolist())
    assert sorted(seen) == list(range(len(prompts)))


def test_batches_are_bounded_in_prompts_and_tokens() -> None:
    sizes = [len(b.rows) for b in batch_prompts([prompt(1)] * 100, LETTERBOX, 16)]
    assert max(sizes) == MAX_PROMPTS
    long = [b.point_labels.size for b in batch_prompts([prompt(200)] * 5, LETTERBOX, 16)]
    assert max(long) <= MAX_TOKENS
    assert [len(b.rows) for b in batch_prompts([prompt(4000)] * 2, LETTERBOX, 16)] == [1, 1]
