"""The thousand classes of ImageNet-1k with their names, in the order of a classifier's logits.

Names follow WordNet's first synonym, as usual, but are unambiguous without the picture, because a
text encoder sees nothing else: "crane bird" and "construction crane", "jaguar wild cat", "computer
mouse". Clothes that are worn in the photos of their class say so, "person wearing a kimono":
ImageNet has no class for people, and a classifier that looks at one answers with the clothes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

CLASSES_FILE = Path(__file__).parents[1] / "assets" / "imagenet_classes.txt"


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
