"""The loop over a stream: decode, encode and the heads of neighbouring frames overlap.

Three threads work at the same time. The stream's reads and decodes; one encodes; the caller's
answers, numbers the tracks, and does what it does with the result. Between the last two at most one
encoded frame waits, and the encoder takes a frame only when there is room for its scene: so with
the policy "latest" no answer is older than two frames' work.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from samclip.engines.machine.host import require_room_for_thread
from samclip.errors import ClosedError, InputError, brief, did_you_mean
from samclip.runtime.photo import changed
from samclip.runtime.results.masks import Masks
from samclip.runtime.scene import Names, Scene, Templates
from samclip.runtime.tasks.follow import Memory, region_embeddings
from samclip.runtime.text.vocabulary import Vocabulary
from samclip.video.answers import FrameResult
from samclip.video.frames import DamagedFrameError, Frame, Grab, Source
from samclip.video.pace import Budget, Effort, FrameChoice, HasInputs, Stillness, choices_for
from samclip.video.stream import QUEUE, VideoStream, check_policy, open_video
from samclip.video.tracks import OtherTracker, Tracker, Tracks

POINTS_PER_SIDE = 16  # of `everything` in a stream: a quarter of a photo's points
STREAM_OPTIONS = ("policy", "queue", "timeout", "reconnect")
Ask = Callable[[Scene], Masks]


class Encoder(HasInputs, Protocol):
    """What a watch needs of a model."""

    def encode(self, image: Any, *, aspects: str | None = None) -> Scene:
        """Run the encoder on a frame."""
        ...

    def vocabulary(self, names: Any, templates: Templates = None) -> Vocabulary:
        """Embed names."""
        ...


class Watch:
    """The answers to the frames of a stream, in order; made by `Model.watch`.

    Iterate over it, in one thread at a time. `names` may be set from any thread, and holds from
    the next frame on that is answered. It ends with `close` or at the end of its `with` block, and
    so does its stream; after that it raises ClosedError.

    Examples:
        >>> with model.watch([scene.image] * 2, ["cup", "cat"], points_per_side=2) as watch:
        ...     first = next(watch)
        ...     watch.names = ["table", "cup"]
        ...     second = next(watch)
        >>> second.masks.vocabulary
        ('table', 'cup')
    """

    def __init__(  # noqa: PLR0913 - the options of Model.watch
        self,
        model: Encoder,
        image_size: int,
        source: Any,
        names: Names | None,
        *,
        prompts: dict[str, Any],
        ask: Ask | None,
        templates: Templates,
        every_n: int,
        max_fps: float | None,
        budget_ms: float | None,
        smaller: Sequence[Encoder] = (),
        skip_still: float | None,
        tracker: Any,
        options: dict[str, Any],
    ) -> None:
        streaming = {name: options.pop(name) for name in STREAM_OPTIONS if name in options}
        known = {*inspect.signature(Scene.everything).parameters} - {"self", "names", "templates"}
        if unknown := sorted(set(options) - known):
            hint = did_you_mean(unknown[0], known | {*STREAM_OPTIONS})
            raise InputError(
                f"there is no option {unknown[0]!r}{hint} of watch, everything or open_video."
            )
        if ask is not None and (prompts or options):
            given = next(iter(prompts or options))
            raise InputError(f"ask answers each frame by itself; leave out {given}.")
        if prompts and options:
            raise InputError(
                f"{next(iter(options))} is an option of `everything`, and prompts are followed. "
                "Leave one of them out."
            )
        if smaller and budget_ms is None:
            raise InputError("smaller models are for budget_ms; give it, or leave smaller out.")
        self._model, self._smaller = model, tuple(smaller)
        self._templates = templates
        self._prompts, self._ask = prompts, ask
        self._vocabulary: Vocabulary | None = None
        self.names = names
        self._choice = FrameChoice(every_n, max_fps)
        self._stillness = Stillness(skip_still, image_size)
        self._budget: Budget[Encoder] = Budget(
            budget_ms,
            {"points_per_side": POINTS_PER_SIDE, **options},
            has_grid=not prompts and ask is None,
        )
        self._tracker = _choose_tracker(tracker)
        self._memory: Memory | None = None
        self._numbers: NDArray[np.int64] = np.zeros(0, np.int64)
        self._last: FrameResult | None = None
        self._ready: _Encoded | None = None
        self._changed = threading.Condition()
        self._failure: Exception | None = None
        self._closed = self._finished = False
        require_room_for_thread()
        self._stream = _open(source, streaming)
        self._thread = threading.Thread(target=self._run, name="samclip-encode", daemon=True)
        self._thread.start()

    @property
    def names(self) -> tuple[str, ...] | None:
        """The names to choose from, None for none; set it to other names or a vocabulary.

        They are embedded by the thread that sets them, which gets the errors of
        `Model.vocabulary`; the loop goes on with the names before until then.
        """
        vocabulary = self._vocabulary
        return None if vocabulary is None else vocabulary.names

    @names.setter
    def names(self, names: Names | None) -> None:
        vocabulary = None if names is None else self._model.vocabulary(names, self._templates)
        for model in self._smaller if vocabulary is not None else ():
            model.vocabulary(vocabulary)  # checks that it has the same text space
        self._vocabulary = vocabulary

    @property
    def stream(self) -> VideoStream:
        """The stream, with its counts of frames that were dropped and damaged."""
        return self._stream

    @property
    def skipped(self) -> int:
        """The frames that were left out on purpose so far, see `every_n` and `max_fps`."""
        return self._choice.skipped

    def __iter__(self) -> Iterator[FrameResult]:
        return self

    def __next__(self) -> FrameResult:
        encoded = self._take()
        vocabulary = self._vocabulary
        if encoded.scene is None:
            result = self._reuse(encoded)
        else:
            with encoded.scene as scene:
                began = time.perf_counter()
                masks, tracks, times = self._answer(scene, vocabulary)
                answer_ms = (time.perf_counter() - began) * 1e3
                canvas = scene.features.letterbox.canvas
            if encoded.effort is not None:
                self._budget.spent(encoded.effort, sum(scene.timings.values()), answer_ms)
            result = _result(encoded, masks, tracks, canvas, {**masks.timings, **times})
        self._last = result
        return result

    def close(self) -> None:
        """End the loop and its stream; closing again does nothing."""
        with self._changed:
            self._closed = True
            waiting, self._ready = self._ready, None
            self._changed.notify_all()
        if waiting is not None and waiting.scene is not None:
            waiting.scene.close()
        self.stream.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _answer(
        self, scene: Scene, vocabulary: Vocabulary | None
    ) -> tuple[Masks, NDArray[np.int64], dict[str, float]]:
        if self._prompts:
            return (*self._follow(scene, vocabulary), {})
        if self._ask is not None:
            masks = self._ask(scene)
            if not isinstance(masks, Masks):
                raise InputError(f"ask must return Masks; got {brief(masks)}.")
            if vocabulary is not None and masks.names is None:
                masks = scene.name(masks, vocabulary)
        else:
            masks = scene.everything(vocabulary, **self._budget.options())
        began = time.perf_counter()
        embeddings = None
        if isinstance(self._tracker, Tracks) and len(masks):
            embeddings = region_embeddings(scene.features, masks.packed)
        tracks = self._tracker.update(masks, embeddings)
        return masks, tracks, {"tracks": (time.perf_counter() - began) * 1e3}

    def _follow(
        self, scene: Scene, vocabulary: Vocabulary | None
    ) -> tuple[Masks, NDArray[np.int64]]:
        """Segment by the prompts in the first frame; find the same objects in those after it."""
        if self._memory is None:
            masks = scene.segment(**self._prompts, names=vocabulary)
            found = np.flatnonzero(masks.areas > 0)
            masks, self._numbers = masks[found], found.astype(np.int64) + 1
            self._memory = scene.remember(masks)
            return masks, self._numbers
        masks = scene.follow(self._memory, vocabulary)
        found = np.flatnonzero(masks.areas > 0)
        return masks[found], self._numbers[found]

    def _reuse(self, encoded: _Encoded) -> FrameResult:
        last = self._last
        assert last is not None  # noqa: S101 - the first frame is never still
        masks = changed(last.masks, image=encoded.frame.image)
        return _result(encoded, masks, last.tracks, last.input_size, {}, reused=True)

    def _take(self) -> _Encoded:
        with self._changed:
            while self._ready is None:
                if self._closed:
                    raise ClosedError("the watch is closed. Begin another one.")
                if self._failure is not None:
                    raise self._failure
                if self._finished:
                    raise StopIteration
                self._changed.wait(0.5)  # wakes for Ctrl-C
            encoded, self._ready = self._ready, None
            self._changed.notify_all()
        return encoded

    def _run(self) -> None:
        """Encode frames until the end, in the thread of this watch."""
        failure: Exception | None = None
        try:
            while self._wait_for_room():
                frame = next(self.stream, None)
                if frame is None:
                    break
                if self._choice.takes(frame):
                    self._encode(frame)
        except Exception as error:  # it is raised where the answers are taken
            failure = None if self._closed else error
        with self._changed:
            self._failure, self._finished = failure, True
            self._changed.notify_all()

    def _wait_for_room(self) -> bool:
        with self._changed:
            while self._ready is not None and not self._closed:
                self._changed.wait()
            return not self._closed

    def _encode(self, frame: Frame) -> None:
        effort = scene = None
        if not self._stillness.is_still(frame.image):
            if self._budget.is_on:
                height, width = frame.image.shape[:2]
                models = (self._model, *self._smaller)
                effort = self._budget.choose(choices_for(models, (height, width)))
                high, wide = effort.choice.canvas
                scene = effort.choice.model.encode(frame.image, aspects=f"{wide}:{high}")
            else:
                scene = self._model.encode(frame.image)
        with self._changed:
            if not self._closed:
                self._ready = _Encoded(frame, scene, self._choice.skipped, effort)
                self._changed.notify_all()
                return
        if scene is not None:
            scene.close()


@dataclass(frozen=True, eq=False)
class _Encoded:
    """A frame and its scene, None for a frame that hardly changed."""

    frame: Frame
    scene: Scene | None
    skipped: int
    effort: Effort[Encoder] | None


def _result(
    encoded: _Encoded,
    masks: Masks,
    tracks: NDArray[np.int64],
    input_size: tuple[int, int],
    timings: dict[str, float],
    *,
    reused: bool = False,
) -> FrameResult:
    frame = encoded.frame
    age = time.monotonic() - frame.taken
    return FrameResult(
        masks=masks,
        tracks=tracks,
        number=frame.number,
        time=frame.time,
        stamp=time.time() - age,
        age_ms=age * 1e3,
        dropped=frame.dropped,
        damaged=frame.damaged,
        skipped=encoded.skipped,
        reused=reused,
        input_size=input_size,
        timings=timings,
    )


def _choose_tracker(given: Any) -> Tracker:
    if given is None:
        return Tracks()
    return given if isinstance(given, Tracks) else OtherTracker(given)


class _Frames:
    """Frames of the caller's own, HxWx3 uint8 RGB, as a connection."""

    is_live, rate = False, None

    def __init__(self, frames: Iterable[NDArray[np.uint8]]) -> None:
        self.total = len(frames) if isinstance(frames, Sized) else None
        self._frames = iter(frames)

    def read(self) -> Grab | None:
        """Take the next frame."""
        image = next(self._frames, None)
        if image is None:
            return None
        if not isinstance(image, np.ndarray):
            raise InputError(
                f"frames must be arrays HxWx3 uint8 RGB; got {brief(image)}. For files pass their "
                "folder."
            )
        if image.size == 0:
            raise DamagedFrameError("the frame has no pixels")
        return Grab(image)

    def close(self) -> None:
        """Do nothing: the iterable is the caller's."""


def _open(source: Any, options: dict[str, Any]) -> VideoStream:
    if isinstance(source, VideoStream):
        if options:
            raise InputError(f"the stream is open already; leave out {next(iter(options))}.")
        return source
    if isinstance(source, Iterable) and not isinstance(source, str | bytes):
        policy = check_policy(options.get("policy")) or "every"
        queue, seconds = options.get("queue", QUEUE), options.get("timeout", 10.0)
        made = Source("the frames given", False, lambda _: _Frames(source))
        return VideoStream(made, policy, queue, seconds, 0.0)
    return open_video(source, **options)
