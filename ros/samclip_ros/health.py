"""The health of the node: frames a second, age, drops, and what went wrong lately.

Needs no ROS; `samclip_ros.node` sends it as `diagnostic_msgs/DiagnosticArray`.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

OK, WARN, ERROR = 0, 1, 2  # as diagnostic_msgs/DiagnosticStatus has them
WINDOW = 10.0  # seconds over which rates and ages are taken
MOST_KEPT = 10_000  # frames: of 1,000 a second


@dataclass(frozen=True)
class Report:
    """A level, a sentence, and pairs of keys and values."""

    level: int
    message: str
    values: tuple[tuple[str, str], ...]


class Health:
    """Counts of a node since it was configured; its methods may be called from any thread.

    Times are seconds of a clock that never goes back.
    """

    def __init__(self, silent_after: float) -> None:
        self._silent_after = silent_after
        self._lock = threading.Lock()
        self._since: float | None = None  # when it was activated, None while it is not
        self._frames: deque[tuple[float, float, float]] = deque(maxlen=MOST_KEPT)
        self._received = self._answered = self._refused = self._failures = 0
        self._last_received: float | None = None
        self._last_refusal: tuple[float, str] | None = None
        self._failure: str | None = None

    def activated(self, now: float) -> None:
        """Begin to expect images."""
        with self._lock:
            self._since, self._last_received, self._failure = now, None, None

    def deactivated(self) -> None:
        """Expect no more images."""
        with self._lock:
            self._since = None
            self._frames.clear()

    def received(self, now: float) -> None:
        """Count a message of the camera."""
        with self._lock:
            self._received += 1
            self._last_received = now

    def answered(self, now: float, age_ms: float, work_ms: float) -> None:
        """Count an answer.

        `age_ms`: from the camera's stamp to now; `work_ms`: from when the frame was taken.
        """
        with self._lock:
            self._answered += 1
            self._failure = None
            self._frames.append((now, age_ms, work_ms))

    def refused(self, now: float, reason: str) -> None:
        """Count a message that was left out."""
        with self._lock:
            self._refused += 1
            self._last_refusal = (now, reason)

    def failed(self, reason: str) -> None:
        """Note that the loop failed, and begins again."""
        with self._lock:
            self._failures += 1
            self._failure = reason

    def report(self, now: float, dropped: int) -> Report:
        """Return the state of now; `dropped`: messages that newer ones replaced."""
        with self._lock:
            while self._frames and self._frames[0][0] < now - WINDOW:
                self._frames.popleft()
            frames = np.asarray(self._frames, np.float64).reshape(-1, 3)
            level, message = self._judge(now, len(frames))
            ages = {"age_ms": frames[:, 1], "work_ms": frames[:, 2]}
            values = {
                "fps": f"{self._rate(now, len(frames)):.1f}",
                **{
                    f"{name}_{word}": f"{value:.0f}" if len(found) else ""
                    for name, found in ages.items()
                    for word, value in (
                        ("median", np.median(found) if len(found) else 0.0),
                        ("max", found.max() if len(found) else 0.0),
                    )
                },
                "received": str(self._received),
                "answered": str(self._answered),
                "dropped": str(dropped),
                "refused": str(self._refused),
                "failures": str(self._failures),
            }
            return Report(level, message, tuple(values.items()))

    def _rate(self, now: float, count: int) -> float:
        if self._since is None:
            return 0.0
        return count / max(min(WINDOW, now - self._since), 1e-3)

    def _judge(self, now: float, count: int) -> tuple[int, str]:
        if self._since is None:
            return OK, "not active"
        if self._failure is not None:
            return ERROR, f"failed, and begins again: {self._failure}"
        if self._last_refusal is not None and now - self._last_refusal[0] < WINDOW:
            return WARN, f"images are left out: {self._last_refusal[1]}"
        since = self._since if self._last_received is None else self._last_received
        if now - since > self._silent_after:
            return WARN, f"no image came for {now - since:.0f} s; check the topic and its QoS"
        return OK, f"{self._rate(now, count):.1f} frames a second"
