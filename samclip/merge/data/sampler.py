"""Draws of photos and views for each step: a pure function of seed, stage, stream and step.

A run that was stopped therefore goes on with the same draws, and no state needs to be saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from samclip.errors import InputError
from samclip.merge.data.photo_sources import PhotoSource
from samclip.merge.data.seeds import derive_seed


@dataclass(frozen=True)
class Draw:
    """A photo, by its index in the source, and the seed of its view."""

    index: int
    view_seed: int


@dataclass(frozen=True)
class Sampling:
    """The values that determine the draws of one stream, such as "names", of one stage.

    `batch` is the global batch, that of all `world` processes together; this process is `rank`.
    With `fixed_views` K a photo has only K views, the same in every stage with the same
    `ViewConfig`, so that teacher outputs can be kept; None draws a new view in each epoch. Raises
    InputError for values that do not fit together.
    """

    seed: int
    stage: str
    stream: str
    batch: int
    fixed_views: int | None = None
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        """Check the values."""
        if self.batch < 1 or self.batch % self.world:
            raise InputError(
                f"a batch of {self.batch} photos for {self.world} processes; expected a positive "
                "multiple of their number"
            )
        if not 0 <= self.rank < self.world:
            raise InputError(f"process {self.rank} of {self.world}; expected 0 to {self.world - 1}")
        if self.fixed_views is not None and self.fixed_views < 1:
            raise InputError(f"fixed_views is {self.fixed_views}; expected 1 or more, or none")


class Sampler:
    """Draws photos of a source: every photo once per epoch, in a different order each time.

    Raises InputError for a source without photos.
    """

    def __init__(self, source: PhotoSource, sampling: Sampling) -> None:
        if len(source) == 0:
            raise InputError(f"the stream {sampling.stream!r} has no photos to draw from")
        self._source = source
        self.sampling = sampling
        keys = (source.key(index)[:16] for index in range(len(source)))
        self._hashes = np.fromiter((int(key, 16) for key in keys), np.uint64, len(source))
        self._order = lru_cache(maxsize=2)(self._permutation)  # a batch may lie in two epochs

    def draws(self, step: int) -> tuple[Draw, ...]:
        """Draw this process's part of step `step`'s batch, which may cross into the next epoch."""
        s = self.sampling
        share = s.batch // s.world
        first = step * s.batch + s.rank * share
        draws = []
        for place in range(first, first + share):
            epoch, offset = divmod(place, len(self._source))
            index = int(self._order(epoch)[offset])
            draws.append(Draw(index, self._view_seed(index, epoch)))
        return tuple(draws)

    def fixed_draws(self, index: int) -> tuple[Draw, ...]:
        """Return all the draws that a photo can have; raises InputError without `fixed_views`."""
        if self.sampling.fixed_views is None:
            raise InputError(
                f"the stream {self.sampling.stream!r} draws new views in each epoch: they cannot "
                "be listed. Set fixed_views."
            )
        views = range(self.sampling.fixed_views)
        return tuple(Draw(index, self._view_seed(index, view)) for view in views)

    def _view_seed(self, index: int, epoch: int) -> int:
        s, key = self.sampling, self._source.key(index)
        if s.fixed_views is None:
            return derive_seed("view", s.seed, s.stage, s.stream, key, epoch)
        return derive_seed("fixed view", s.seed, key, epoch % s.fixed_views)

    def _permutation(self, epoch: int) -> NDArray[np.intp]:
        """Order the photos by a hash of epoch and content, independent of how they are listed."""
        s = self.sampling
        salt = np.uint64(derive_seed("epoch", s.seed, s.stage, s.stream, epoch))
        return np.argsort(_mix_bits(self._hashes ^ salt), kind="stable")


def _mix_bits(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix the bits of 64-bit numbers, one to one: SplitMix64's finaliser (Steele et al. 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = np.multiply(values ^ (values >> np.uint64(shift)), np.uint64(factor))
    return np.asarray(values ^ (values >> np.uint64(31)), np.uint64)
