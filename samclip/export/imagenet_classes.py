"""The thousand classes of ImageNet-1k in the order of a classifier's logits, by name.

Names follow WordNet's first synonym, as usual, but say what they mean without the picture: "crane
bird" and "construction crane", "jaguar wild cat", "computer mouse". A text encoder sees nothing
else. Clothes that the photos of their class show worn say so, "person wearing a kimono": ImageNet
has no class for people, and a classifier that looks at one answers with what they wear.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

CLASSES_FILE = Path(__file__).parent / "assets" / "imagenet_classes.txt"


@dataclass(frozen=True)
class ImagenetClass:
    """A class: its WordNet identifier, such as n01440764, and its name in plain English."""

    wnid: str
    name: str


@cache
def imagenet_classes() -> tuple[ImagenetClass, ...]:
    """Return all classes; a classifier's logit i belongs to entry i."""
    lines = CLASSES_FILE.read_text("utf-8").splitlines()
    return tuple(ImagenetClass(*line.split(" ", 1)) for line in lines)


def imagenet_names() -> tuple[str, ...]:
    """Return the names alone, in the order of the logits."""
    return tuple(entry.name for entry in imagenet_classes())
