"""Views: the crops of a photo that teachers and student are shown, drawn from a seed.

Teacher and student see the same crop, flip and colours, as function matching asks for (Beyer et
al. 2022, "Knowledge distillation: A good teacher is patient and consistent", section 3).

Colour changes of a view: brightness, contrast, saturation and hue as one affine map of RGB.
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
from samclip.runtime.pixels.image import Letterbox

GREY = np.array([0.299, 0.587, 0.114])  # luma of ITU-R BT.601, as Pillow's mode L
MIDDLE = 127.5
# To luma and the two chroma axes I and Q of NTSC, whose plane a change of hue turns.
TO_YIQ = np.array([GREY, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


@dataclass(frozen=True)
class Colour:
    """Factors that leave a picture alone when they are 1; `hue` is an angle in degrees.

    Brightness multiplies; contrast stretches about middle grey; saturation stretches about each
    pixel's grey; hue turns the chroma.
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
        """Change an RGB picture; values are rounded and cut to [0, 255]."""
        if self.is_plain:
            return picture
        rows = np.concatenate([self.matrix(), np.full((3, 1), self.offset())], axis=1)  # 3x4
        return picture.convert("RGB", tuple(rows.ravel().tolist()))

    def matrix(self) -> NDArray[np.float64]:
        """Return the linear part, 3x3: new RGB = matrix @ RGB + offset."""
        grey = np.tile(GREY, (3, 1))  # 3x3: every channel becomes the luma
        saturate = self.saturation * np.eye(3) + (1 - self.saturation) * grey
        return self.brightness * self.contrast * saturate @ self._turn()

    def offset(self) -> float:
        """Return what is added to every channel, in units of [0, 255]."""
        return (1 - self.contrast) * MIDDLE

    def _turn(self) -> NDArray[np.float64]:
        angle = math.radians(self.hue)
        cosine, sine = math.cos(angle), math.sin(angle)
        chroma = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
        return np.asarray(np.linalg.inv(TO_YIQ) @ chroma @ TO_YIQ, np.float64)


VERSION = 1  # of what a view looks like; part of its JSON, so that caches notice a change
MIN_SIDE = 8  # pixels of the photo that a crop has at least, where the photo has them
SHOWN_SIDES = (16, 4096)
PLAIN = Colour()


@dataclass(frozen=True)
class ViewOptions:
    """How views are drawn; `size` is S, the side in pixels of the square that they are put in.

    `scale`: the least and the greatest share of the photo's area that a crop has; `ratio`: the
    least and the greatest width / height of a crop; `whole`: the share of views that show the whole
    photo instead; `flip`: the share that is mirrored. `brightness`, `contrast` and `saturation` b
    give factors drawn from [1 - b, 1 + b], `hue` an angle in degrees from [-hue, hue]. Beyer et al.
    draw areas from almost nothing to all; 0.1 is our choice for small data sets of small photos.
    Raises InputError for values out of range.
    """

    size: int
    scale: tuple[float, float] = (0.1, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    whole: float = 0.25
    flip: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        low, high = SHOWN_SIDES
        _check("size", self.size, low <= self.size <= high, f"{low} to {high} pixels")
        _check(
            "scale", self.scale, 0 < self.scale[0] <= self.scale[1] <= 1, "0 < least <= most <= 1"
        )
        _check("ratio", self.ratio, 0 < self.ratio[0] <= self.ratio[1], "0 < least <= most")
        for name in ("whole", "flip", "brightness", "contrast", "saturation"):
            value = getattr(self, name)
            _check(name, value, 0 <= value <= 1, "0 to 1")
        _check("hue", self.hue, 0 <= self.hue <= 180, "0 to 180 degrees")

    @classmethod
    def plain(cls, size: int) -> ViewOptions:
        """Show every photo whole and unchanged, for evaluation."""
        return cls(size, whole=1.0, flip=0.0, brightness=0.0, contrast=0.0, saturation=0.0)


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
        """Write the view so that equal views, and they alone, give equal bytes."""
        return msgspec.json.encode({"version": VERSION, **asdict(self)}, order="sorted")


def draw_view(options: ViewOptions, photo_size: tuple[int, int], seed: int) -> View:
    """Draw a view of a photo of (h, w) pixels: a pure function of its arguments.

    `seed` is any integer from 0 on. Crops are drawn as Inception does (Szegedy et al. 2015, section
    6): the area uniformly, the ratio of the sides uniformly in its logarithm; one that does not fit
    keeps its ratio and shrinks until it does. Raises InputError for a photo without pixels.
    """
    if min(photo_size) < 1:
        raise InputError(f"a photo of {photo_size[0]} x {photo_size[1]} pixels has no views")
    # A fixed number of draws in a fixed order: no option changes what the others get.
    share = np.random.Generator(np.random.PCG64(seed)).random(10).tolist()
    height, width = photo_size
    box = (0, 0, width, height)
    if share[0] >= options.whole:
        box = _crop(options, photo_size, share[1:5])
    colour = Colour(
        brightness=_between(1 - options.brightness, 1 + options.brightness, share[6]),
        contrast=_between(1 - options.contrast, 1 + options.contrast, share[7]),
        saturation=_between(1 - options.saturation, 1 + options.saturation, share[8]),
        hue=_between(-options.hue, options.hue, share[9]),
    )
    return View(photo_size, box, options.size, share[5] < options.flip, colour)


def render(view: View, photo: NDArray[np.uint8]) -> tuple[Tensor, tuple[int, int]]:
    """Render a view of a photo, HWC uint8 RGB: 3xSxS float32 in [0, 255] and (h, w).

    (h, w) is what the view fills of the square, from the top left; the rest is zeros. Resized by
    Pillow's bilinear filter, as the runtime does; only the crop is resampled. Raises InputError
    when the photo has another size than the view was drawn for.
    """
    if photo.shape != (*view.photo_size, 3) or photo.dtype != np.uint8:
        raise InputError(
            f"the view is of a photo of {view.photo_size[0]} x {view.photo_size[1]} pixels, uint8 "
            f"RGB; got {'x'.join(map(str, photo.shape))} {photo.dtype}"
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


def _crop(
    options: ViewOptions, photo_size: tuple[int, int], share: list[float]
) -> tuple[int, int, int, int]:
    """Draw a box, XYXY in pixels of the photo, from four numbers in [0, 1)."""
    height, width = photo_size
    area = _between(*options.scale, share[0]) * height * width
    narrow, broad = options.ratio
    ratio = math.exp(_between(math.log(narrow), math.log(broad), share[1]))
    wide, high = math.sqrt(area * ratio), math.sqrt(area / ratio)
    shrink = min(1.0, width / wide, height / high)
    w = _side(wide * shrink, width)
    h = _side(high * shrink, height)
    x, y = int(share[2] * (width - w + 1)), int(share[3] * (height - h + 1))
    return x, y, x + w, y + h


def _side(drawn: float, photo: int) -> int:
    return min(photo, max(MIN_SIDE, round(drawn)))


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def _check(name: str, value: object, fits: bool, expected: str) -> None:
    if not fits:
        raise InputError(f"{name} of a view is {value}; expected {expected}")
