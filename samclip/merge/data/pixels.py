"""Batches of pictures as teachers and students share them, before normalisation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from samclip.errors import InputError


@dataclass(frozen=True)
class PixelBatch:
    """B pictures in squares of S pixels.

    `pixels`: Bx3xSxS float32 RGB in [0, 255], each picture at the top left, zeros in the padding
    at the bottom and right. `sizes`: Bx2 int64, (height, width) of each picture in pixels, from 1
    to S.
    """

    pixels: Tensor
    sizes: Tensor

    def __post_init__(self) -> None:
        """Check the shapes; raises InputError."""
        shape = tuple(self.pixels.shape)
        if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
            raise InputError(f"pixels are {_shape(shape)}; expected Bx3xSxS")
        if tuple(self.sizes.shape) != (shape[0], 2):
            raise InputError(
                f"sizes are {_shape(tuple(self.sizes.shape))} for {shape[0]} pictures; expected "
                "a (height, width) for each"
            )

    @classmethod
    def of(cls, pictures: Iterable[Tensor], size: int | None = None) -> PixelBatch:
        """Put pictures, each 3xhxw in [0, 255], into squares of `size` pixels.

        None takes the longest side among them. Raises InputError for an empty list, and for a
        picture that is larger than `size`.
        """
        listed = list(pictures)
        if not listed:
            raise InputError("a batch of no pictures; give at least one")
        longest = max(max(picture.shape[1:]) for picture in listed)
        side = longest if size is None else size
        if longest > side:
            raise InputError(f"a picture of {longest} pixels does not fit a square of {side}")
        first = listed[0]
        pixels = first.new_zeros((len(listed), 3, side, side), dtype=torch.float32)
        for square, picture in zip(pixels, listed, strict=True):
            square[:, : picture.shape[1], : picture.shape[2]] = picture
        sizes = torch.tensor([picture.shape[1:] for picture in listed], device=first.device)
        return cls(pixels, sizes)

    def __len__(self) -> int:
        return self.pixels.shape[0]

    @property
    def size(self) -> int:
        """S, the side of the squares in pixels."""
        return self.pixels.shape[-1]

    def picture(self, index: int) -> Tensor:
        """Return one picture without its padding: 3xhxw, sharing memory with `pixels`."""
        height, width = self.sizes[index].tolist()
        return self.pixels[index, :, :height, :width]

    def pick(self, indices: Sequence[int]) -> PixelBatch:
        """Return some of the pictures, in the order of `indices`."""
        chosen = torch.as_tensor(indices, dtype=torch.int64, device=self.pixels.device)
        return PixelBatch(self.pixels[chosen], self.sizes[chosen])

    def to(self, device: torch.device | str) -> PixelBatch:
        """Move the batch to a device."""
        return PixelBatch(
            self.pixels.to(device, non_blocking=True), self.sizes.to(device, non_blocking=True)
        )

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> Tensor:
        """Normalise per channel and set the padding to 0 again: Bx3xSxS float32.

        `mean` and `std` are in units of [0, 255]. The padding is 0 after the normalisation, as in
        `samclip.runtime.pixels.image.preprocess`.
        """
        centre, spread = (
            torch.tensor(tuple(values), device=self.pixels.device).reshape(1, 3, 1, 1)
            for values in (mean, std)
        )
        return (self.pixels - centre) / spread * self._inside(self.size)

    def token_mask(self, grid: int) -> Tensor:
        """Mark the tokens of a grid x grid that hold any of the picture: Bxgxg float32, 1 or 0.

        The rule is that of `samclip.runtime.pixels.image.Letterbox.token_mask`.
        """
        return self._inside(grid)[:, 0]

    def scaled(self, size: int) -> PixelBatch:
        """Scale the squares to `size` pixels, and every picture in them by the same factor.

        Bicubic with antialiasing; a batch of that size is returned unchanged.
        """
        if size == self.size:
            return self
        wanted = ((self.sizes * size / self.size + 0.5).long()).clamp(1, size).tolist()
        return PixelBatch.of(
            [_resize(self.picture(index), *sides)[0] for index, sides in enumerate(wanted)], size
        )

    def centred(self, share: float) -> PixelBatch:
        """Crop each picture to its central square, whose side is `share` of the shorter side."""
        pictures = []
        for index, (height, width) in enumerate(self.sizes.tolist()):
            side = max(1, round(share * min(height, width)))
            top, left = (height - side) // 2, (width - side) // 2
            pictures.append(self.picture(index)[:, top : top + side, left : left + side])
        return PixelBatch.of(pictures)

    def resized(self, height: int, width: int) -> Tensor:
        """Resize each picture without its padding to height x width: Bx3xhxw in [0, 255].

        Bicubic with antialiasing, without regard to the aspect ratio; overshoot is clipped.
        """
        return torch.cat(
            [_resize(self.picture(index), height, width) for index in range(len(self))]
        )

    def _inside(self, grid: int) -> Tensor:
        """Mark the cells of a grid x grid that hold any of the picture: Bx1xgxg float32, 1 or 0."""
        filled = (self.sizes * grid + self.size - 1) // self.size  # Bx2, rounded up
        cells = torch.arange(grid, device=self.sizes.device)
        rows, columns = (cells < filled[:, axis, None] for axis in (0, 1))  # Bxg each
        return (rows[:, None, :, None] & columns[:, None, None, :]).float()


def _resize(picture: Tensor, height: int, width: int) -> Tensor:
    """Resize 3xhxw to 1x3xheightxwidth."""
    if tuple(picture.shape[1:]) == (height, width):
        return picture[None]
    out = F.interpolate(
        picture[None], (height, width), mode="bicubic", align_corners=False, antialias=True
    )
    return out.clamp(0, 255)


def _shape(sides: Iterable[int]) -> str:
    return "x".join(map(str, sides))
