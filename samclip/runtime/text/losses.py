"""Text lost on its way to the text encoder, and names that it cannot tell apart.

A tokenizer drops what it does not know, and a text encoder reads only so many tokens. What is left
is answered as if it were the whole name. Where nothing is left of a name that is an error; where
something is, or where two names have the same embedding, a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samclip.errors import InputWarning, VocabularyError, warn_caller
from samclip.runtime.text.templates import PLACEHOLDER
from samclip.runtime.text.tokenizer import Tokenizer

SHOWN = 3  # names that a message lists
# Rows nearer to each other are one text that was computed in two batches, not two texts.
SAME_DISTANCE = 1e-5
NEIGHBOURS = 8  # in the order of places along a direction: so many rows are rarely so near


@dataclass(frozen=True)
class Loss:
    """Parts of a name, or of the templates around it, without a token; and whether it is cut."""

    parts: tuple[str, ...] = ()
    is_cut: bool = False

    def __bool__(self) -> bool:
        return bool(self.parts) or self.is_cut


NO_LOSS = Loss()


def find_unknown_parts(
    names: Sequence[str], templates: Sequence[str], tokenizer: Tokenizer
) -> dict[str, tuple[str, ...]]:
    """Find the parts of each name that no token stands for; those of the templates count for all.

    Raises VocabularyError for names of which nothing is left, and for a template that leaves no
    room for a name.
    """
    around: list[str] = []
    for template in templates:
        before = tokenizer.tokenize([template.partition(PLACEHOLDER)[0]])[1][0]
        if before >= tokenizer.context_length:
            around_text = tokenizer.context_length - tokenizer.room
            raise VocabularyError(
                f"the template {template!r:.60} has {before - around_text} tokens before the name, "
                f"and the text encoder takes {tokenizer.room}: nothing is left of a name. "
                "Shorten it."
            )
        around += tokenizer.read(template.replace(PLACEHOLDER, " ")).lost
    found, empty = {}, []
    for name in names:
        reading = tokenizer.read(name)
        if not reading.known:
            empty.append(name)
        found[name] = (*reading.lost, *around)
    if empty:
        raise VocabularyError(
            f"the bundle's tokenizer knows nothing of {_list(empty)}: all such names would get the "
            "same embedding. Write them in a language that the text encoder was trained with, "
            "English for most, or choose a bundle whose text encoder knows this script."
        )
    return found


def warn_losses(losses: Mapping[str, Loss], context_length: int) -> None:
    """Warn with InputWarning about the names that lost something."""
    unknown = {name: loss.parts for name, loss in losses.items() if loss.parts}
    if unknown:
        parts = dict.fromkeys(part for lost in unknown.values() for part in lost)
        warn_caller(
            f"the bundle's tokenizer has no token for {_list(list(parts))}, which counts for "
            f"nothing in {_list(list(unknown))}. Write it in other words.",
            InputWarning,
        )
    if cut := [name for name, loss in losses.items() if loss.is_cut]:
        warn_caller(
            f"too long for the text encoder, which takes {context_length} tokens, start, end and "
            f"template counted: {_list(cut)}. What is beyond is cut off. Shorten the names.",
            InputWarning,
        )


def warn_same(
    names: Sequence[str],
    texts: Sequence[str],
    embeddings: NDArray[np.float32],
    first_rows: NDArray[np.int64] | None = None,
) -> None:
    """Warn with InputWarning about names that have the same embedding, so share a probability.

    `embeddings`: RxD, unit rows, those of R `texts`; the texts of each of K names, its synonyms
    among them, begin at its entry of `first_rows`. Equal texts of one name do no harm.
    """
    owners = np.arange(len(embeddings))
    if first_rows is not None:
        owners = np.searchsorted(first_rows, owners, side="right") - 1
    alike: dict[tuple[str, str], None] = {}
    different: dict[tuple[str, str], None] = {}
    for first, later in find_same_rows(embeddings):
        if owners[first] != owners[later]:
            kind = alike if _fold(texts[first]) == _fold(texts[later]) else different
            kind[names[owners[first]], names[owners[later]]] = None
    if alike:
        warn_caller(
            f"names that are the same to the text encoder share one probability: {_pairs(alike)}. "
            "Give each thing one name, and no other thing's name as a synonym.",
            InputWarning,
        )
    if different:
        warn_caller(
            "different names got the same embedding and cannot be kept apart: "
            f"{_pairs(different)}. They differ only where the text encoder sees nothing: in what "
            "is cut off, or has no token. Shorten them, or write them in other words.",
            InputWarning,
        )


def find_same_rows(rows: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Find rows of RxD that are equal but for rounding: pairs (first, later), each later once."""
    count, width = rows.shape
    if count < 2:
        return []
    # Equal rows are neighbours in the order of their places along one direction. Along a second one
    # few other neighbours are as near: that leaves few pairs whose distances must be computed.
    angles = np.arange(width, dtype=np.float32)
    places, others = rows @ np.cos(angles), rows @ np.sin(angles)
    most = SAME_DISTANCE * width**0.5
    order = np.argsort(places, kind="stable")
    root = np.arange(count)  # of each row, the first row that equals it
    for step in range(1, min(NEIGHBOURS, count - 1) + 1):
        before, after = order[:-step], order[step:]
        near = places[after] - places[before] <= most
        if not near.any():
            break
        near &= np.abs(others[after] - others[before]) <= most
        before, after = before[near], after[near]
        distances = np.linalg.norm(rows[before] - rows[after], axis=1)
        same = distances <= SAME_DISTANCE
        for a, b in zip(before[same].tolist(), after[same].tolist(), strict=True):
            low, high = sorted((_find(root, a), _find(root, b)))
            root[high] = low
    if (root == np.arange(count)).all():
        return []
    firsts = [_find(root, row) for row in range(count)]
    return [(first, row) for row, first in enumerate(firsts) if first != row]


def _find(root: NDArray[np.int64], row: int) -> int:
    while root[row] != row:
        root[row] = row = root[root[row]]
    return int(row)


def _fold(text: str) -> str:
    return " ".join(text.split()).casefold()


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    listed = [f"{_short(a)} and {_short(b)}" for a, b in pairs]
    more = f"; and {len(listed) - SHOWN:,} more pairs" if len(listed) > SHOWN else ""
    return "; ".join(listed[:SHOWN]) + more


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(_short(name) for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")


def _short(name: str) -> str:
    """Quote a name; of a long one show both ends, since long names often differ in the last."""
    shown = name if len(name) <= 60 else f"{name[:28]}...{name[-28:]}"
    return repr(shown)
