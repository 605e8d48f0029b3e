"""Classes in a model's text space: by their names, or by synonyms and prompts of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from samclip.benchmarks.data.coco import read_json
from samclip.cli.arguments import read_names
from samclip.errors import VocabularyError, did_you_mean
from samclip.runtime.model import Model
from samclip.runtime.scene import Names, Templates
from samclip.runtime.text.vocabulary import Vocabulary, unit_rows

Texts = Mapping[str, Sequence[str]]


class TextSpace(Protocol):
    """What embeds names: a model, or a teacher."""

    def vocabulary(self, names: Names, templates: Templates = None) -> Vocabulary:
        """Embed K names, put into `templates`."""
        ...


@dataclass(frozen=True, eq=False)
class AskedClasses:
    """T texts in a model's text space, and for each the class that it stands for, T int64.

    Where several texts stand for a class, the one that fits best speaks for it: the maximum over
    synonyms, as Open-Vocabulary SAM (Yuan et al. 2024) and its kin take it.
    """

    vocabulary: Vocabulary
    classes: NDArray[np.int64]


def read_synonyms(path: Path | None) -> dict[str, list[str]]:
    """Read a JSON object: class -> texts that stand for it; empty for None. Raises InputError."""
    if path is None:
        return {}
    return read_json(path, dict[str, list[str]], "a JSON object of class: [text, ...]")


def class_vocabulary(
    model: TextSpace, names: Sequence[str], synonyms: Texts, templates: Templates = None
) -> Vocabulary:
    """Embed K classes in the text space of a model or a teacher.

    A class with `synonyms` is the mean of their embeddings, of unit length, as CLIP averages
    over templates (Radford et al. 2021, section 3.1.4); the others are their names. Each text is
    put into the templates. Raises VocabularyError for synonyms of no class, or none of a class.
    """
    check_synonyms(names, synonyms)
    groups = [synonyms.get(name, [name]) for name in names]
    vocabulary = model.vocabulary([text for group in groups for text in group], templates)
    ends = np.cumsum([len(group) for group in groups])
    parts = np.split(vocabulary.embeddings, ends[:-1])
    means = np.stack([part.mean(axis=0) for part in parts])  # KxD
    return replace(vocabulary, names=tuple(names), embeddings=unit_rows(means))


def ask_alike(
    teacher: TextSpace, names: Sequence[str], synonyms: Texts, vocabulary: Vocabulary
) -> Vocabulary:
    """Embed K classes in a teacher's text space, in the sentences that made `vocabulary`."""
    return class_vocabulary(teacher, names, synonyms, vocabulary.templates or None)


def other_vocabularies(
    model: Model, names: Sequence[str], synonyms: Texts, templates: Sequence[str] | None
) -> dict[str, Vocabulary]:
    """Embed K classes once more in each of the sets of `templates`, by what rows call these."""
    return {
        f"with templates {each}": class_vocabulary(model, names, synonyms, each)
        for each in templates or ()
    }


def ask_classes(
    model: Model, texts: Mapping[int, Sequence[str]], templates: Templates = None
) -> AskedClasses:
    """Embed the texts of classes, by their indices, in a model's text space, each by itself."""
    owners = [place for place, group in texts.items() for _ in group]
    vocabulary = model.vocabulary([text for group in texts.values() for text in group], templates)
    return AskedClasses(vocabulary, np.asarray(owners, np.int64))


def read_novel(given: Sequence[str] | None, names: Sequence[str]) -> frozenset[int] | None:
    """Return the indices of the novel ones among K names; None when nothing is given.

    Each of `given` is a text file of one name a line, or names with commas between them. Raises
    VocabularyError for a name that is not among them.
    """
    if not given:
        return None
    found: set[int] = set()
    for text in given:
        path = Path(text).expanduser()
        novel = read_names(None, path) if path.is_file() else read_names([text], None)
        for name in novel or ():
            if name not in names:
                raise VocabularyError(
                    f"--novel has {name!r:.60}, which is not a class of the data"
                    f"{did_you_mean(name, names)}. Give classes, or a file of one a line."
                )
            found.add(names.index(name))
    return frozenset(found)


def check_synonyms(names: Sequence[str], synonyms: Texts) -> None:
    """Raise VocabularyError for synonyms of no class of `names`, or none of a class."""
    for name in synonyms:
        if name not in names:
            raise VocabularyError(
                f"there are synonyms of {name!r:.60}, which is not a class"
                f"{did_you_mean(name, names)}."
            )
        if not synonyms[name]:
            raise VocabularyError(f"the list of synonyms of {name!r:.60} is empty. Leave it out.")
