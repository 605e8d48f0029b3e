"""Questions about one scene that wait at the same time, answered by joint runs of the decoder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from samclip.errors import SamclipError, SamclipWarning, collect_warnings
from samclip.runtime.photo import changed
from samclip.runtime.pixels.prompts import Prompt, parse_prompts
from samclip.runtime.results.masks import Masks
from samclip.runtime.scene import Names, Scene, Templates
from samclip.runtime.stages import add_times, stopwatch
from samclip.runtime.tasks.segment import segment
from samclip.server.answers import Content
from samclip.server.lanes import Lane

MOST_PROMPTS = 64  # of questions that are joined


Warned = list[tuple[type[SamclipWarning], str]]


@dataclass(frozen=True, kw_only=True)
class SegmentQuestion:
    """The arguments of `Scene.segment`, and what makes an answer's content of the masks.

    `get_names`: returns the names, or a vocabulary of them, and the templates; `render` gets the
    masks and the warnings about the question.
    """

    points: Any = None
    labels: Any = None
    boxes: Any = None
    mask: Any = None
    multimask: bool = False
    get_names: Callable[[], tuple[Names | None, Templates]] = lambda: (None, None)
    return_logits: bool = False
    name_by: Any = None
    render: Callable[[Masks, Warned], Content]

    def ask(self, scene: Scene) -> Masks:
        """Answer this question alone."""
        names, templates = self.get_names()
        return scene.segment(
            self.points,
            self.labels,
            self.boxes,
            self.mask,
            multimask=self.multimask,
            names=names,
            templates=templates,
            return_logits=self.return_logits,
            name_by=self.name_by,
        )

    @property
    def may_join(self) -> bool:
        """Whether it differs from others in prompts and names alone."""
        return not (self.multimask or self.return_logits or self.name_by)


Outcome = Content | Exception


def answer_jointly(scene: Scene, questions: Sequence[SegmentQuestion]) -> list[Outcome]:
    """Answer questions about one scene: each its content, or the error it would get alone.

    The prompts of those that may be joined go through the decoder together. Its batches have the
    answers of its single runs, bit by bit in ONNX Runtime on CPUs.
    """
    masks = _segment_joined(scene, questions)
    return [_answer(scene, question, masks.get(index)) for index, question in enumerate(questions)]


def _segment_joined(
    scene: Scene, questions: Sequence[SegmentQuestion]
) -> dict[int, tuple[Masks, Warned]]:
    """Return the masks, without names, of the questions that were joined, by their places."""
    parsed: dict[int, tuple[tuple[Prompt, ...], Warned]] = {}
    if sum(question.may_join for question in questions) > 1:
        for index, question in enumerate(questions):
            with collect_warnings() as warned:
                if question.may_join and (prompts := _parse(scene, question)):
                    parsed[index] = prompts, warned
    together = [prompt for prompts, _ in parsed.values() for prompt in prompts]
    if len(parsed) < 2 or len(together) > MOST_PROMPTS:
        return {}
    try:
        with stopwatch() as watch:
            answer = segment(scene.features, together, scene.image)
    except SamclipError:  # of one of them, or of all together: each is asked alone
        return {}
    timings = add_times(scene.timings, watch.times)
    found: dict[int, tuple[Masks, Warned]] = {}
    begin = 0
    for index, (prompts, warned) in parsed.items():
        end = begin + len(prompts)
        masks = changed(
            answer[begin:end],
            prompt_index=np.arange(len(prompts)),
            prompts=answer.prompts[begin:end],
            timings=timings,
        )
        found[index], begin = (masks, warned), end
    return found


def _parse(scene: Scene, question: SegmentQuestion) -> tuple[Prompt, ...]:
    """Return the prompts of a question; none where they are refused, which is said later."""
    try:
        return parse_prompts(
            scene.size,
            scene.features.mask_size,
            points=question.points,
            labels=question.labels,
            boxes=question.boxes,
            mask=question.mask,
        )
    except SamclipError:
        return ()


def _answer(
    scene: Scene, question: SegmentQuestion, joined: tuple[Masks, Warned] | None
) -> Outcome:
    """Name the masks of a joined question, or ask it alone; return its content or its error."""
    try:
        with collect_warnings() as warned:
            if joined is None:
                masks = question.ask(scene)
            else:
                masks, earlier = joined
                warned.extend(earlier)
                names, templates = question.get_names()
                if names is not None:
                    named = scene.name(masks, names, templates)
                    own = {
                        stage: took - scene.timings.get(stage, 0.0)
                        for stage, took in named.timings.items()
                    }
                    masks = changed(named, timings=add_times(masks.timings, own))
        return question.render(masks, warned)
    except Exception as error:
        return error


Pair = tuple[SegmentQuestion, "asyncio.Future[Content]"]


@dataclass
class _Waiting:
    """The questions about a scene that no thread has taken yet."""

    pairs: list[Pair] = field(default_factory=list)
    is_running: bool = False


class Joiner:
    """Collects the questions about each scene while the heads work, and answers them together.

    `observe` is called with the number of questions of each answer. For one event loop.
    """

    def __init__(self, lane: Lane, observe: Callable[[int], object]) -> None:
        self._lane = lane
        self._observe = observe
        self._waiting: dict[int, _Waiting] = {}  # by the id of a scene that is in use
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, scene: Scene, question: SegmentQuestion) -> Content:
        """Answer a question, together with others about this scene that wait when it does."""
        future: asyncio.Future[Content] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(id(scene), _Waiting())
        waiting.pairs.append((question, future))
        if not waiting.is_running:
            waiting.is_running = True
            task = asyncio.create_task(self._work_off(scene, waiting))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _work_off(self, scene: Scene, waiting: _Waiting) -> None:
        taken: list[Pair] = []

        def work() -> list[Outcome]:
            # In the thread, at the last moment: all that has come by now is answered together.
            there = waiting.pairs[:]
            del waiting.pairs[: len(there)]
            taken.extend(pair for pair in there if not pair[1].done())
            return answer_jointly(scene, [question for question, _ in taken])

        try:
            while waiting.pairs:
                taken.clear()
                outcomes = await self._lane.run(work)
                self._observe(len(taken))
                for (_, future), outcome in zip(taken, outcomes, strict=True):
                    if future.done():  # its client has gone
                        continue
                    if isinstance(outcome, Exception):
                        future.set_exception(outcome)
                    else:
                        future.set_result(outcome)
        except Exception as error:
            for _, future in (*taken, *waiting.pairs):
                if not future.done():
                    future.set_exception(error)
        finally:
            waiting.is_running = False
            self._waiting.pop(id(scene), None)
