"""Names as callers give them: lists of text, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from samclip.errors import VocabularyError, brief, did_you_mean

MAX_NAMES = 50_000  # with their synonyms: 154 MB of 768-d vectors
MAX_NAMES_CHARACTERS = 10_000_000  # of all of them together


def as_names(names: Iterable[object]) -> tuple[str, ...]:
    """Check that `names` are from 1 to MAX_NAMES str, not one str; raises VocabularyError."""
    result = _as_strings("names", names)
    if not result:
        raise VocabularyError("names is empty. Give at least one name.")
    return result


def _as_strings(what: str, given: Iterable[object]) -> tuple[str, ...]:
    if isinstance(given, str):
        raise VocabularyError(f"{what} must be a list; got one str. Write [{given[:40]!r}].")
    try:
        texts = iter(given)
    except TypeError as error:
        raise VocabularyError(
            f"{what} must be a list of str; got {type(given).__name__}."
        ) from error
    result = tuple(islice(texts, MAX_NAMES + 1))
    if len(result) > MAX_NAMES:
        raise VocabularyError(
            f"{what} has more than the {MAX_NAMES:,} texts that a vocabulary may have. Split it, "
            "or leave some out."
        )
    wrong = [text for text in result if not isinstance(text, str)]
    if wrong:
        raise VocabularyError(
            f"{what} must be str; got {brief(wrong[0])}, a {type(wrong[0]).__name__}. Leave it "
            "out, or write it as text."
        )
    # Of numpy's str, a plain one.
    return tuple(str.__str__(text) for text in result if isinstance(text, str))


def check_count(texts: int) -> None:
    """Check the number of names and synonyms together; raises VocabularyError."""
    if texts > MAX_NAMES:
        raise VocabularyError(
            f"names and synonyms are {texts:,} texts, and a vocabulary may have {MAX_NAMES:,}. "
            "Split it, or leave some out."
        )


def check_characters(texts: Sequence[str]) -> None:
    """Check the number of characters of all texts together; raises VocabularyError."""
    if (characters := sum(map(len, texts))) > MAX_NAMES_CHARACTERS:
        raise VocabularyError(
            f"the names have {characters:,} characters together; a vocabulary may have "
            f"{MAX_NAMES_CHARACTERS:,}. Shorten them."
        )


def gather_texts(
    names: Sequence[str], synonyms: Mapping[str, Sequence[str]] | None
) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    """List the texts of K names, each name before its synonyms, and the first row of each name.

    The rows are K int64, None when there are no synonyms. Raises VocabularyError for synonyms of
    an unknown name, or that are not a list of str.
    """
    if not synonyms:
        return tuple(names), None
    if not isinstance(synonyms, Mapping):
        raise VocabularyError(
            f"synonyms must be a mapping of name: [text, ...]; got {type(synonyms).__name__}."
        )
    check_known("synonyms", synonyms, names)
    groups = {
        name: _as_strings(f"synonyms of {name!r:.60}", texts) for name, texts in synonyms.items()
    }
    check_count(sum(1 + len(groups.get(name, ())) for name in names))
    chosen = [(name, *groups.get(name, ())) for name in names]
    ends = np.cumsum([len(group) for group in chosen])
    first_rows = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    return tuple(text for group in chosen for text in group), first_rows


def mark_seen(names: Sequence[str], seen: Iterable[str] | None) -> NDArray[np.bool_] | None:
    """Mark those of K names that `seen` lists: K bool; None for None.

    Raises VocabularyError when it lists anything that is not one of the names.
    """
    if seen is None:
        return None
    chosen = set(_as_strings("seen", seen))
    check_known("seen", chosen, names)
    return np.asarray([name in chosen for name in names], np.bool_)


def check_known(what: str, given: Iterable[str], names: Sequence[str]) -> None:
    """Check that all of `given` are names; raises VocabularyError, with the nearest name."""
    known = set(names)
    for name in given:
        if name not in known:
            raise VocabularyError(
                f"{what} has {name!r:.60}, which is not among the {len(names)} names"
                f"{did_you_mean(str(name), names)}. Add it to the names, or leave it out."
            )


def index_of(name: str, names: Sequence[str]) -> int:
    """Return the index of `name`; VocabularyError, with the nearest name, when it is unknown."""
    if name in names:
        return names.index(name)
    raise VocabularyError(
        f"{name!r:.60} is not among the {len(names)} names{did_you_mean(name, names)}. Choose one "
        "of them."
    )
