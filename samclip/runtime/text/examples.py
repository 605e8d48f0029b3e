"""Examples of names: embeddings of pictures, averaged and mixed with the name's text.

A name's examples are embeddings of pictures, or of regions of pictures, each of unit length. Their
mean e turns the name's text embedding t, of unit length, towards itself:

    t' = unit((t.c) c + |t_| unit((1 - w) unit(t_) + w unit(e_)) - v SIMILAR |e_| / (e.c) c)

c is the direction that all pictures have in common: the mean of the tokens of the photos that the
examples are from. x_ = x - (x.c) c is what is left of a vector without it. w is the weight of n
examples, and v the factor that unit(e_) has in the sum.

Text and picture embeddings lie in two separate cones (the modality gap, Liang et al. 2022, "Mind
the gap"): a plain mean of the two moves a name into the pictures' cone, near every picture. So only
what differs between pictures is mixed. Even then unrelated pictures are more like an example than
like a text, and a name with examples would win everywhere over names without. The last term lowers
the name's score in all pictures alike, since all have about the same share of c: examples raise the
score of pictures that are more similar to them than SIMILAR, a cosine without c, and lower others.

w = WEIGHT n / (n + HALF): a mean of few examples is shrunk towards what was known before, as in the
m-estimate (Cestnik 1990). The three constants were chosen on training photos, with samclip-tiny;
docs/recipes/vocabulary.md says how.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

WEIGHT = 0.2  # of very many examples
HALF = 1.0  # the number of examples that has half of it
SIMILAR = 0.3  # cosine, without what all pictures share, above which a picture's score rises
MAX_COUNT = 10**9  # examples of a name, and photos
LEAST_LENGTH = 1e-6  # of a part of a vector: a shorter one has no direction

Vectors = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Examples:
    """The examples of K names that are R texts, as sums, so that more can be added.

    `texts`: RxD float32, unit rows, the texts without examples; `sums`: KxD float32, of each name
    the sum of its examples' embeddings, of unit length each; `counts`: K int64, how many they are;
    `centre`: D float32, the sum of the mean token embeddings of `photos` photos, of unit length
    each; `space`: a digest of what embedded the pictures.
    """

    texts: Vectors
    sums: Vectors
    counts: NDArray[np.int64]
    centre: Vectors
    photos: int
    space: str

    @classmethod
    def none(cls, texts: Vectors, names: int, space: str) -> Examples:
        """Return no examples of `names` names that are `texts`."""
        width = texts.shape[1]
        zeros = np.zeros((names, width), np.float32)
        return cls(texts, zeros, np.zeros(names, np.int64), np.zeros(width, np.float32), 0, space)

    def add(
        self, sums: Vectors, counts: NDArray[np.int64], centre: Vectors, photos: int
    ) -> Examples:
        """Return these and further ones, which are given as the fields are."""
        return replace(
            self,
            sums=self.sums + sums,
            counts=self.counts + counts,
            centre=self.centre + centre,
            photos=self.photos + photos,
        )

    def join(self, other: Examples) -> Examples:
        """Return these, then those of `other` names in the same space."""
        return Examples(
            texts=np.concatenate([self.texts, other.texts]),
            sums=np.concatenate([self.sums, other.sums]),
            counts=np.concatenate([self.counts, other.counts]),
            centre=self.centre + other.centre,
            photos=self.photos + other.photos,
            space=self.space,
        )

    def select(self, names: NDArray[np.int64], rows: NDArray[np.int64]) -> Examples:
        """Return those of the names at these places, whose texts are in these rows."""
        return replace(
            self, texts=self.texts[rows], sums=self.sums[names], counts=self.counts[names]
        )

    @property
    def weights(self) -> Vectors:
        """The weight of each name's examples against its text: K float32 in [0, 1)."""
        return weigh(self.counts)

    def mix(self, first_rows: NDArray[np.int64] | None) -> Vectors:
        """Mix the examples of each name into all of its texts: RxD float32, unit rows.

        `first_rows`: the first row of each name, None where each has one. The formula is at the
        top of this module. Texts of names without examples stay as they are.
        """
        rows = len(self.texts)
        starts = np.arange(rows) if first_rows is None else first_rows
        owners = np.repeat(np.arange(len(starts)), np.diff([*starts, rows]))  # R
        common = self.centre / max(float(np.linalg.norm(self.centre)), LEAST_LENGTH)
        means = self.sums / np.maximum(self.counts, 1)[:, None]  # K, D
        shares = means @ common  # K, what each mean has of the common direction
        own = means - shares[:, None] * common
        lengths = np.linalg.norm(own, axis=1)  # K
        usable = (self.counts > 0) & (lengths > LEAST_LENGTH) & (shares > LEAST_LENGTH)
        weights = self.weights
        mixed: Vectors = self.texts.copy()
        for row in np.flatnonzero(usable[owners]).tolist():
            name = owners[row]
            shown = own[name] / lengths[name]
            penalty = SIMILAR * float(lengths[name] / shares[name])
            mixed[row] = _turn(self.texts[row], common, shown, float(weights[name]), penalty)
        return mixed


