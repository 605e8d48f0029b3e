"""Sizes of axes: numbers, and polynomials of the sizes that are known only at run time.

An exported graph computes with its dynamic axes: it adds tokens to points, and multiplies prompts
by heads. Sums, differences, products and exact quotients of such sizes are polynomials with whole
coefficients. Their bounds follow from the most that the runtime sends in one run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from samclip.engines.limits import (
    MAX_CROPS,
    MAX_PHOTO_SIDE,
    MAX_POINTS,
    MAX_PROMPTS,
    MAX_REGIONS,
    MAX_TEXTS,
    MAX_TOKENS,
    PROMPTS_PER_BATCH,
)

Range = tuple[int, int]
BOX_CORNERS = 2  # a box is two points more
# What one run may get, by the names of axes. One prompt may have many points, many have few each.
RUNS: tuple[Mapping[str, Range], ...] = (
    {"prompts": (1, 1), "points": (0, MAX_POINTS + BOX_CORNERS)},
    {"prompts": (1, MAX_PROMPTS), "points": (0, MAX_TOKENS // 2)},
)
AXES: Mapping[str, Range] = {
    "texts": (1, PROMPTS_PER_BATCH),
    "regions": (1, MAX_REGIONS),
    "crops": (1, MAX_CROPS),
    "vocabulary": (1, MAX_TEXTS),
    "height": (1, MAX_PHOTO_SIDE),
    "width": (1, MAX_PHOTO_SIDE),
}
OTHER: Range = (1, MAX_TEXTS)  # axes of any other name: the most that the runtime ever sends
# The axes of inputs that the runtime feeds: a name in the place of a size means what it says.
PROMPTED = ("prompts", "points")
DYNAMIC: Mapping[str, tuple[str, ...]] = {
    "point_coords": PROMPTED,
    "point_labels": PROMPTED,
    "mask_input": PROMPTED[:1],
    "has_mask_input": PROMPTED[:1],
    "tokens": ("texts",),
    "boxes": ("regions",),
    "low_res_masks": ("regions",),
    "text": ("vocabulary",),
    "low_res_mask": (),
    "rows": ("height",),
    "columns": ("width",),
    "image": (),
    "image_u8": (),
    "image_size": (),
    "images": ("crops",),
    "image_embeddings": (),
    "image_tokens": (),
    "image_keys": (),
    "image_values": (),
    "image_queries": (),
    "backbone_features": (),
    "name_features": (),
    "token_mask": (),
}
LARGEST = 2**63  # what engines compute with whole numbers of 64 bits, they compute modulo this
CACHED = 4096  # shapes whose bounds are remembered: graphs have few different ones
MAX_TERMS = 16
MAX_DEGREE = 6

Monomial = tuple[str, ...]  # names of sizes, sorted; () is the number


@dataclass(frozen=True)
class Size:
    """A polynomial that is not a number: coefficients by monomial, in a fixed order."""

    terms: tuple[tuple[Monomial, int], ...]

    def __add__(self, other: Dim) -> Dim:
        """Add."""
        return _sum(self.terms, _terms(other))

    __radd__ = __add__

    def __neg__(self) -> Dim:
        """Negate."""
        return _make({monomial: -count for monomial, count in self.terms})

    def __sub__(self, other: Dim) -> Dim:
        """Subtract."""
        return self + -other

    def __rsub__(self, other: int) -> Dim:
        """Subtract from a number."""
        return -self + other

    def __mul__(self, other: Dim) -> Dim:
        """Multiply."""
        found: dict[Monomial, int] = {}
        for first, a in self.terms:
            for second, b in _terms(other):
                monomial = tuple(sorted(first + second))
                found[monomial] = found.get(monomial, 0) + a * b
        return _make(found)

    __rmul__ = __mul__

    def __str__(self) -> str:
        """Write it as a sum of products."""
        parts = []
        for monomial, count in reversed(self.terms):
            factors = ([str(count)] if count != 1 or not monomial else []) + list(monomial)
            parts.append("*".join(factors))
        return " + ".join(parts)


Dim = int | Size


def symbol(name: str) -> Size:
    """Return the size that is called `name`."""
    return Size((((name,), 1),))


def product(dims: Iterable[Dim]) -> Dim:
    """Return the product of sizes, 1 of none."""
    number: int = 1
    found: Dim = 1
    for dim in dims:
        if isinstance(dim, int):
            number *= dim
        else:
            found = found * dim
    return found * number


def quotient(dividend: Dim, divisor: Dim) -> Dim | None:
    """Return the exact quotient; None where there is none."""
    if isinstance(dividend, int) and isinstance(divisor, int):
        return dividend // divisor if divisor and dividend % divisor == 0 else None
    left = dict(_terms(dividend))
    lead, count = max(_terms(divisor), default=((), 0), key=_order)
    if not count:
        return None
    found: dict[Monomial, int] = {}
    for _ in range(MAX_TERMS + 1):
        if not left:
            return _make(found)
        monomial, coefficient = max(left.items(), key=_order)
        rest = _without(monomial, lead)
        if rest is None or coefficient % count:
            return None
        factor = coefficient // count
        found[rest] = found.get(rest, 0) + factor
        for other, times in _terms(divisor):
            key = tuple(sorted(rest + other))
            left[key] = left.get(key, 0) - factor * times
            if not left[key]:
                del left[key]
    return None


@lru_cache(CACHED)
def most(dims: tuple[Dim, ...]) -> int:
    """Return the largest product that these sizes can have in one run."""
    number = 1
    dynamic = []
    for dim in dims:
        if isinstance(dim, int):
            number *= dim
        else:
            dynamic.append(dim)
    if not dynamic:
        return number
    return number * max(
        math.prod(_bound(dim, run)[1] for dim in dynamic) for run in range(len(RUNS))
    )


def stays_within(dim: Dim, limit: int) -> bool:
    """Whether a size is less than `limit`, and no less than `-limit`, in every run."""
    bounds = [(dim, dim)] if isinstance(dim, int) else [_bound(dim, r) for r in range(len(RUNS))]
    return all(-limit <= low and high < limit for low, high in bounds)


def least(dim: Dim) -> int:
    """Return the smallest number that a size can be."""
    return dim if isinstance(dim, int) else min(_bound(dim, run)[0] for run in range(len(RUNS)))


@lru_cache(CACHED)
def _bound(dim: Size, run: int) -> Range:
    low = high = 0
    for monomial, count in dim.terms:
        ranges = [RUNS[run].get(name) or AXES.get(name) or OTHER for name in monomial]
        ends = [count * math.prod(r[0] for r in ranges), count * math.prod(r[1] for r in ranges)]
        low += min(ends)
        high += max(ends)
    return low, high


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(dim, Size):
        return dim.terms
    return (((), dim),) if dim else ()


def _sum(first: tuple[tuple[Monomial, int], ...], second: tuple[tuple[Monomial, int], ...]) -> Dim:
    found = dict(first)
    for monomial, count in second:
        found[monomial] = found.get(monomial, 0) + count
    return _make(found)


def _make(terms: Mapping[Monomial, int]) -> Dim:
    kept = {monomial: count for monomial, count in terms.items() if count}
    if not kept:
        return 0
    if len(kept) == 1 and () in kept:
        return kept[()]
    if (
        len(kept) > MAX_TERMS
        or max(map(len, kept)) > MAX_DEGREE
        or max(map(abs, kept.values())) >= LARGEST
    ):
        raise ValueError("a size in it is computed in a way that exports never need")
    return Size(tuple(sorted(kept.items(), key=_order)))


def _order(term: tuple[Monomial, int]) -> tuple[int, Monomial]:
    return len(term[0]), term[0]


def _without(monomial: Monomial, factor: Monomial) -> Monomial | None:
    """Return a monomial divided by another; None where it does not divide."""
    left = list(monomial)
    for name in factor:
        if name not in left:
            return None
        left.remove(name)
    return tuple(left)
