"""How many numbers of a stored tensor were learned: exporters store some more than once.

SAM's tables of relative positions hold 2n - 1 rows and are looked up at n x n places; torch's
exporter looks them up beforehand and stores what it finds. The fold lowering stores one-hot places.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RANK_OF_TABLES = 3  # n x n rows, or n x D x n


def distinct_elements(array: NDArray[np.generic]) -> int:
    """Count the elements of a tensor, each vector that is repeated along an axis once.

    0 for a mask, a tensor of at least two axes that holds nothing but zeros and ones. Vectors are
    compared in tensors of three axes alone: elsewhere the exporter repeats nothing.
    """
    if array.ndim >= 2 and _is_mask(array):
        return 0
    if array.ndim != RANK_OF_TABLES:
        return array.size
    return min(_distinct_vectors(array, axis) for axis in range(array.ndim))


def _is_mask(array: NDArray[np.generic]) -> bool:
    start = array.reshape(-1)[:1024]  # of a weight this is enough to tell
    return all(bool(np.isin(part, (0, 1)).all()) for part in (start, array))


def _distinct_vectors(array: NDArray[np.generic], axis: int) -> int:
    """Count the elements of all different vectors along one axis."""
    vectors = np.ascontiguousarray(np.moveaxis(array, axis, -1)).reshape(-1, array.shape[axis])
    as_bytes = vectors.view(np.dtype((np.void, vectors.dtype.itemsize * vectors.shape[1])))
    return len(np.unique(as_bytes)) * int(array.shape[axis])
