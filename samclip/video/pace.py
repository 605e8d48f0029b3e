"""The choice of frames to answer, and of the work on each, by which a loop keeps its pace."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from samclip.errors import InputError, brief
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Manifest
from samclip.runtime.pixels.image import Letterbox
from samclip.video.frames import Frame, Pixels

CELL = 16  # pixels of the encoder's input that are averaged before frames are compared
GRIDS = (32, 24, 16, 12, 8, 6, 4)  # points along a side, the finest first
ROOM = 0.9  # of the budget: what a frame may take after a step back, as it is expected
FRAMES_BELOW, MOST_FRAMES_BELOW = 10, 320  # that must leave room in a row before one


def check_number(what: str, value: float | None, least: float, whole: bool = False) -> float | None:
    """Return a number above or at `least`, or None; raises InputError."""
    if value is None:
        return None
    kind = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or math.isnan(value) or value < least:
        raise InputError(
            f"{what} must be {'a whole number' if whole else 'a number'} of at least {least:g}"
            f"{'' if whole else ', or None'}; got {brief(value)}."
        )
    return value


class FrameChoice:
    """Which frames are answered: every n-th, and at most so many a second of the stream's time."""

    def __init__(self, every_n: int, max_fps: float | None) -> None:
        self._every_n = int(check_number("every_n", every_n, 1, whole=True) or 1)
        fps = check_number("max_fps", max_fps, 0.001)
        self._gap = 0.0 if fps is None else 1 / fps
        self._due = -math.inf
        self._seen = 0
        self.skipped = 0

    def takes(self, frame: Frame) -> bool:
        """Whether the frame is answered; else it is counted as skipped."""
        turn = self._seen % self._every_n == 0
        self._seen += 1
        if turn and frame.time >= self._due - 1e-6:
            # From when it was due, so that the average is kept; from its own time after a pause.
            is_late = frame.time - self._due >= self._gap
            self._due = (frame.time if is_late else self._due) + self._gap
            return True
        self.skipped += 1
        return False


