"""Binary masks kept as bits: an eighth of the memory of bool arrays, for many or large masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class PackedMasks:
    """N masks of H x W pixels, one bit per pixel.

    `bits`: N x ceil(H * W / 8) uint8, each row a mask in C order as `numpy.packbits` writes it.
    `size`: (H, W).
    """

    bits: NDArray[np.uint8]
    size: tuple[int, int]

    @staticmethod
    def pack(masks: Iterable[NDArray[np.bool_]], size: tuple[int, int]) -> PackedMasks:
        """Pack HxW bool masks of equal `size` one after the other."""
        rows = [np.packbits(mask) for mask in masks]
        width = (size[0] * size[1] + 7) // 8
        bits = np.stack(rows) if rows else np.zeros((0, width), np.uint8)
        return PackedMasks(bits, size)

    @staticmethod
    def concatenate(parts: Iterable[PackedMasks], size: tuple[int, int]) -> PackedMasks:
        """Join stacks of masks that all have `size`."""
        empty = PackedMasks.pack((), size)
        return PackedMasks(np.concatenate([empty.bits, *(part.bits for part in parts)]), size)

    def __len__(self) -> int:
        return len(self.bits)

    def __iter__(self) -> Iterator[NDArray[np.bool_]]:
        return (self.unpack(row) for row in range(len(self)))

    def unpack(self, row: int) -> NDArray[np.bool_]:
        """Return one mask, HxW bool, freshly allocated."""
        height, width = self.size
        flat = np.unpackbits(self.bits[row], count=height * width)
        return flat.view(np.bool_).reshape(height, width)  # HxW

    def unpack_all(self) -> NDArray[np.bool_]:
        """Return every mask, NxHxW bool, freshly allocated: N * H * W bytes."""
        masks = np.empty((len(self), *self.size), np.bool_)
        for row, mask in enumerate(self):
            masks[row] = mask
        return masks

    def select(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> PackedMasks:
        """Keep the masks that an index array or a bool array of length N picks."""
        return PackedMasks(self.bits[rows], self.size)

    def areas(self) -> NDArray[np.int64]:
        """Count the pixels of each mask: N."""
        counts = [int(_BITS_SET[row].sum(dtype=np.int64)) for row in self.bits]
        return np.asarray(counts, np.int64)


_BITS_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)
