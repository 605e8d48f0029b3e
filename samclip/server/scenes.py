"""Scenes that clients come back to: bounded in bytes, number and time since their last use."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from samclip.runtime.scene import Scene
from samclip.server.problems import ProblemError

ID_BYTES = 16  # 128 random bits: nobody finds the scene of another client by trying
MOST_ID = 64  # characters


@dataclass
class KeptScene:
    """A scene, its id, its bytes in memory, and when it was last used (monotonic seconds)."""

    id: str
    scene: Scene
    bytes: int
    used: float


class SceneStore:
    """Keeps scenes by id; the one used longest ago goes when a new one needs its room.

    A scene that goes is not closed: its memory is freed when the requests that use it have ended.
    May be used from any thread. `clock`: monotonic seconds.
    """

    def __init__(
        self,
        most: int,
        most_bytes: int,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds = seconds
        self.evicted = 0
        self._most = most
        self._most_bytes = most_bytes
        self._clock = clock
        self._kept: OrderedDict[str, KeptScene] = OrderedDict()  # used longest ago first
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """The bytes of all scenes that are kept."""
        with self._lock:
            return sum(kept.bytes for kept in self._kept.values())

    def add(self, scene: Scene) -> KeptScene:
        """Keep a scene; ProblemError 413 for one that is larger than all room there is."""
        size = scene_bytes(scene)
        if size > self._most_bytes:
            raise ProblemError(
                "too-large",
                f"the scene of this image takes {size:,} bytes; {self._most_bytes:,} are kept of "
                "all scenes. Send a smaller image.",
            )
        kept = KeptScene(secrets.token_urlsafe(ID_BYTES), scene, size, self._clock())
        with self._lock:
            self._expire()
            used = sum(each.bytes for each in self._kept.values())
            while len(self._kept) >= self._most or used + size > self._most_bytes:
                _, oldest = self._kept.popitem(last=False)
                used -= oldest.bytes
                self.evicted += 1
            self._kept[kept.id] = kept
        return kept

    def get(self, scene_id: str) -> KeptScene:
        """Return a scene, which counts as used now; ProblemError 404 for an unknown id."""
        with self._lock:
            self._expire()
            kept = self._kept.get(scene_id)
            if kept is None:
                raise ProblemError(
                    "scene-not-found",
                    f"there is no scene {scene_id[:MOST_ID]!r} here: it was never made, removed, "
                    "unused for too long, or it gave way to others. Send the image again.",
                )
            kept.used = self._clock()
            self._kept.move_to_end(scene_id)
            return kept

    def remove(self, scene_id: str) -> None:
        """Let a scene go; ProblemError 404 for an unknown id."""
        self.get(scene_id)
        with self._lock:
            self._kept.pop(scene_id, None)

    def expire(self) -> None:
        """Let all scenes go that were not used for too long."""
        with self._lock:
            self._expire()

    def clear(self) -> None:
        """Let all scenes go."""
        with self._lock:
            self._kept.clear()

    def _expire(self) -> None:
        latest = self._clock() - self.seconds
        while self._kept and next(iter(self._kept.values())).used < latest:
            self._kept.popitem(last=False)
            self.evicted += 1


def scene_bytes(scene: Scene) -> int:
    """Return the bytes of a scene: its image, and the encoder's outputs on their device."""
    total = 3 * math.prod(scene.size)
    for name in scene.tensor_names:
        tensor = scene.tensor(name)
        total += math.prod(tensor.shape) * tensor.dtype.itemsize
    return total
