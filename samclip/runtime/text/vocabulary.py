"""Vocabularies: names with their embeddings, and the warning that an untrained head makes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.disk.paths import user_path
from samclip.errors import UntrainedHeadWarning, VocabularyError, did_you_mean, warn_caller
from samclip.runtime.text.examples import Examples, find_examples_fault
from samclip.runtime.text.names import as_names, check_characters, check_count
from samclip.runtime.text.vocabulary_file import (
    OF_EXAMPLES,
    Facts,
    digest_of,
    read_vocabulary,
    write_vocabulary,
)

UNTRAINED_MESSAGE = (
    "the CLIP head of bundle {name!r} was never trained: the names and probabilities of this "
    "answer mean nothing. Masks are not affected."
)

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
    `templates`: the sentences that names were put into, () where unknown; `examples`: those of the
    names, which are part of `embeddings`, None without. Examples belong to the bundle whose
    pictures they are from, and other bundles refuse them.

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
    templates: tuple[str, ...] = ()
    examples: Examples | None = None

    def check(self, space: str, width: int, pictures: str | None = None) -> None:
        """Check that a model can use this: its text space is `space`, of `width` dimensions.

        `pictures`: the digest of what embeds the model's pictures, with which examples are
        compared; None leaves that out. Raises VocabularyError, also for arrays that do not fit
        together, rows that are not of unit length, and values that are not finite.
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
        if self.examples is not None and pictures not in {None, self.examples.space}:
            raise VocabularyError(
                f"the examples of this vocabulary were embedded by the bundle whose pictures are "
                f"{self.examples.space[:12]}, and this bundle's are {pictures or 'none'!s:.12}: "
                "their embeddings do not compare. Give the examples again, with this bundle."
            )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write this as a safetensors file, whole or not at all; return the path.

        `load_vocabulary` reads it. It holds names, embeddings, and the sums of examples, so that
        more can be added; no picture. Raises VocabularyError for a vocabulary that `check` refuses,
        InputError for a path that is none, WriteError when the disk refuses.

        Examples:
            >>> model.vocabulary(["cup", "cat"]).save("names.safetensors").name
            'names.safetensors'
        """
        target = user_path(path, "the vocabulary's path")
        width = self.embeddings.shape[-1] if isinstance(self.embeddings, np.ndarray) else 0
        self.check(self.space, width)
        arrays: dict[str, NDArray[np.generic]] = {"embeddings": self.embeddings}
        if self.first_rows is not None:
            arrays["first_rows"] = self.first_rows.astype(np.int64)
        if self.seen is not None:
            arrays["seen"] = self.seen
        facts: dict[str, Any] = {}
        if (given := self.examples) is not None:
            arrays |= {name: getattr(given, name) for name in OF_EXAMPLES}
            facts = {
                "pictures": given.space,
                "photos": given.photos,
                "counts": dict(zip(self.names, given.counts.tolist(), strict=True)),
                "weights": dict(zip(self.names, given.weights.tolist(), strict=True)),
            }
        known = Facts(
            names=self.names,
            templates=self.templates,
            logit_scale=float(self.logit_scale),
            trained_head=bool(self.trained_head),
            space=self.space,
            **facts,
        )
        write_vocabulary(target, known, arrays)
        return target

    def with_examples(self, examples: Examples) -> Vocabulary:
        """Return these names with these examples, mixed into their embeddings."""
        return replace(self, embeddings=examples.mix(self.first_rows), examples=examples)

    def select(self, names: Sequence[str]) -> Vocabulary:
        """Return the vocabulary of some of these names, in the given order.

        Their embeddings, synonyms and examples are the same, bit by bit. Raises VocabularyError for
        a name that is not there, and for none.

        Examples:
            >>> vocabulary = model.vocabulary(["cup", "cat", "dog"])
            >>> vocabulary.select(["dog", "cup"]).names
            ('dog', 'cup')
        """
        places = {name: place for place, name in enumerate(self.names)}
        asked = as_names(names)
        if missing := [name for name in asked if name not in places]:
            raise VocabularyError(
                f"this vocabulary has no name {missing[0]!r:.60}"
                f"{did_you_mean(missing[0], self.names)}. Ask for names that it has."
            )
        chosen = np.array([places[name] for name in asked])
        starts = _starts(self)
        counts = np.diff([*starts, len(self.embeddings)])[chosen]  # texts of each name
        first_rows = np.cumsum(counts) - counts
        within = np.arange(counts.sum()) - np.repeat(first_rows, counts)
        rows = np.repeat(starts[chosen], counts) + within
        return replace(
            self,
            names=asked,
            embeddings=self.embeddings[rows],
            first_rows=None if self.first_rows is None else first_rows,
            seen=None if self.seen is None else self.seen[chosen],
            examples=None if self.examples is None else self.examples.select(chosen, rows),
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

    def probabilities(
        self, cosines: NDArray[np.float32], sharpness: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Turn MxK cosines into probabilities: softmax of `logit_scale` times the cosine.

        `sharpness`: M factors of the scale, each of a row.
        """
        logits = cosines * np.float32(self.logit_scale)
        if sharpness is not None:
            logits *= sharpness[:, None]
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def load_vocabulary(path: str | os.PathLike[str]) -> Vocabulary:
    """Read a vocabulary that `Vocabulary.save` wrote.

    Tasks take it in place of names. Whether it fits a model is checked there: its text space, and
    with examples its pictures, must be those of the model's bundle. Raises VocabularyError for a
    file that is damaged, that is something else, or that a later version wrote; InputError for a
    path that is none. Nothing in a file is run.

    Examples:
        >>> path = model.vocabulary(["a cup of coffee", "a cat"]).save("names.safetensors")
        >>> scene.classify(samclip.load_vocabulary(path)).best
        'a cup of coffee'
    """
    place = user_path(path, "the vocabulary's path")
    facts, arrays = read_vocabulary(place)
    found: dict[str, Any] = dict(arrays)
    examples = None
    if "texts" in found:
        fields = {name: found[name] for name in OF_EXAMPLES}
        examples = Examples(**fields, photos=facts.photos, space=facts.pictures)
    made = Vocabulary(
        names=facts.names,
        embeddings=found["embeddings"],
        logit_scale=facts.logit_scale,
        trained_head=facts.trained_head,
        first_rows=found.get("first_rows"),
        seen=found.get("seen"),
        space=facts.space,
        templates=facts.templates,
        examples=examples,
    )
    fault = _find_fault(made, made.embeddings.shape[-1]) if made.embeddings.ndim else "no rows"
    if fault:
        raise VocabularyError(
            f"the vocabulary {place} cannot be used: {fault}. Make it again with the model's "
            "vocabulary()."
        )
    check_count(len(made.embeddings))
    check_characters(made.names)
    return made


