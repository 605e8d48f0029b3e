"""The service: questions of requests, through the lanes to the model, and back as content."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.errors import collect_warnings
from samclip.json_text import to_json
from samclip.runtime.graph_outputs import MASK_STRIDE
from samclip.runtime.model import Model
from samclip.runtime.results.classification import SemanticMap
from samclip.runtime.results.masks import Masks
from samclip.runtime.scene import Scene
from samclip.runtime.tasks.regions import pack_given
from samclip.runtime.text.vocabulary import Vocabulary
from samclip.server.answers import AnyAnswer, Content, draw, list_warnings, to_content
from samclip.server.joining import Joiner, SegmentQuestion, Warned
from samclip.server.lanes import Lane
from samclip.server.metrics import Metrics
from samclip.server.problems import ProblemError
from samclip.server.questions import (
    AnyQuestion,
    Classify,
    Everything,
    Name,
    Segment,
    Semantic,
    check_amounts,
)
from samclip.server.scenes import KeptScene, SceneStore
from samclip.server.settings import Limits
from samclip.version import __version__

LEAST_HEADS = 2  # threads for heads, so that a slow question does not hold up a click


class Service:
    """Answers questions with one model, within limits.

    An image waits for the encoder, which runs as often at once as `streams` says; masks of
    everything wait there as well, since they take as long. Other questions about a scene wait for
    the heads. Coroutines belong to one event loop.

    `saved`: names with their embeddings; questions with these names are answered by them. Raises
    VocabularyError where the model cannot use it.
    """

    def __init__(
        self,
        model: Model,
        limits: Limits,
        metrics: Metrics,
        streams: int = 1,
        saved: Vocabulary | None = None,
    ) -> None:
        self.model = model
        self.saved = None if saved is None else model.vocabulary(saved)
        self.limits = limits
        self.is_open = True
        self.scenes = SceneStore(limits.scenes, limits.scene_bytes, limits.scene_seconds)
        self.encoder = Lane("encoder", streams, limits.queue, limits.queue_seconds)
        heads = max(LEAST_HEADS, streams)
        self.heads = Lane("heads", heads, limits.queue, limits.queue_seconds)
        self._metrics = metrics
        self._joiner = Joiner(self.heads, metrics.joined.observe)
        for lane in (self.encoder, self.heads):
            metrics.watch(
                f"samclip_{lane.name}_waiting",
                f"Requests that wait for the {lane.name}.",
                partial(getattr, lane, "waiting"),
            )
        metrics.watch("samclip_scenes", "Scenes that are kept.", lambda: len(self.scenes))
        metrics.watch(
            "samclip_scene_bytes", "Bytes of the scenes that are kept.", lambda: self.scenes.bytes
        )
        metrics.watch(
            "samclip_encoder_passes", "Runs of the encoder.", lambda: model.encoder_passes
        )

    def describe(self) -> dict[str, Any]:
        """Return what a client needs to know of the model, and the limits."""
        manifest = self.model.manifest
        head = manifest.head
        return {
            "samclip": __version__,
            "models": [
                {
                    "name": manifest.name,
                    "backend": self.model.backend,
                    "image_size": manifest.preprocessing.image_size,
                    "mask_size": manifest.preprocessing.image_size // MASK_STRIDE,
                    "names": head is not None and manifest.text is not None,
                    "semantic": manifest.clip_head is not None or manifest.clip_tower is not None,
                    "trained_head": None if head is None else head.trained,
                    "saved_names": [] if self.saved is None else list(self.saved.names),
                }
            ],
            "limits": {name: getattr(self.limits, name) for name in Limits.__dataclass_fields__},
        }

    async def add_scene(self, image: bytes | None) -> tuple[KeptScene, Warned]:
        """Encode an image and keep its scene."""
        async with self.encoder.admit():
            scene, warned = await self._encode(image)
        return self.scenes.add(scene), warned

    async def ask(self, question: AnyQuestion, image: bytes | None, picture: str | None) -> Content:
        """Answer a question about a scene, or about an image, which is encoded for it alone.

        `picture`: the type of the picture to answer with, None for JSON.
        """
        check_amounts(question, self.limits)
        if (image is None) == (question.scene is None):
            raise ProblemError(
                "invalid-question",
                "a question is about an image or about a scene. Give one of the two.",
            )
        async with AsyncExitStack() as stack:
            is_long = image is not None or isinstance(question, Everything)
            await stack.enter_async_context((self.encoder if is_long else self.heads).admit())
            warned: Warned = []
            if question.scene is not None:
                scene = self.scenes.get(question.scene).scene
            else:
                scene, warned = await self._encode(image)
                stack.callback(scene.close)
            render = partial(self._render, question, picture, warned)
            if isinstance(question, Segment):
                return await self._joiner.ask(scene, self._segment(question, render))
            lane = self.encoder if isinstance(question, Everything) else self.heads
            return await lane.run(partial(self._answer, question, scene, render))

    async def _encode(self, image: bytes | None) -> tuple[Scene, Warned]:
        if image is None:
            raise ProblemError("invalid-question", "there is no image. Give one.")

        def encode() -> tuple[Scene, Warned]:
            with collect_warnings() as warned:
                scene = self.model.encode(image)
            self._metrics.observe_stages(scene.timings)
            return scene, warned

        return await self.encoder.run(encode)

    def _segment(
        self, question: Segment, render: Callable[[Masks, Warned], Content]
    ) -> SegmentQuestion:
        mask = None if question.mask is None else question.mask.to_numpy()
        return SegmentQuestion(
            points=question.points,
            labels=question.labels,
            boxes=question.boxes,
            mask=mask,
            multimask=question.multimask,
            get_names=partial(question.names_for, self.model, self.saved),
            return_logits="logits" in question.include,
            name_by=question.name_by,
            render=render,
        )

    def _answer(
        self,
        question: Classify | Semantic | Everything | Name,
        scene: Scene,
        render: Callable[[AnyAnswer, Warned], Content],
    ) -> Content:
        """Answer a question in a thread of a lane."""
        with collect_warnings() as warned:
            names, templates = question.names_for(self.model, self.saved)
            answer: AnyAnswer
            if isinstance(question, Everything):
                answer = scene.everything(names, templates, **question.options())
            elif names is None:
                raise ProblemError(
                    "invalid-question", "there are no names. Give some to choose from."
                )
            elif isinstance(question, Classify):
                answer = scene.classify(names, templates)
            elif isinstance(question, Name):
                packed = question.decode(scene.size)
                given = pack_given(packed, scene.image)
                answer = scene.name(given, names, templates, name_by=question.name_by)
            else:
                answer = scene.semantic(
                    names, templates, refine=question.refine, background=question.background
                )
        return render(answer, warned)

    def _render(
        self,
        question: AnyQuestion,
        picture: str | None,
        earlier: Warned,
        answer: AnyAnswer,
        warned: Warned,
    ) -> Content:
        """Return the content of an answer; in the thread that answered."""
        self._metrics.observe_stages(
            {
                stage: took
                for stage, took in answer.timings.items()
                if stage in {"prompts", "upscale", "names"}
            }
        )
        if picture is not None:
            return draw(answer, picture)
        if question.answer == "picture":
            return draw(answer, "image/png")
        head = {
            "task": type(question).__name__.lower(),
            "bundle": self.model.manifest.name,
            "scene": question.scene,
            "timings": dict(answer.timings),
            "warnings": list_warnings([*earlier, *warned]),
        }
        include = _arrays(question, answer)
        return to_content(answer, question.answer, include, head, self.limits.answer_bytes)

    def close(self) -> None:
        """Refuse questions, wait for those under way, let the scenes go; the model stays."""
        self.is_open = False
        self.encoder.close()
        self.heads.close()
        self.scenes.clear()


def _arrays(question: AnyQuestion, answer: AnyAnswer) -> dict[str, NDArray[np.float32]]:
    """Return the arrays that a question wants in its answer."""
    wanted: list[str] = list(getattr(question, "include", []))
    found: dict[str, NDArray[np.float32]] = {}
    if isinstance(answer, SemanticMap) and "scores" in wanted:
        found["scores"] = answer.scores
    if isinstance(answer, Masks):
        for name in ("low_res_logits", "logits"):
            array = getattr(answer, name)
            if name in wanted and array is not None:
                found[name] = array
    return found


def to_json_content(record: dict[str, Any]) -> Content:
    """Return plain values as JSON."""
    return Content(to_json(record).encode())
