"""The classes of published data sets: pixel values, names, and the texts that stand for them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

CLASSES_FOLDER = Path(__file__).parents[1] / "assets" / "classes"
BACKGROUND = "background"


@dataclass(frozen=True)
class LabelClass:
    """A class: its number in label maps, its name there, and the texts that it is asked for by.

    Texts are the name as people write it, with its synonyms: "dining table" for "diningtable".
    """

    value: int
    name: str
    texts: tuple[str, ...]


@cache
def read_class_list(file: str) -> tuple[LabelClass, ...]:
    """Read a list that comes with samclip: a line for each class, value, name, texts.

    Tabs lie between these, commas between texts; a class without texts is asked for by its name.
    """
    lines = (CLASSES_FOLDER / file).read_text("utf-8").splitlines()
    return tuple(_class(line) for line in lines if not line.startswith("#"))


def _class(line: str) -> LabelClass:
    value, name, *texts = line.split("\t")
    return LabelClass(int(value), name, tuple(texts[0].split(", ")) if texts else (name,))
