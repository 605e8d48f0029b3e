from __future__ import annotations

import pytest

from tools.dense_names import count_costs, count_crops, two_passes_table


@pytest.mark.parametrize(
    ("name", "width", "side"), [("radio-v3-b", 768, 512), ("radio-v3-l", 1024, 256)]
)
def test_the_steps_are_counted_as_their_formulas_say(name: str, width: int, side: int) -> None:
    costs = count_costs(name, side)
    patches = (side // 16) ** 2
    tokens = 8 + patches
    attention, projection, mlp = 2 * tokens**2 * width, tokens * width**2, 8 * tokens * width**2
    assert costs.recursion == attention + projection + mlp
    assert costs.aggregation == 2 * patches**2 * width
    depth = {"radio-v3-b": 12, "radio-v3-l": 24}[name]
    blocks = depth * (attention + 4 * projection + mlp)
    assert costs.trunk == blocks + patches * 768 * width


def test_crops_cover_the_photo() -> None:
    assert [count_crops(side) for side in (336, 337, 560, 576, 672, 1024)] == [1, 4, 4, 9, 9, 25]
    assert two_passes_table("radio-v3-b", (336,)).row_count == 1
