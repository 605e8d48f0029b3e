"""The question of a job: tasks that one encoder pass answers, as columns of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from samclip.batch.packages import import_pyarrow
from samclip.errors import CapabilityError, InputError, VocabularyError, did_you_mean
from samclip.runtime.bundles.manifest import Manifest
from samclip.runtime.results.classification import Classification
from samclip.runtime.scene import Names, Scene
from samclip.runtime.text.vocabulary import Vocabulary, vocabulary_digest
from samclip.server.answers import record_map, record_masks

if TYPE_CHECKING:
    import pyarrow as pa

TASKS = ("classify", "embed", "segment", "everything", "semantic")
NEED_NAMES = ("classify", "semantic")
NEED_HEAD = ("classify", "embed", "semantic")


@dataclass(frozen=True, kw_only=True)
class Question:
    """The tasks of a job and their options, the same for every image.

    `tasks`: some of "classify", "embed", "segment", "everything" and "semantic"; none means
    "classify" and "embed" where there are names, else "embed". `names`: texts, and vocabularies,
    whose names come first; `templates`: as in `Scene`; masks get names too. `top`: how many names
    of an image are kept, the best first. `options`: for each task, further arguments of the method
    of `Scene`, as
    `{"segment": {"boxes": [[10, 20, 200, 240]]}}`. Raises InputError, VocabularyError.
    """

    tasks: tuple[str, ...] = ()
    names: tuple[str | Vocabulary, ...] | None = None
    templates: str | tuple[str, ...] | None = None
    top: int = 5
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("tasks", "names"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise InputError(f"{name} is a list of texts; got the text {value!r:.60}.")
            object.__setattr__(self, name, None if value is None else tuple(value))
        if self.templates is not None and not isinstance(self.templates, str):
            object.__setattr__(self, "templates", tuple(self.templates))
        usual = ("embed",) if self.names is None else ("classify", "embed")
        object.__setattr__(self, "tasks", tuple(dict.fromkeys(self.tasks)) or usual)
        for task in (*self.tasks, *self.options):
            if task not in TASKS:
                raise InputError(
                    f"there is no task {task!r}{did_you_mean(str(task), TASKS)}. Choose among "
                    f"{', '.join(TASKS)}."
                )
        if {"segment", "everything"} <= {*self.tasks}:
            raise InputError(
                "segment and everything both fill the column masks. Ask for them in two jobs."
            )
        for task in NEED_NAMES:
            if task in self.tasks and self.names is None:
                raise VocabularyError(f"{task} needs names to choose from. Give names.")

    def check(self, manifest: Manifest) -> None:
        """Check that a bundle can answer; raises CapabilityError."""
        wanted = [task for task in self.tasks if task in NEED_HEAD]
        if self.names is not None:
            wanted.append("names")
        lacking = "CLIP head" if manifest.head is None else None
        if lacking is None and self.names is not None and manifest.text is None:
            lacking, wanted = "text", ["names"]
        if lacking is not None and wanted:
            raise CapabilityError(
                f"bundle {manifest.name!r} has no {lacking}, so it cannot answer {wanted[0]}. "
                "Choose another bundle, or ask for masks without names."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON: jobs with the same ones write the same columns."""
        names = None if self.names is None else [*map(_record_given, self.names)]
        return {one.name: getattr(self, one.name) for one in fields(self)} | {"names": names}

    def schema(self) -> pa.Schema:
        """Return the columns of this question's answers."""
        pa = import_pyarrow()
        integers, floats = pa.list_(pa.int32()), pa.list_(pa.float32())
        pixels = ("segmentation", pa.struct([("size", integers), ("counts", pa.string())]))
        name = [("name", pa.string()), ("probability", pa.float32())]
        columns: list[tuple[str, Any]] = []
        if "classify" in self.tasks:
            columns += [("names", pa.list_(pa.string())), ("probabilities", floats)]
        if {"segment", "everything"} & {*self.tasks}:
            mask = [pixels, ("box", floats), ("area", pa.int64()), ("score", pa.float32())]
            if "everything" in self.tasks:
                mask.append(("stability_score", pa.float32()))
            mask += name if self.names is not None else []
            columns.append(("masks", pa.list_(pa.struct(mask))))
        if "semantic" in self.tasks:
            found = [name[0], pixels, ("area", pa.int64()), ("fraction", pa.float32())]
            found.append(("mean_score", pa.float32()))
            columns.append(("classes", pa.list_(pa.struct(found))))
        if "embed" in self.tasks:
            columns.append(("embedding", floats))
        return pa.schema(columns)

    def answer(self, scene: Scene, names: Names | None) -> dict[str, Any]:
        """Answer all tasks from one scene: the values of a row, by column.

        `names`: those of the question, or their vocabulary. Raises as `Scene` does.
        """
        row: dict[str, Any] = {}
        for task in self.tasks:
            if task == "embed":
                embedding = scene.image_embed
                norm = float(np.linalg.norm(embedding))
                row["embedding"] = embedding / (norm or 1.0)
                continue
            options = dict(self.options.get(task, {}))
            if names is not None:
                options |= {"names": names, "templates": self.templates}
            found = getattr(scene, task)(**options)
            if task == "classify":
                row |= record_names(found, self.top)
            elif task == "semantic":
                row["classes"] = record_map(found, "rle")["classes"]
            else:
                row["masks"] = record_masks(found, "rle")["masks"]
        return row


def _record_given(name: str | Vocabulary) -> str | dict[str, Any]:
    if isinstance(name, str):
        return name
    return {"vocabulary": list(name.names), "sha256": vocabulary_digest(name)}


def record_names(answer: Classification, top: int) -> dict[str, Any]:
    """Return the best names and their probabilities, as two columns."""
    ranked = answer.top(top)
    return {
        "names": [name for name, _ in ranked],
        "probabilities": [probability for _, probability in ranked],
    }


def as_question(
    tasks: Sequence[str] | str | None,
    names: Names | None,
    templates: str | Sequence[str] | None,
    top: int,
    options: Mapping[str, Mapping[str, Any]] | None,
) -> Question:
    """Return the question of a caller's arguments; `tasks` may be one task."""
    chosen = (tasks,) if isinstance(tasks, str) else tuple(tasks or ())
    given = None
    if names is not None:
        given = (names,) if isinstance(names, str | Vocabulary) else tuple(names)
    kept = templates if templates is None or isinstance(templates, str) else tuple(templates)
    return Question(tasks=chosen, names=given, templates=kept, top=top, options=dict(options or {}))
