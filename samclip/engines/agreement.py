"""The measures of agreement with FP32, and their limits by precision.

The gates of an export judge the graphs by them, the gate of a plan what was built from a graph.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WORST_COSINE = -1.0
NEGLIGIBLE = 1e-30  # length of a vector that has no direction

# The least mean cosine of an output with FP32's. Other kernels in FP32 itself add up in another
# order; BF16 rounds to 8 bits where FP16 keeps 11, and so lies between FP16 and INT8.
COSINE = {"fp32": 0.9999, "fp16": 0.9995, "bf16": 0.998, "int8": 0.995, "int8_fp16": 0.995}
# The least IoU of masks with FP32's: on average, and of the worst mask.
MASK_IOU = {"fp32": 0.999, "fp16": 0.995, "bf16": 0.985, "int8": 0.98, "int8_fp16": 0.98}
WORST_MASK_IOU = {"fp32": 0.99, "fp16": 0.96, "bf16": 0.9}
# The least share of a photo's places that get the same name.
SAME_LABEL = {"fp32": 0.999, "fp16": 0.99}


def cosines(expected: NDArray[np.generic], found: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return the cosine of each row of two NxD arrays; -1 for all if one of them is not finite."""
    a, b = expected.astype(np.float64), found.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return np.full(len(a), WORST_COSINE)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.maximum(norms, NEGLIGIBLE))


def mean_cosine(expected: NDArray[np.generic], found: NDArray[np.generic]) -> float:
    """Average the cosine of the rows of two NxD arrays; -1 if one of them is not finite."""
    return float(cosines(expected, found).mean())


def mask_iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Return the intersection over union of two masks of one shape; 1 for two empty ones."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0
