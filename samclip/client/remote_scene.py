"""A scene on a server, and names to ask it about."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from samclip.client.decoding import (
    read_auto_masks,
    read_classification,
    read_map,
    read_masks,
    read_names,
    write_array,
)
from samclip.client.transport import Transport
from samclip.errors import ClosedError, InputError, PromptError, brief
from samclip.runtime.photo import LazyPhoto, Photo, Pixels, pixels_of
from samclip.runtime.pixels.image import load_image
from samclip.runtime.pixels.mask_ops import encode_rle
from samclip.runtime.pixels.prompts import Arrays
from samclip.runtime.results.classification import Classification, SemanticMap
from samclip.runtime.results.masks import AutoMasks, Masks
from samclip.runtime.scene import Templates
from samclip.runtime.tasks.regions import parse_given


@dataclass(frozen=True)
class RemoteVocabulary:
    """Names with their templates and synonyms, for questions to a server; it embeds them."""

    names: tuple[str, ...]
    templates: Templates = None
    synonyms: Mapping[str, Sequence[str]] | None = None
    seen: tuple[str, ...] | None = None


RemoteNames = Sequence[str] | RemoteVocabulary


class SentPhoto(LazyPhoto):
    """A photo that was sent as a file; it is decoded here when somebody reads its pixels."""

    def __init__(self, data: bytes, size: tuple[int, int]) -> None:
        self.shape = (*size, 3)
        self._data = data

    def pixels(self) -> Pixels:
        """Return the pixels, read-only; raises ImageError."""
        pixels = load_image(self._data, math.prod(self.shape[:2]))
        pixels.flags.writeable = False
        return pixels


class RemoteScene:
    """A scene that a server keeps; made by `Client.encode`. Its methods are those of `Scene`.

    The server forgets a scene that nobody asks for some minutes, or when others need its room: then
    the methods raise InputError, and the image is to be encoded again. `close` lets it go at once.
    May be used from several threads.

    Examples:
        >>> with client.encode(photo) as remote:  # doctest: +SKIP
        ...     remote.segment(points=[(290, 150)], names=["cup", "cat"]).names
        ('cup',)
    """

    def __init__(self, transport: Transport, scene: Mapping[str, Any], image: Photo) -> None:
        self._transport = transport
        self._id = str(scene["id"])
        self._size = (int(scene["size"][0]), int(scene["size"][1]))
        self._timings = {str(stage): float(took) for stage, took in scene["timings"].items()}
        self._image = image
        self._closed = False

    @property
    def id(self) -> str:
        """The id by which the server knows the scene."""
        return self._id

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image in pixels."""
        return self._size

    @property
    def image(self) -> Pixels:
        """The image: HWC uint8 RGB, read-only; decoded here."""
        return pixels_of(self._image)

    @property
    def timings(self) -> dict[str, float]:
        """What the image took on the server, in ms by stage; see `Scene.timings`."""
        return dict(self._timings)

    def classify(self, names: RemoteNames, templates: Templates = None) -> Classification:
        """Score how well each name fits the whole image, see `Scene.classify`."""
        return read_classification(self._ask("classify", names, templates), self._image)

    def segment(
        self,
        points: Arrays | None = None,
        labels: Arrays | None = None,
        boxes: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        *,
        multimask: bool = False,
        names: RemoteNames | None = None,
        templates: Templates = None,
        return_logits: bool = False,
        name_by: str | None = None,
    ) -> Masks:
        """Segment the objects at points, boxes or masks, see `Scene.segment`.

        The answer has `low_res_logits`, and no `prompts`: pictures of it do not show them.
        """
        include = ["low_res_logits", *(["logits"] if return_logits else [])]
        answer = self._ask(
            "segment",
            names,
            templates,
            points=_plain(points, "points"),
            labels=_plain(labels, "labels"),
            boxes=_plain(getattr(boxes, "xyxy", boxes), "boxes"),
            mask=None if mask is None else write_array(mask),
            multimask=multimask,
            name_by=name_by,
            include=include,
        )
        return read_masks(answer, self._image)

    def name(
        self,
        masks: Masks | ArrayLike,
        names: RemoteNames,
        templates: Templates = None,
        *,
        name_by: str | None = None,
    ) -> Masks:
        """Name masks that exist already, see `Scene.name`; they are sent as run lengths."""
        given = parse_given(masks, self._image)
        sent = [encode_rle(mask) for mask in given.packed]
        answer = self._ask("name", names, templates, masks=sent, name_by=name_by)
        return read_names(answer, given)

    def semantic(
        self,
        names: RemoteNames,
        templates: Templates = None,
        refine: bool = False,
        background: float | None = None,
    ) -> SemanticMap:
        """Label every pixel with the name that fits it best, see `Scene.semantic`."""
        answer = self._ask(
            "semantic",
            names,
            templates,
            refine=refine,
            background=background,
            include=["scores"],
        )
        return read_map(answer, self._image)

    def everything(
        self, names: RemoteNames | None = None, templates: Templates = None, **options: Any
    ) -> AutoMasks:
        """Segment everything, see `Scene.everything` for the options; no `point_grids` here."""
        return read_auto_masks(self._ask("everything", names, templates, **options), self._image)

    def _ask(
        self, task: str, names: RemoteNames | None, templates: Templates, **question: Any
    ) -> dict[str, Any]:
        if self._closed:
            raise ClosedError("the scene is closed. Encode the image again.")
        question |= {"scene": self._id, "templates": _as_templates(templates)}
        if isinstance(names, RemoteVocabulary):
            question |= {
                "names": list(names.names),
                "templates": _as_templates(names.templates or templates),
                "synonyms": {name: list(also) for name, also in (names.synonyms or {}).items()}
                or None,
                "seen": None if names.seen is None else list(names.seen),
            }
        elif isinstance(names, str):
            raise InputError(f"names must be a list of names; got the text {brief(names)}.")
        elif names is not None:
            question["names"] = list(names)
        return self._transport.post(f"/v1/{task}", question)

    def close(self) -> None:
        """Let the scene go on the server; results stay valid. Closing again does nothing."""
        if not self._closed:
            self._closed = True
            try:
                self._transport.delete(f"/v1/scenes/{self._id}")
            except InputError:  # it has gone already
                return

    def __enter__(self) -> RemoteScene:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        height, width = self._size
        closed = ", closed" if self._closed else ""
        return f"RemoteScene({width}x{height} at {self._transport.address}{closed})"


def _as_templates(templates: Templates) -> str | list[str] | None:
    return templates if templates is None or isinstance(templates, str) else list(templates)


def _plain(value: Any, what: str) -> Any:
    """Return arrays, or a sequence of them, as lists of numbers for JSON; raises PromptError."""
    if value is None:
        return None
    try:
        return np.asarray(value).tolist()
    except ValueError:  # prompts of different lengths
        pass
    try:
        return [np.asarray(each).tolist() for each in value]
    except (TypeError, ValueError) as error:
        raise PromptError(
            f"{what} must be numbers in lists or arrays; got {brief(value)}."
        ) from error
