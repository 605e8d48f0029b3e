"""Arithmetic with sizes that are known only at run time, and their bounds."""

from __future__ import annotations

import pytest

from samclip.engines.graphs.sizes import Dim, Size, least, most, product, quotient, symbol
from samclip.engines.limits import MAX_POINTS, MAX_PROMPTS, MAX_TEXTS

PROMPTS, POINTS = symbol("prompts"), symbol("points")


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (PROMPTS + 1, "prompts + 1"),
        (1 - PROMPTS + PROMPTS, "1"),
        ((PROMPTS + 2) * 3 - 6, "3*prompts"),
        (POINTS * PROMPTS + PROMPTS * POINTS, "2*points*prompts"),
        (product([8, PROMPTS, POINTS + 5]), "8*points*prompts + 40*prompts"),
        (quotient(PROMPTS * (POINTS + 5) * 256, (POINTS + 5) * 32), "8*prompts"),
        (quotient(PROMPTS * POINTS + PROMPTS, POINTS + 1), "prompts"),
        (quotient(PROMPTS, 2), "None"),
        (quotient(PROMPTS + 1, POINTS), "None"),
        (quotient(7, 0), "None"),
    ],
)
def test_arithmetic(made: Dim | None, text: str) -> None:
    assert str(made) == text
    assert isinstance(made, Size) == any(name in text for name in ("prompts", "points"))


def test_bounds_are_of_runs_that_can_be() -> None:
    """Many prompts have few points each."""
    assert most((PROMPTS, 4)) == 4 * MAX_PROMPTS
    assert most((POINTS,)) == MAX_POINTS + 2
    assert most((PROMPTS, POINTS)) < MAX_PROMPTS * MAX_POINTS
    assert most((symbol("of a stranger"),)) == MAX_TEXTS
    assert (least(POINTS), least(PROMPTS), least(PROMPTS - 2)) == (0, 1, -1)
    assert most((100 - PROMPTS,)) == 99  # where the fewest prompts give the most


def test_what_grows_without_end_is_refused() -> None:
    grown: Dim = PROMPTS
    with pytest.raises(ValueError, match="exports never need"):
        for _ in range(10):
            grown = grown * (grown + 1)
