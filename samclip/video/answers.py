"""The answer to one frame of a stream: masks, the numbers of their tracks, and where time went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.runtime.results.captions import Label, font_size, write_labels
from samclip.runtime.results.drawing import NAME_LETTERS, draw_masks, shorten
from samclip.runtime.results.masks import Masks
from samclip.runtime.results.palette import DARK, colour
from samclip.runtime.results.viewing import Viewable, describe_size

SHOWN_STAGES = ("encode", "prompts", "upscale", "names")


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class FrameResult(Viewable):
    """The answer to a frame of a stream; made by `Model.watch`.

    `masks`: N masks of the frame, whose `image` is the frame; `tracks`: N int64, a number for each
    mask that stays with its object from frame to frame, -1 where a tracker gave none; `number`:
    counts the frames of the stream from 0, those that were dropped included; `time`: seconds from
    the beginning of the stream; `stamp`: when the frame was decoded, seconds since 1970; `age_ms`:
    from then to this answer; `dropped`, `damaged`: frames of the stream so far that were dropped
    because they came too fast, and that could not be decoded; `skipped`: frames so far that were
    left out on purpose (`every_n`, `max_fps`); `reused`: whether the frame hardly changed, and the
    masks are those of the frame before; `input_size`: (h, w) of the encoder's input, which
    `budget_ms` chooses; `timings`: ms by stage, see `Scene.timings`, and "tracks".

    Examples:
        >>> with model.watch([scene.image], boxes=[(172, 17, 410, 308)]) as watch:
        ...     result = next(watch)
        >>> result.number, result.tracks.tolist(), result.draw().shape
        (0, [1], (400, 600, 3))
    """

    masks: Masks
    tracks: NDArray[np.int64]
    number: int
    time: float
    stamp: float
    age_ms: float
    dropped: int = 0
    damaged: int = 0
    skipped: int = 0
    reused: bool = False
    input_size: tuple[int, int] = (0, 0)
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def image(self) -> NDArray[np.uint8]:
        """The frame: HxWx3 uint8 RGB, read-only."""
        return np.asarray(self.masks.image)

    @property
    def names(self) -> tuple[str, ...] | None:
        """The best name of each mask, or None when no names were given."""
        return self.masks.names

    def draw(self, *, status: bool = True) -> NDArray[np.uint8]:
        """Draw masks, their tracks and names on the frame: HxWx3 uint8 RGB.

        A track keeps its colour. `status`: a line with the frame's number, its age and its times.
        """
        captions = []
        names = self.names
        for row, track in enumerate(self.tracks.tolist()):
            number = f"#{track}" if track >= 0 else ""
            name = "" if names is None else shorten(names[row], NAME_LETTERS)
            captions.append(f"{number} {name}".strip())
        tints = [colour(max(track, 0)) for track in self.tracks.tolist()]
        picture = draw_masks(self.image, self.masks.packed, captions, tints=tints)
        if not status:
            return picture
        height, width = picture.shape[:2]
        size = font_size(height, width)
        line = Label(self.describe(), (width / 2, height - size), DARK)
        return write_labels(picture, [line])

    def describe(self) -> str:
        """Return the frame's number, age and times in one line."""
        stages = [
            f"{name} {self.timings[name]:.0f}" for name in SHOWN_STAGES if name in self.timings
        ]
        parts = [f"frame {self.number}", f"age {self.age_ms:.0f} ms", *stages]
        if self.dropped:
            parts.append(f"dropped {self.dropped}")
        return ", ".join(["reused", *parts[:2]] if self.reused else parts)

    def to_supervision(self) -> Any:
        """Convert to `supervision.Detections` with `tracker_id`; see `Masks.to_supervision`."""
        detections = self.masks.to_supervision()
        detections.tracker_id = self.tracks.astype(int)
        return detections

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON: those of `Masks.to_dict`, with tracks and times."""
        record = self.masks.to_dict()
        for entry, track in zip(record["masks"], self.tracks.tolist(), strict=True):
            del entry["prompt_index"]
            entry["track"] = track
        return {
            "frame": self.number,
            "time": self.time,
            "stamp": self.stamp,
            "age_ms": self.age_ms,
            "dropped": self.dropped,
            "damaged": self.damaged,
            "skipped": self.skipped,
            "reused": self.reused,
            "input_size": list(self.input_size),
            "timings": {name: float(ms) for name, ms in self.timings.items()},
            **record,
        }

    def __repr__(self) -> str:
        count = len(self.masks)
        masks = f"{count:,} mask{'' if count == 1 else 's'}"
        return f"FrameResult({self.number}, {masks} of {describe_size(self.masks.packed.size)})"

    def _make_figure(self, **options: Any) -> NDArray[np.uint8]:
        return self.draw(**options)