def vocabulary_digest(made: Vocabulary) -> str:
    """Return a SHA-256 in hexadecimal: vocabularies with the same one give the same answers."""
    scales = f"{made.names!r} {float(made.logit_scale)!r} {made.space}"
    arrays: dict[str, NDArray[np.generic]] = {"embeddings": made.embeddings}
    if made.first_rows is not None:
        arrays["first_rows"] = made.first_rows
    if made.seen is not None:
        arrays["seen"] = made.seen
    return digest_of(scales, arrays)


def join_vocabularies(parts: Sequence[Vocabulary]) -> Vocabulary:
    """Return all names of one vocabulary or more, in order; settings are those of the first.

    Raises VocabularyError for text spaces or pictures that differ, and for a name that two have.
    """
    joined, *others = parts
    for other in others:
        joined = _join(joined, other)
    check_count(len(joined.embeddings))
    return joined


def _join(one: Vocabulary, other: Vocabulary) -> Vocabulary:
    other.check(one.space, one.embeddings.shape[1])
    if twice := {*one.names} & {*other.names}:
        raise VocabularyError(
            f"two vocabularies have the name {sorted(twice)[0]!r:.60}. Leave it out of one, or add "
            "the examples of both to one."
        )
    first_rows = None
    if one.first_rows is not None or other.first_rows is not None:
        first_rows = np.concatenate([_starts(one), _starts(other) + len(one.embeddings)])
    seen = None
    if one.seen is not None or other.seen is not None:
        seen = np.concatenate([_marks(one), _marks(other)])
    joined = replace(
        one,
        names=one.names + other.names,
        embeddings=np.concatenate([one.embeddings, other.embeddings]),
        first_rows=first_rows,
        seen=seen,
    )
    if one.examples is None and other.examples is None:
        return joined
    spaces = {each.examples.space for each in (one, other) if each.examples is not None}
    if len(spaces) > 1:
        raise VocabularyError(
            "two vocabularies have examples of two bundles' pictures: "
            f"{' and '.join(space[:12] for space in sorted(spaces))}. Their embeddings do not "
            "compare. Give the examples again, with one bundle."
        )
    space = spaces.pop()
    return joined.with_examples(examples_of(one, space).join(examples_of(other, space)))


def examples_of(made: Vocabulary, space: str) -> Examples:
    """Return the examples of a vocabulary, none of any name where it has none."""
    return made.examples or Examples.none(made.embeddings, len(made.names), space)


def _starts(made: Vocabulary) -> NDArray[np.int64]:
    return np.arange(len(made.names)) if made.first_rows is None else made.first_rows


def _marks(made: Vocabulary) -> NDArray[np.bool_]:
    return np.zeros(len(made.names), np.bool_) if made.seen is None else made.seen


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
        or (made.examples and find_examples_fault(made.examples, len(names), len(rows), width))
        or ""
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


def warn_untrained(bundle_name: str) -> None:
    """Warn with UntrainedHeadWarning, on every call."""
    warn_caller(UNTRAINED_MESSAGE.format(name=bundle_name), UntrainedHeadWarning)
