"""Requests of the front model: its input tensors as questions, its output tensors from answers.

What has a tensor's form is a tensor: images, points, boxes, masks, names. The rest is `options`,
one JSON object with the fields, bounds and checks of the HTTP server's questions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from samclip.errors import InputError, did_you_mean
from samclip.runtime.pixels.mask_ops import encode_rle
from samclip.runtime.results.classification import Classification, SemanticMap
from samclip.runtime.results.masks import Masks
from samclip.runtime.scene import Scene
from samclip.server.answers import AnyAnswer, to_content
from samclip.server.questions import (
    Classify,
    Everything,
    Segment,
    Semantic,
    check_amounts,
)
from samclip.server.settings import Limits
from samclip.triton.config_text import ANY, TensorConfig

TaskQuestion = Classify | Segment | Semantic | Everything
TASKS: Mapping[str, type[TaskQuestion]] = {
    "classify": Classify,
    "segment": Segment,
    "semantic": Semantic,
    "everything": Everything,
}
# Fields of the HTTP server's questions that are tensors here, or have no meaning.
AS_TENSORS = frozenset({"image", "scene", "answer", "include", "names"}) | {
    *("points", "labels", "boxes", "mask"),
}
INPUTS = (
    TensorConfig("image", "uint8", (ANY,), optional=True),
    TensorConfig("pixels", "uint8", (ANY, ANY, 3), optional=True),
    TensorConfig("points", "float32", (ANY, ANY, 2), optional=True),
    TensorConfig("point_labels", "int32", (ANY, ANY), optional=True),
    TensorConfig("boxes", "float32", (ANY, 4), optional=True),
    TensorConfig("mask_input", "float32", (ANY, ANY, ANY), optional=True),
    TensorConfig("names", "str", (ANY,), optional=True),
    TensorConfig("options", "str", (1,), optional=True),
)
OUTPUTS = (
    TensorConfig("size", "int32", (2,)),
    TensorConfig("answer", "str", (1,)),
    TensorConfig("masks", "uint8", (ANY, ANY, ANY)),
    TensorConfig("rle", "str", (ANY,)),
    TensorConfig("scores", "float32", (ANY,)),
    TensorConfig("mask_boxes", "float32", (ANY, 4)),
    TensorConfig("low_res_logits", "float32", (ANY, ANY, ANY)),
    TensorConfig("class_ids", "int64", (ANY,)),
    TensorConfig("probabilities", "float32", (ANY,)),
    TensorConfig("label_map", "int32", (ANY, ANY)),
)


@dataclass(frozen=True)
class Request:
    """One request: its sequence, the image that begins it, and what it asks, None for nothing."""

    sequence: int
    begins: bool
    ends: bool
    image: bytes | NDArray[np.uint8] | None
    question: TaskQuestion | None
    prompts: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)


def read_request(tensors: Mapping[str, NDArray[np.generic]], limits: Limits) -> Request:
    """Read the tensors of a request by name; raises InputError, or ProblemError beyond limits."""
    begins, ends = (bool(tensors[name].reshape(-1)[0]) for name in ("START", "END"))
    image = _image(tensors, limits) if begins else None
    if not begins and {"image", "pixels"} & tensors.keys():
        raise InputError(
            "only the first request of a sequence has an image; this one is not. Start another "
            "sequence for another image."
        )
    prompts: dict[str, NDArray[np.generic]] = {
        argument: tensors[name]
        for name, argument in (
            ("points", "points"),
            ("point_labels", "labels"),
            ("boxes", "boxes"),
            ("mask_input", "mask"),
        )
        if name in tensors
    }
    question = _question(tensors, bool(prompts))
    if question is not None:
        _check(question, prompts, limits)
    return Request(
        sequence=int(tensors["CORRID"].reshape(-1)[0]),
        begins=begins,
        ends=ends,
        image=image,
        question=question,
        prompts=prompts,
    )


def answer_tensors(
    scene: Scene, answer: AnyAnswer | None, head: Mapping[str, Any], wanted: Collection[str]
) -> dict[str, NDArray[Any]]:
    """Return the outputs that are wanted and that the answer has, by name."""
    made: dict[str, Callable[[], Any]] = {"size": lambda: np.array(scene.size, np.int32)}
    if answer is not None:
        made["answer"] = lambda: _texts([_json(answer, head)])
    if isinstance(answer, Masks):
        made |= {
            "masks": lambda: answer.masks.view(np.uint8),
            "rle": lambda: _texts([encode_rle(mask)["counts"] for mask in answer.packed]),
            "scores": lambda: answer.scores,
            "mask_boxes": lambda: answer.boxes,
        }
        given = {
            "low_res_logits": answer.low_res_logits,
            "class_ids": answer.class_ids,
            "probabilities": answer.name_probabilities,
        }
        made |= {
            name: partial(np.asarray, each) for name, each in given.items() if each is not None
        }
    elif isinstance(answer, Classification):
        made["probabilities"] = lambda: answer.probabilities
    elif isinstance(answer, SemanticMap):
        made["label_map"] = lambda: answer.labels
    return {name: np.ascontiguousarray(make()) for name, make in made.items() if name in wanted}


def _image(tensors: Mapping[str, NDArray[np.generic]], limits: Limits) -> bytes | NDArray[np.uint8]:
    file, pixels = tensors.get("image"), tensors.get("pixels")
    if (file is None) == (pixels is None):
        raise InputError(
            "the first request of a sequence has one image: the bytes of a file in `image`, or "
            f"HxWx3 RGB in `pixels`; this one has {'neither' if file is None else 'both'}."
        )
    if file is None:
        assert pixels is not None  # noqa: S101 - for mypy: one of the two is given
        if pixels.shape[0] * pixels.shape[1] > limits.pixels:
            raise InputError(
                f"the image has {pixels.shape[1]} x {pixels.shape[0]} pixels; at most "
                f"{limits.pixels:,} are taken. Make it smaller."
            )
        return np.asarray(pixels, np.uint8)
    if file.nbytes > limits.body_bytes:
        raise InputError(
            f"the image file has {file.nbytes:,} bytes; at most {limits.body_bytes:,} are taken."
        )
    return file.tobytes()


def _question(tensors: Mapping[str, NDArray[np.generic]], prompted: bool) -> TaskQuestion | None:
    options = _options(tensors.get("options"))
    names = [_text(name) for name in tensors["names"].reshape(-1)] if "names" in tensors else None
    task = options.pop("task", "segment" if prompted else None)
    if task is None:
        if options or names is not None:
            raise InputError(
                f"this request has no task. Give one in `options`, as {{"
                f'"task": "classify"}}: {", ".join(TASKS)}.'
            )
        return None
    if task not in TASKS:
        raise InputError(
            f"there is no task {task!r:.60}{did_you_mean(str(task), TASKS)}, only "
            f"{', '.join(TASKS)}."
        )
    if prompted and task != "segment":
        raise InputError(f"points, boxes and masks are prompts of segment; the task is {task}.")
    if foreign := sorted(AS_TENSORS & options.keys()):
        raise InputError(
            f"{foreign[0]!r} is not an option: points, boxes, masks and names are tensors, and the "
            "outputs that are asked for choose the form of the answer."
        )
    try:
        return msgspec.convert({**options, "names": names}, TASKS[str(task)])
    except msgspec.ValidationError as error:
        raise InputError(f"the options of {task} cannot be used: {error}.") from error


def _options(tensor: NDArray[np.generic] | None) -> dict[str, Any]:
    if tensor is None:
        return {}
    try:
        return msgspec.json.decode(_text(tensor.reshape(-1)[0]).encode(), type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise InputError(f"`options` must be one JSON object; {error}.") from error


def _check(
    question: TaskQuestion, prompts: Mapping[str, NDArray[np.generic]], limits: Limits
) -> None:
    check_amounts(question, limits)
    rows = max((len(array) for array in prompts.values()), default=0)
    points = prompts["points"].size // 2 if "points" in prompts else 0
    for what, count, most in (
        ("prompts", rows, limits.prompts),
        ("points", points, limits.points),
    ):
        if count > most:
            raise InputError(
                f"a request may have {most:,} {what}; this one has {count:,}. Ask in several."
            )


def _json(answer: AnyAnswer, head: Mapping[str, Any]) -> str:
    return to_content(answer, "rle", {}, head, Limits().answer_bytes).data.decode()


def _text(value: Any) -> str:
    """Return a string that Triton passes as bytes; InputError for bytes that are not UTF-8."""
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise InputError(f"texts must be UTF-8; {error}.") from error


def _texts(values: list[str]) -> NDArray[np.object_]:
    return np.array([value.encode() for value in values], np.object_)
