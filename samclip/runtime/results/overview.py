"""The answers of all three tasks about one photo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.runtime.results.answers import Classification, SemanticMap
from samclip.runtime.results.masks import Masks
from samclip.runtime.results.poster import draw_poster, shares_of

TITLE = "One encoder pass, three answers"


@dataclass(frozen=True, eq=False, kw_only=True)
class Overview:
    """What `samclip demo` answers: a classification, masks with names, and a label map."""

    classification: Classification
    masks: Masks
    semantic: SemanticMap

    @property
    def trained_head(self) -> bool:
        """Whether the names mean something."""
        return self.classification.trained_head

    @property
    def shares(self) -> dict[str, float]:
        """The share of the pixels that each name has, in [0, 1], the largest first."""
        return shares_of(self.semantic)

    def draw(self) -> NDArray[np.uint8]:
        """Draw everything in one picture: HWC uint8 RGB, 1200 pixels wide."""
        return draw_poster(TITLE, self.classification, self.masks, self.semantic)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON: each task's own, under its name."""
        return {
            "classify": self.classification.to_dict(),
            "segment": self.masks.to_dict(),
            "semantic": self.semantic.to_dict(),
        }
