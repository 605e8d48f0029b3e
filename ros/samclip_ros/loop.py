"""The loop of the node: messages of a camera in, answers out, in a thread, until it is closed.

Needs no ROS. One encoder pass a frame answers for the label map and for the masks with tracks. What
fails is reported, and the loop begins again after a pause that grows: a robot that drives is not
left without masks because of one failure.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import samclip
from samclip import FrameResult, Masks, Model, Scene, SemanticMap, Vocabulary, Watch
from samclip_ros.camera import Camera
from samclip_ros.images import CameraImageError
from samclip_ros.settings import Settings

FOREVER = 1e6  # seconds that a frame may take to come: a camera that pauses is not an error
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds before the loop begins again


@dataclass(frozen=True)
class Answer:
    """The answer to one message.

    `header`: the message's; `result`: masks, tracks and times; `labels`: the label map; `settings`:
    those it was answered with.
    """

    header: Any
    result: FrameResult
    labels: SemanticMap
    settings: Settings


@dataclass(frozen=True)
class Listener:
    """What the loop calls from its threads.

    `answered`: with each answer; `refused`: with the reason why a message was left out; `failed`:
    with an error and the seconds until the loop begins again.
    """

    answered: Callable[[Answer], None]
    refused: Callable[[CameraImageError], None]
    failed: Callable[[Exception, float], None]


class Loop:
    """Answers to the messages that `put` gets, from when it is made until `close`."""

    def __init__(
        self, model: Model, vocabulary: Vocabulary, settings: Settings, listener: Listener
    ) -> None:
        self._model = model
        self._asked = (vocabulary, settings)
        self._listener = listener
        self._tracks = samclip.Tracks()
        self._last: tuple[SemanticMap, Settings] | None = None
        self._dropped = 0  # by the streams before this one
        self._changed = threading.Lock()
        self._stop = threading.Event()
        self._camera = Camera(listener.refused)
        self._watch: Watch | None = None
        self._thread = threading.Thread(target=self._run, name="samclip-ros", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """The messages so far that newer ones replaced."""
        with self._changed:
            stream = 0 if self._watch is None else self._watch.stream.dropped
            return self._dropped + self._camera.replaced + stream

    def put(self, message: Any) -> None:
        """Take a message of the camera, in place of the one that waits; from any thread."""
        self._camera.put(message)

    def change(self, vocabulary: Vocabulary, settings: Settings) -> None:
        """Set names and settings for the frames that are answered from now on; from any thread."""
        self._asked = (vocabulary, settings)

    def close(self) -> None:
        """End the loop; waits for the frame that is worked on, which is not reported."""
        with self._changed:
            self._stop.set()
            self._camera.close()
            watch = self._watch
        if watch is not None:
            watch.close()
        self._thread.join()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stop.is_set():
            try:
                self._answer_frames()
            except samclip.ClosedError:
                return  # by `close`
            except Exception as error:  # reported, and tried again
                if self._stop.is_set():
                    return
                self._listener.failed(error, pause)
                self._stop.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _answer_frames(self) -> None:
        settings = self._asked[1]
        with self._changed:
            if self._stop.is_set():
                return
            camera = self._camera = Camera(self._listener.refused)
            watch = self._watch = self._model.watch(
                camera,
                ask=self._ask,
                tracker=self._tracks,
                max_fps=settings.max_fps or None,
                skip_still=settings.skip_still or None,
                policy="latest",
                timeout=FOREVER,
            )
        try:
            for result in watch:
                if self._stop.is_set() or self._last is None:
                    return
                labels, used = self._last
                header = camera.header(result.number)
                self._listener.answered(Answer(header, result, labels, used))
        finally:
            camera.close()
            watch.close()
            with self._changed:
                self._dropped += camera.replaced + watch.stream.dropped
                camera.replaced, self._watch = 0, None

    def _ask(self, scene: Scene) -> Masks:
        """Answer a frame, in the thread that iterates over the watch; it may be reused after."""
        vocabulary, settings = self._asked
        labels = scene.semantic(vocabulary, refine=settings.refine, background=settings.floor())
        self._last = labels, settings
        if settings.detections:
            return scene.everything(vocabulary, points_per_side=settings.points_per_side)
        return scene.name(np.zeros((0, *scene.size), np.bool_), vocabulary)
