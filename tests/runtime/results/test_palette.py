"""Colours are far enough apart, for all kinds of sight."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from samclip.runtime.results.palette import COUNT, colour, ink_on

# Machado, Oliveira and Fernandes (2009), table 1 at severity 1.0, for linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def to_oklab(rgb: NDArray[np.float64], sight: str) -> NDArray[np.float64]:
    """Nx3 sRGB in [0, 255] as OKLab, by the matrices of Ottosson (2020)."""
    part = rgb / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.asarray(SIGHT[sight]).T, 0, 1)
    cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    opponents = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return np.cbrt(seen @ cones.T) @ opponents.T


@pytest.mark.parametrize(
    ("count", "normal", "others"), [(8, 0.22, 0.14), (16, 0.13, 0.075), (COUNT, 0.05, 0.03)]
)
def test_the_first_colours_are_far_apart(count: int, normal: float, others: float) -> None:
    colours = np.array([colour(index) for index in range(count)], float)
    for sight in SIGHT:
        lab = to_oklab(colours, sight)
        apart = np.linalg.norm(lab[:, None] - lab, axis=-1)[np.triu_indices(count, 1)]
        assert apart.min() > (normal if sight == "normal" else others), sight


def test_neighbouring_colours_differ_and_then_repeat() -> None:
    colours = np.array([colour(index) for index in range(COUNT + 1)], float)
    assert len({tuple(row) for row in colours[:COUNT]}) == COUNT == 64
    steps = np.linalg.norm(np.diff(colours, axis=0), axis=1)
    assert steps.min() > 80  # of 441
    assert colour(COUNT) == colour(0)


def test_ink_contrasts() -> None:
    assert ink_on((255, 255, 0)) != ink_on((0, 0, 90))
