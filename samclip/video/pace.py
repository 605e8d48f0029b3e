"""The choice of frames to answer, and of the work on each, by which a loop keeps its pace."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from samclip.errors import InputError, brief
from samclip.video.frames import Frame, Pixels

CELL = 16  # pixels of the encoder's input that are averaged before frames are compared
GRIDS = (32, 24, 16, 12, 8, 6, 4)  # points along a side, the finest first
SPARE = 0.5  # of the budget: below it for so many frames in a row a finer grid is tried
FRAMES_BELOW = 10


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


class Budget:
    """The grid of points of `everything` that keeps a frame within a budget of milliseconds.

    Encoders have one input size, so the number of points is what can be chosen. A frame above the
    budget makes the next one coarser; ten in a row below half of it make it finer.
    """

    def __init__(self, budget_ms: float | None, options: dict[str, Any]) -> None:
        self._budget = check_number("budget_ms", budget_ms, 1)
        self._options = options
        start = int(options.get("points_per_side") or 16)
        self._grids = [grid for grid in GRIDS if grid <= start] or [start]
        self._place = 0
        self._below = 0

    def options(self) -> dict[str, Any]:
        """Return the options of the next `everything`."""
        if self._budget is None:
            return self._options
        return {**self._options, "points_per_side": self._grids[self._place]}

    def spent(self, milliseconds: float) -> None:
        """Note what a frame took."""
        if self._budget is None:
            return
        self._below = self._below + 1 if milliseconds < SPARE * self._budget else 0
        if milliseconds > self._budget:
            self._place = min(self._place + 1, len(self._grids) - 1)
        elif self._below >= FRAMES_BELOW:
            self._place, self._below = max(0, self._place - 1), 0
