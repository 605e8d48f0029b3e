"""Views: crops of a photo, mirrored and recoloured, drawn from a seed.

Teacher and student see the same crop, flip and colours, as function matching asks for (Beyer et
al. 2022, "Knowledge distillation: A good teacher is patient and consistent", section 3). Changes of
brightness, contrast, saturation and hue together are one affine map of RGB.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling, Transpose
from torch import Tensor

from samclip.errors import InputError
from samclip.merge.config.stages import ViewConfig
from samclip.runtime.pixels.image import Letterbox

VERSION = 1  # of the rendering; part of a view's JSON, so that caches notice a change
MIN_SIDE = 8  # the least side of a crop in pixels of the photo, where the photo has them
SHOWN_SIDES = (16, 4096)  # least and greatest side of a view's square, in pixels
WHOLE_PHOTO = ViewConfig(whole=1.0, flip=0.0, brightness=0.0, contrast=0.0, saturation=0.0)

GREY = np.array([0.299, 0.587, 0.114])  # luma of ITU-R BT.601, as Pillow's mode L
MIDDLE = 127.5
# RGB to luma and the chroma axes I and Q of NTSC; a change of hue rotates the plane of I and Q.
TO_YIQ = np.array([GREY, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


@dataclass(frozen=True)
class Colour:
    """A change of colours: factors, where 1 changes nothing, and the angle `hue` in degrees.

    Brightness multiplies; contrast scales about middle grey; saturation scales about each pixel's
    grey; hue rotates the chroma.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0

    @property
    def is_plain(self) -> bool:
        """Whether nothing is changed."""
        return self == Colour()

    def apply(self, picture: Image.Image) -> Image.Image:
        """Return a recoloured RGB picture; values are rounded and clipped to [0, 255]."""
        if self.is_plain:
            return picture
        rows = np.concatenate([self.matrix(), np.full((3, 1), self.offset())], axis=1)  # 3x4
        return picture.convert("RGB", tuple(rows.ravel().tolist()))

    def matrix(self) -> NDArray[np.float64]:
        """Return the linear part, 3x3: new RGB = matrix @ RGB + offset."""
        grey = np.tile(GREY, (3, 1))  # 3x3: every channel becomes the luma
        saturate = self.saturation * np.eye(3) + (1 - self.saturation) * grey
        return self.brightness * self.contrast * saturate @ self._hue_rotation()

    def offset(self) -> float:
        """Return the constant that is added to every channel, in units of [0, 255]."""
        return (1 - self.contrast) * MIDDLE

    def _hue_rotation(self) -> NDArray[np.float64]:
        angle = math.radians(self.hue)
        cosine, sine = math.cos(angle), math.sin(angle)
        chroma = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
        return np.asarray(np.linalg.inv(TO_YIQ) @ chroma @ TO_YIQ, np.float64)


PLAIN = Colour()


@dataclass(frozen=True)
class View:
    """One crop of a photo of `photo_size` (h, w): `box` XYXY in its pixels, in a square of `size`.

    The crop is resized so that its longer side is `size`, mirrored if `flip`, and recoloured.
    """

    photo_size: tuple[int, int]
    box: tuple[int, int, int, int]
    size: int
    flip: bool = False
    colour: Colour = PLAIN

    @property
    def shown_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the view inside its square."""
        x0, y0, x1, y1 = self.box
        return Letterbox.fit((y1 - y0, x1 - x0), self.size).input_size

    def to_json(self) -> bytes:
        """Encode the view as JSON: equal bytes for equal views, and only for these."""
        return msgspec.json.encode({"version": VERSION, **asdict(self)}, order="sorted")


def draw_view(config: ViewConfig, size: int, photo_size: tuple[int, int], seed: int) -> View:
    """Draw a view of a photo of (h, w) pixels, in a square of `size`; a pure function.

    `seed` is any non-negative integer. Crops are drawn as Inception does (Szegedy et al. 2015,
    section 6): the area uniformly, the ratio of the sides uniformly in its logarithm; one that does
    not fit keeps its ratio and shrinks until it does. Raises InputError for a size out of range,
    and for a photo without pixels.
    """
    low, high = SHOWN_SIDES
    if not low <= size <= high:
        raise InputError(f"size of a view is {size}; expected {low} to {high} pixels")
    if min(photo_size) < 1:
        raise InputError(f"a photo of {photo_size[0]} x {photo_size[1]} pixels has no views")
    # A fixed number of draws in a fixed order: no value of `config` changes what others draw.
    share = np.random.Generator(np.random.PCG64(seed)).random(10).tolist()
    height, width = photo_size
    box = (0, 0, width, height)
    if share[0] >= config.whole:
        box = _draw_crop(config, photo_size, share[1:5])
    colour = Colour(
        brightness=_between(1 - config.brightness, 1 + config.brightness, share[6]),
        contrast=_between(1 - config.contrast, 1 + config.contrast, share[7]),
        saturation=_between(1 - config.saturation, 1 + config.saturation, share[8]),
        hue=_between(-config.hue, config.hue, share[9]),
    )
    return View(photo_size, box, size, flip=share[5] < config.flip, colour=colour)


def render(view: View, photo: NDArray[np.uint8]) -> tuple[Tensor, tuple[int, int]]:
    """Render a view of a photo, HWC uint8 RGB, to 3xSxS float32 in [0, 255] and (h, w).

    The view fills (h, w) pixels of the square, from the top left; the rest is zeros. The crop is
    resized by Pillow's bilinear filter, as in the runtime. Raises InputError when the photo is not
    of the size that the view was drawn for.
    """
    if photo.shape != (*view.photo_size, 3) or photo.dtype != np.uint8:
        raise InputError(
            f"the view is of a photo of {view.photo_size[0]} x {view.photo_size[1]} pixels, uint8 "
            f"RGB; got {'x'.join(map(str, photo.shape))} {photo.dtype}; render the photo that it "
            "was drawn for"
        )
    height, width = view.shown_size
    x0, y0, x1, y1 = view.box
    picture = Image.fromarray(np.ascontiguousarray(photo[y0:y1, x0:x1]))
    picture = picture.resize((width, height), Resampling.BILINEAR)
    if view.flip:
        picture = picture.transpose(Transpose.FLIP_LEFT_RIGHT)
    pixels = torch.from_numpy(np.array(view.colour.apply(picture)))  # hxwx3
    square = torch.zeros(3, view.size, view.size)
    square[:, :height, :width] = pixels.permute(2, 0, 1)
    return square, (height, width)


def _draw_crop(
    config: ViewConfig, photo_size: tuple[int, int], share: list[float]
) -> tuple[int, int, int, int]:
    """Return a box, XYXY in pixels of the photo, from four numbers in [0, 1)."""
    height, width = photo_size
    area = _between(*config.scale, share[0]) * height * width
    narrow, broad = config.ratio
    ratio = math.exp(_between(math.log(narrow), math.log(broad), share[1]))
    wide, high = math.sqrt(area * ratio), math.sqrt(area / ratio)
    shrink = min(1.0, width / wide, height / high)
    w = min(width, max(MIN_SIDE, round(wide * shrink)))
    h = min(height, max(MIN_SIDE, round(high * shrink)))
    x, y = int(share[2] * (width - w + 1)), int(share[3] * (height - h + 1))
    return x, y, x + w, y + h


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share
