"""An image encoded by a baseline: SAM's scene, whose masks another model names."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samclip.runtime.pixels.prompts import Arrays
from samclip.runtime.results.masks import Masks
from samclip.runtime.scene import GetVocabulary, Names, Scene, Templates
from samclip.runtime.tasks.regions import parse_given
from samclip.runtime.text.vocabulary import Vocabulary


class Namer(Protocol):
    """Names masks of one image."""

    def name(self, masks: Masks, vocabulary: Vocabulary) -> Masks:
        """Give each mask the name that fits it best."""
        ...


class BaselineScene:
    """Answers as `samclip.Scene` does, by the same names; ends with `close()` or its block."""

    def __init__(self, sam: Scene, namer: Namer, get_vocabulary: GetVocabulary) -> None:
        self._sam = sam
        self._namer = namer
        self._get_vocabulary = get_vocabulary

    @property
    def image(self) -> NDArray[np.uint8]:
        """The image: HWC uint8 RGB, read-only."""
        return self._sam.image

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image in pixels."""
        return self._sam.size

    def segment(
        self,
        points: Arrays | None = None,
        labels: Arrays | None = None,
        boxes: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        *,
        multimask: bool = False,
        names: Names | None = None,
        templates: Templates = None,
        return_logits: bool = False,
    ) -> Masks:
        """Segment by SAM and name by the other model; arguments and errors as `Scene.segment`."""
        masks = self._sam.segment(
            points, labels, boxes, mask, multimask=multimask, return_logits=return_logits
        )
        return masks if names is None else self.name(masks, names, templates)

    def name(self, masks: Masks | ArrayLike, names: Names, templates: Templates = None) -> Masks:
        """Name masks that exist already; arguments and errors as `Scene.name`."""
        self._sam.features.check_open()
        given = parse_given(masks, self.image)
        return self._namer.name(given, self._get_vocabulary(names, templates))

    def close(self) -> None:
        """Let go of the encoder's outputs; again: do nothing."""
        self._sam.close()

    def __enter__(self) -> BaselineScene:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