def weigh(counts: NDArray[np.int64]) -> Vectors:
    """Return the weight of n examples against a text, WEIGHT n / (n + HALF), for each of K n."""
    return np.asarray(WEIGHT * counts / (counts + HALF), np.float32)


def _turn(
    text: Vectors, common: Vectors, example: Vectors, weight: float, penalty: float
) -> Vectors:
    """Turn a text towards an `example`, both of unit length, around the `common` direction.

    `penalty`: of the common direction, for each part of the example that the result has.
    """
    along = float(text @ common)
    rest = text - along * common
    length = float(np.linalg.norm(rest))
    if length <= LEAST_LENGTH:  # nothing that could be turned
        return text
    mixed = (1 - weight) * rest / length + weight * example
    reach = float(np.linalg.norm(mixed))
    if reach <= LEAST_LENGTH:  # text and example are opposites
        return text
    factor = length / reach
    turned = (along - weight * factor * penalty) * common + mixed * factor
    return np.asarray(turned / np.linalg.norm(turned), np.float32)


def find_examples_fault(made: Examples, names: int, rows: int, width: int) -> str:
    """Return what is wrong with examples of `names` names in `rows` texts of `width`, or ""."""
    shapes = {
        "texts": ((rows, width), np.float32),
        "sums": ((names, width), np.float32),
        "counts": ((names,), np.int64),
        "centre": ((width,), np.float32),
    }
    for field, (shape, dtype) in shapes.items():
        array = getattr(made, field)
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
            kind = type(array).__name__
            came = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else kind
            return f"the {field} of its examples must be {np.dtype(dtype)} {shape}; they are {came}"
    if not ((made.counts >= 0) & (made.counts <= MAX_COUNT)).all():
        return f"a name must have 0 to {MAX_COUNT:,} examples"
    if not isinstance(made.photos, int) or not bool(made.counts.any()) <= made.photos <= MAX_COUNT:
        return f"its examples must be of 1 to {MAX_COUNT:,} photos; got {made.photos!r:.40}"
    sums = np.einsum("nd,nd->n", made.sums, made.sums) ** 0.5
    centre = float(np.linalg.norm(made.centre.astype(np.float64)))
    # The sum of n vectors of unit length is at most n long; NaN is not.
    if not (sums <= made.counts * 1.001).all() or not centre <= made.photos * 1.001:
        return "the sums of its examples must be finite, and no longer than their counts"
    lengths = np.einsum("rd,rd->r", made.texts, made.texts) ** 0.5
    if not (np.abs(lengths - 1) <= 1e-3).all():
        return "the texts of its examples must be finite rows of length 1"
    return ""
