"""The published sizes of C-RADIO's ViT, and what decides the form of one trunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

PATCH = 16
TABLE_SIDE = 128  # rows and columns of the learned positions: 2048 px
MAX_IMAGE_SIZE = PATCH * TABLE_SIDE
GLOBAL_BLOCKS = 4  # of a trunk with windows


@dataclass(frozen=True)
class RadioSize:
    """The size of a trunk; `hidden` is the width of its blocks' MLPs.

    Where `layer_scale` is True, a file without its scales is not whole; None leaves it to the file.
    A `hidden` of None does, too.
    """

    width: int
    depth: int
    num_heads: int
    hidden: int | None
    layer_scale: bool | None = None


RADIO_SIZES: Mapping[str, RadioSize] = MappingProxyType(
    {
        "radio-v3-b": RadioSize(768, 12, 12, 3072, layer_scale=True),
        "radio-v3-l": RadioSize(1024, 24, 16, 4096, layer_scale=True),
        "radio-v3-h": RadioSize(1280, 32, 16, 5120),
        "radio-v3-g": RadioSize(1536, 40, 24, None),
        "radio-v4-so400m": RadioSize(1152, 27, 16, None),
        "radio-v4-h": RadioSize(1280, 32, 16, 5120),
    }
)


@dataclass(frozen=True)
class TrunkConfig:
    """A trunk for images of `image_size` = (height, width) pixels, multiples of 16.

    `prefix` tokens (one for each teacher, then registers) come before the patches. `window_size` 0
    lets all blocks attend to everything; else most attend within windows of that many tokens a
    side, as in `global_blocks`, and the image's sides are multiples of 16 * `window_size`.
    """

    width: int
    depth: int
    num_heads: int
    hidden: int
    prefix: int
    image_size: tuple[int, int]
    layer_scale: bool = False
    window_size: int = 0

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.image_size
        return height // PATCH, width // PATCH

    @property
    def global_blocks(self) -> tuple[int, ...]:
        """The blocks, counted from 0, in which all tokens attend to all others.

        With windows: the last of each quarter of the blocks, and the very last.
        """
        period = max(1, self.depth // GLOBAL_BLOCKS)
        return tuple(
            block
            for block in range(self.depth)
            if not self.window_size or block % period == period - 1 or block == self.depth - 1
        )
