"""Masks that stay on the device, as an answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from samclip.engines.device_tensor import DeviceTensor


@dataclass(frozen=True, eq=False, kw_only=True)
class DeviceMasks:
    """The N masks of `Scene.segment_on_device`, in the order of the prompts.

    `masks`: N arrays HxW uint8 on the device, 1 inside and 0 outside, in pixels of the original
    image; `scores`: N float32, as in `Masks`; `prompt_index`: N int64, the prompt of each mask;
    `logits`: N arrays HxW float32, or None where they were not asked for; `size`: (H, W);
    `timings`: ms by stage, see `Scene.timings`.

    Iterating gives the masks. The memory of each is freed with the last array made from it.
    """

    masks: tuple[DeviceTensor, ...]
    scores: NDArray[np.float32]
    prompt_index: NDArray[np.int64]
    logits: tuple[DeviceTensor, ...] | None
    size: tuple[int, int]
    timings: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.masks)

    def __iter__(self) -> Iterator[DeviceTensor]:
        return iter(self.masks)

    def __getitem__(self, row: int) -> DeviceTensor:
        return self.masks[row]

    def numpy(self) -> NDArray[np.bool_]:
        """Copy all masks to the host: NxHxW bool."""
        found = np.empty((len(self), *self.size), np.bool_)
        for row, mask in enumerate(self.masks):
            found[row] = mask.numpy()
        return found
