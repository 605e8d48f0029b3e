"""Vocabularies: names with their embeddings, and the warning that an untrained head makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samclip.errors import UntrainedHeadWarning, VocabularyError, brief, did_you_mean, warn_caller

UNTRAINED_MESSAGE = (
    "the CLIP head of bundle {name!r} was never trained: the names and probabilities of this "
    "answer mean nothing. Masks are not affected."
)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """K names in a model's text space, embedded as R texts: each name and its synonyms.

    `embeddings`: RxD float32, unit rows, a name's rows one after the other; `logit_scale`
    multiplies cosines before a softmax; `trained_head`: whether the head that the names are
    compared with was trained; `first_rows`: K int64, the first row of each name, None without
    synonyms, when R = K; `seen`: K bool, True for names that the model was trained with, None if
    unknown.
    """

    names: tuple[str, ...]
    embeddings: NDArray[np.float32]
    logit_scale: float
    trained_head: bool
    first_rows: NDArray[np.int64] | None = None
    seen: NDArray[np.bool_] | None = None

    def cosines(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the cosines of MxD vectors with the names: MxK in [-1, 1], 0 for zero vectors."""
        cosines = np.asarray(unit_rows(vectors) @ self.embeddings.T, np.float32)
        return self.best_synonyms(cosines)

    def best_synonyms(self, scores: NDArray[np.float32], axis: int = 1) -> NDArray[np.float32]:
        """Reduce the scores of R texts along `axis` to the highest of each name: K along `axis`.

        Open-Vocabulary SAM (Yuan et al. 2024) and related models take this maximum over synonyms.
        """
        if self.first_rows is None:
            return scores
        best: NDArray[np.float32] = np.maximum.reduceat(scores, self.first_rows, axis=axis)
        return best

    def probabilities(self, cosines: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn MxK cosines into probabilities: softmax of `logit_scale` times the cosine."""
        logits = cosines * np.float32(self.logit_scale)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale the rows of MxD to length 1; rows of zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def as_names(names: Sequence[str]) -> tuple[str, ...]:
    """Check that `names` is a sequence of str, not one str; raises VocabularyError."""
    result = _as_strings("names", names)
    if not result:
        raise VocabularyError("names is empty. Give at least one name.")
    return result


def _as_strings(what: str, given: Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        raise VocabularyError(f"{what} must be a list; got one str. Write [{given[:40]!r}].")
    try:
        result = tuple(given)
    except TypeError as error:
        raise VocabularyError(
            f"{what} must be a list of str; got {type(given).__name__}."
        ) from error
    wrong = [text for text in result if not isinstance(text, str)]
    if wrong:
        raise VocabularyError(
            f"{what} must be str; got {brief(wrong[0])}, a {type(wrong[0]).__name__}. Leave it "
            "out, or write it as text."
        )
    return result


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
    _check_known("synonyms", synonyms, names)
    groups = {
        name: _as_strings(f"synonyms of {name!r:.60}", texts) for name, texts in synonyms.items()
    }
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
    _check_known("seen", chosen, names)
    return np.asarray([name in chosen for name in names], np.bool_)


def _check_known(what: str, given: Iterable[str], names: Sequence[str]) -> None:
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


def warn_untrained(bundle_name: str) -> None:
    """Warn with UntrainedHeadWarning, on every call."""
    warn_caller(UNTRAINED_MESSAGE.format(name=bundle_name), UntrainedHeadWarning)
