"""Names as vectors, and what is said of them when the CLIP head was never trained."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samclip.errors import UntrainedHeadWarning, VocabularyError
from samclip.runtime.suggest import did_you_mean

UNTRAINED_MESSAGE = (
    "the CLIP head of bundle {name!r} was never trained: the names and probabilities of this "
    "answer mean nothing. Masks are not affected."
)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """K names in a model's text space.

    `embeddings`: KxD float32, unit rows; `logit_scale` multiplies cosines before a softmax;
    `trained_head`: whether the CLIP head that these are compared with was trained.
    """

    names: tuple[str, ...]
    embeddings: NDArray[np.float32]
    logit_scale: float
    trained_head: bool

    def cosines(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compare MxD vectors, of any length but 0, with the names: MxK cosines in [-1, 1]."""
        return np.asarray(unit_rows(vectors) @ self.embeddings.T, np.float32)

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
    if isinstance(names, str):
        raise VocabularyError(f"names must be a list; got one str. Write [{names[:40]!r}].")
    try:
        result = tuple(names)
    except TypeError as error:
        raise VocabularyError(
            f"names must be a list of str; got {type(names).__name__}."
        ) from error
    wrong = [name for name in result if not isinstance(name, str)]
    if wrong:
        raise VocabularyError(f"names must be str; got {wrong[0]!r:.60}.")
    if not result:
        raise VocabularyError("names is empty. Give at least one name.")
    return result


def index_of(name: str, names: Sequence[str]) -> int:
    """Find `name`; raises VocabularyError with the nearest names when it is unknown."""
    if name in names:
        return names.index(name)
    raise VocabularyError(
        f"{name!r:.60} is not among the {len(names)} names{did_you_mean(name, names)}"
    )


def warn_untrained(bundle_name: str) -> None:
    """Warn, on every use, with UntrainedHeadWarning; the caller's warning filters hold.

    Python shows a warning once per place by default. Each call here brings a registry of its
    own, so that repeated use in a loop or a server keeps warning.
    """
    message = UNTRAINED_MESSAGE.format(name=bundle_name)
    filename, line = _caller()
    warnings.warn_explicit(message, UntrainedHeadWarning, filename, line, registry={})


def _caller() -> tuple[str, int]:
    """Return the file and line of the nearest frame outside this package."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("samclip."):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno
