"""Vocabularies: names with their embeddings, and the warning that an untrained head makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from samclip.errors import UntrainedHeadWarning, VocabularyError, brief, did_you_mean, warn_caller

UNTRAINED_MESSAGE = (
    "the CLIP head of bundle {name!r} was never trained: the names and probabilities of this "
    "answer mean nothing. Masks are not affected."
)

MAX_NAMES = 50_000  # with their synonyms: 154 MB of 768-d vectors
MAX_NAMES_CHARACTERS = 10_000_000  # of all of them together
MAX_LOGIT_SCALE = 1e6  # CLIP's are at most 100
UNIT_TOLERANCE = 1e-3  # of a row's length: vectors that were kept in FP16 are within it


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """K names in a model's text space, embedded as R texts: each name and its synonyms.

    `embeddings`: RxD float32, unit rows, a name's rows one after the other; `logit_scale`
    multiplies cosines before a softmax; `trained_head`: whether the head that the names are
    compared with was trained; `first_rows`: K int64, the first row of each name, None without
    synonyms, when R = K; `seen`: K bool, True for names that the model was trained with, None if
    unknown; `space`: a digest of the text space that made the embeddings, "" for embeddings from
    elsewhere. Models with the same text space can share a vocabulary; others refuse it.

    Examples:
        >>> vocabulary = model.vocabulary(["a cup of coffee", "a cat"])
        >>> vocabulary.names, len(vocabulary.embeddings)
        (('a cup of coffee', 'a cat'), 2)
        >>> scene.classify(vocabulary).best
        'a cup of coffee'
    """

    names: tuple[str, ...]
    embeddings: NDArray[np.float32]
    logit_scale: float
    trained_head: bool
    first_rows: NDArray[np.int64] | None = None
    seen: NDArray[np.bool_] | None = None
    space: str = ""

    def check(self, space: str, width: int) -> None:
        """Check that a model can use this: its text space is `space`, of `width` dimensions.

        Raises VocabularyError, also for arrays that do not fit together, rows that are not of unit
        length, and values that are not finite.
        """
        if self.space and self.space != space:
            raise VocabularyError(
                f"this vocabulary was made in the text space {self.space[:12]}, and the model's is "
                f"{space[:12]}: their embeddings do not compare. Make it with this model's "
                "vocabulary()."
            )
        if fault := _find_fault(self, width):
            raise VocabularyError(
                f"this vocabulary cannot be used: {fault}. Make it with the model's vocabulary()."
            )

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


def _find_fault(made: Vocabulary, width: int) -> str:
    """Return what is wrong with a vocabulary for a text space of `width` dimensions, or ""."""
    names, rows = made.names, made.embeddings
    if not isinstance(names, tuple) or not names or not all(isinstance(n, str) for n in names):
        return "its names must be a tuple of one str or more"
    if not isinstance(rows, np.ndarray) or rows.dtype != np.float32 or rows.ndim != 2:
        kind = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        return f"its embeddings must be a float32 array of shape (texts, {width}); they are {kind}"
    if rows.shape[1] != width:
        return f"its embeddings have {rows.shape[1]} dimensions, the model's text space {width}"
    lengths = np.einsum("rd,rd->r", rows, rows) ** 0.5
    if not (np.abs(lengths - 1) <= UNIT_TOLERANCE).all():  # NaN is not
        return "its embeddings must be finite rows of length 1"
    return (
        _find_rows_fault(made.first_rows, len(names), len(rows))
        or _find_seen_fault(made.seen, len(names))
        or _find_scale_fault(made.logit_scale)
    )


def _find_rows_fault(first_rows: object, names: int, rows: int) -> str:
    if first_rows is None:
        return "" if rows == names else f"it has {rows:,} embeddings for {names:,} names"
    if not isinstance(first_rows, np.ndarray) or first_rows.dtype.kind not in "iu":
        return "its first_rows must be an array of whole numbers, or None"
    if first_rows.shape != (names,):
        return f"its first_rows have the shape {first_rows.shape}, expected ({names},)"
    ends = [*first_rows[1:].tolist(), rows]
    if first_rows[0] != 0 or any(a >= b for a, b in zip(first_rows.tolist(), ends, strict=True)):
        return f"its first_rows must rise from 0, below its {rows:,} embeddings"
    return ""


def _find_seen_fault(seen: object, names: int) -> str:
    if seen is None:
        return ""
    if isinstance(seen, np.ndarray) and seen.dtype == np.bool_ and seen.shape == (names,):
        return ""
    return f"its `seen` must be an array of {names:,} bool, or None"


def _find_scale_fault(scale: object) -> str:
    is_number = isinstance(scale, int | float | np.integer | np.floating)
    if is_number and 0 < float(scale) <= MAX_LOGIT_SCALE:  # type: ignore[arg-type]
        return ""
    return f"its logit_scale must be above 0 and at most {MAX_LOGIT_SCALE:g}; it is {scale!r:.40}"


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale the rows of MxD to length 1; rows of zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def as_names(names: Sequence[str]) -> tuple[str, ...]:
    """Check that `names` are from 1 to MAX_NAMES str, not one str; raises VocabularyError."""
    result = _as_strings("names", names)
    if not result:
        raise VocabularyError("names is empty. Give at least one name.")
    return result


def _as_strings(what: str, given: Iterable[str]) -> tuple[str, ...]:
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
    return tuple(str.__str__(text) for text in result)  # of numpy's str, a plain one


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
    _check_known("synonyms", synonyms, names)
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