class Stillness:
    """Whether a frame hardly differs from the last one that was encoded.

    Frames are compared at the encoder's input size, averaged over cells of 16 pixels: noise of the
    sensor goes, and what is smaller than a token does not count. `least` is the difference of the
    cell that changed most, in grey levels of 0 to 255, from which a frame counts as another one.
    """

    def __init__(self, least: float | None, image_size: int) -> None:
        self._least = check_number("skip_still", least, 0)
        self._side = max(1, image_size // CELL)
        self._last: tuple[tuple[int, int], NDArray[np.float32]] | None = None

    def is_still(self, image: Pixels) -> bool:
        """Whether the image is as the last one; if not, it is the one to compare with next."""
        if self._least is None:
            return False
        height, width = image.shape[:2]
        scale = self._side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        last = self._last
        self._last = ((height, width), small)
        if last is None or last[0] != (height, width):
            return False  # masks have the size of their frame
        if float(np.abs(small - last[1]).max()) >= self._least:
            return False
        self._last = last  # slow changes add up
        return True


class HasInputs(Protocol):
    """What a budget needs of a model: the inputs that its encoders take."""

    @property
    def manifest(self) -> Manifest:
        """The manifest, whose `preprocessing` has the longer side of the inputs."""
        ...

    @property
    def bundle(self) -> Bundle:
        """The bundle, whose `canvases` are the (h, w) of the inputs."""
        ...


Encoder = TypeVar("Encoder", bound=HasInputs)


@dataclass(frozen=True)
class EncoderChoice(Generic[Encoder]):
    """An input for a frame: the model, and the canvas (h, w) that the frame is placed on."""

    model: Encoder
    canvas: tuple[int, int]

    @property
    def pixels(self) -> int:
        """The pixels of the input, by which the encoder's time grows."""
        return math.prod(self.canvas)


def choices_for(
    models: Sequence[Encoder], size: tuple[int, int]
) -> tuple[EncoderChoice[Encoder], ...]:
    """Return the inputs for a frame of (h, w) pixels, the one that the first model takes first.

    Those that follow have fewer pixels each. An input on which the frame is no larger than on one
    with fewer pixels is left out.
    """
    first = models[0]
    usual = Letterbox.choose(size, first.manifest.preprocessing.image_size, first.bundle.canvases)
    scales: dict[EncoderChoice[Encoder], float] = {}
    for model in models:
        for canvas in model.bundle.canvases:
            side = model.manifest.preprocessing.image_size
            placed = Letterbox.choose(size, side, (canvas,)).input_size
            scales[EncoderChoice(model, canvas)] = min(placed[0] / size[0], placed[1] / size[1])
    best = EncoderChoice(first, usual.canvas)
    found: list[EncoderChoice[Encoder]] = []
    for choice in sorted(scales, key=lambda each: (each.pixels, -scales[each])):
        if choice.pixels < best.pixels and scales[choice] > max(
            (scales[other] for other in found), default=0.0
        ):
            found.append(choice)
    return (best, *reversed(found))


@dataclass(frozen=True)
class Effort(Generic[Encoder]):
    """The input that was chosen for a frame, its place among those there are, and the one before.

    `finer`: the pixels of the next larger input, as a multiple of this one's.
    """

    choice: EncoderChoice[Encoder]
    place: int
    last: int
    finer: float


class Budget(Generic[Encoder]):
    """The encoder's input and the grid of `everything` that keep a frame within milliseconds.

    A frame above the budget makes that of the two coarser that took more of it, or the other one
    where the first has nothing left. One is made finer again when enough frames in a row leave room
    for it: the encoder's time grows with the pixels of its input, the answer's with the points of
    the grid. Where that turns out to be above the budget, it takes twice as many frames the next
    time. The first frame on an input loads its graphs, and does not count.
    """

    def __init__(
        self, budget_ms: float | None, options: dict[str, Any], *, has_grid: bool = True
    ) -> None:
        self._budget = check_number("budget_ms", budget_ms, 1)
        self._options = options
        start = int(options.get("points_per_side") or 16)
        grids = [grid for grid in GRIDS if grid < start] if has_grid else []
        self._grids = [start, *grids]
        self._grid = self._input = 0
        self._known: set[EncoderChoice[Encoder]] = set()
        self._fitting, self._wait = 0, FRAMES_BELOW
        self._since_finer: int | None = None

    @property
    def is_on(self) -> bool:
        """Whether there is a budget."""
        return self._budget is not None

    def choose(self, choices: Sequence[EncoderChoice[Encoder]]) -> Effort[Encoder]:
        """Choose the input of the next frame among those of `choices_for`."""
        last = len(choices) - 1
        place = min(self._input, last)
        finer = choices[max(0, place - 1)].pixels / choices[place].pixels
        return Effort(choices[place], place, last, finer)

    def options(self) -> dict[str, Any]:
        """Return the options of the next `everything`."""
        if self._budget is None:
            return self._options
        return {**self._options, "points_per_side": self._grids[self._grid]}

    def spent(self, effort: Effort[Encoder], encode_ms: float, answer_ms: float) -> None:
        """Note what the encoder and the answer of a frame took.

        Frames that were encoded before the last step, and wait while it is taken, do not count.
        """
        if self._budget is None or effort.place != min(self._input, effort.last):
            return
        if effort.choice not in self._known:
            self._known.add(effort.choice)
            return
        if self._since_finer is not None:
            self._since_finer += 1
        if encode_ms + answer_ms > self._budget:
            self._coarser(effort, encode_ms >= answer_ms)
        else:
            self._maybe_finer(effort, encode_ms, answer_ms)

    def _coarser(self, effort: Effort[Encoder], encoder_first: bool) -> None:
        if self._since_finer is not None and self._since_finer <= self._wait:
            self._wait = min(2 * self._wait, MOST_FRAMES_BELOW)
        self._fitting, self._since_finer = 0, None
        can_shrink = effort.place < effort.last
        can_thin = self._grid < len(self._grids) - 1
        if can_shrink and (encoder_first or not can_thin):
            self._input = effort.place + 1
        elif can_thin:
            self._grid += 1

    def _maybe_finer(self, effort: Effort[Encoder], encode_ms: float, answer_ms: float) -> None:
        assert self._budget is not None  # noqa: S101 - `spent` returns without one
        room = ROOM * self._budget
        grids = self._grids[max(0, self._grid - 1)], self._grids[self._grid]
        larger = effort.place > 0 and encode_ms * effort.finer + answer_ms <= room
        denser = self._grid > 0 and encode_ms + answer_ms * (grids[0] / grids[1]) ** 2 <= room
        self._fitting = self._fitting + 1 if larger or denser else 0
        if self._since_finer is not None and self._since_finer > self._wait:
            self._since_finer, self._wait = None, FRAMES_BELOW
        if self._fitting >= self._wait:
            if larger:
                self._input = effort.place - 1
            else:
                self._grid -= 1
            self._fitting, self._since_finer = 0, 0
