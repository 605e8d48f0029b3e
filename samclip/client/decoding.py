"""Answers of a server, read back into the types that the Python API returns."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.errors import ServerError
from samclip.runtime.photo import Photo, changed
from samclip.runtime.pixels.mask_ops import PackedMasks
from samclip.runtime.results.classification import Classification, SemanticMap
from samclip.runtime.results.coco import check_counts, check_size, unpack_counts
from samclip.runtime.results.masks import AutoMasks, Masks

Record = Mapping[str, Any]


class MalformedError(ServerError):
    """An answer lacks something, or holds what it cannot hold."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the server's answer cannot be read: {what}. Is it a samclip server of this version?"
        )


def read_classification(answer: Record, image: Photo) -> Classification:
    """Return a classification, its names in the order of the question."""
    try:
        names: list[str] = [""] * len(answer["names"])
        probabilities = np.zeros(len(names), np.float32)
        logits = np.zeros(len(names), np.float32)
        for place, index in enumerate(answer["indices"]):
            names[index] = str(answer["names"][place])
            probabilities[index] = answer["probabilities"][place]
            logits[index] = answer["logits"][place]
        return Classification(
            names=tuple(names),
            probabilities=probabilities,
            logits=logits,
            trained_head=bool(answer["trained_head"]),
            image=image,
            timings=_timings(answer),
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise MalformedError(f"a classification with {error!r}") from error


def read_masks(answer: Record, image: Photo) -> Masks:
    """Return masks, with names where the question had some."""
    try:
        return Masks(**_mask_fields(answer, image))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise MalformedError(f"masks with {error!r}") from error


def read_names(answer: Record, masks: Masks) -> Masks:
    """Return masks that were sent, with the names that they got."""
    try:
        found: Sequence[Record] = answer["masks"]
        if len(found) != len(masks):
            raise ValueError(f"{len(found)} names for {len(masks)} masks")
        return changed(
            masks,
            vocabulary=tuple(map(str, answer["vocabulary"])),
            class_ids=np.asarray([each["class_id"] for each in found], np.int64),
            name_probabilities=_numbers(found, "probability"),
            trained_head=answer.get("trained_head"),
            timings=_timings(answer),
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise MalformedError(f"names of masks with {error!r}") from error


def read_auto_masks(answer: Record, image: Photo) -> AutoMasks:
    """Return masks of everything."""
    try:
        found: Sequence[Record] = answer["masks"]
        return AutoMasks(
            **_mask_fields(answer, image),
            points=np.asarray([each["point"] for each in found], np.float64).reshape(-1, 2),
            stability_scores=_numbers(found, "stability_score"),
            crop_boxes=np.asarray([each["crop_box"] for each in found], np.int64).reshape(-1, 4),
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise MalformedError(f"masks with {error!r}") from error


def read_map(answer: Record, image: Photo) -> SemanticMap:
    """Return a label map; pixels of no class have the label -1."""
    try:
        size = _size(answer)
        labels = np.full(size, -1, np.int32)
        for each in answer["classes"]:
            labels[decode_rle(each["segmentation"], size)] = int(each["index"])
        return SemanticMap(
            labels=labels,
            names=tuple(map(str, answer["vocabulary"])),
            scores=read_array(answer["scores"]),
            refined=bool(answer["refined"]),
            trained_head=bool(answer["trained_head"]),
            image=image,
            timings=_timings(answer),
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise MalformedError(f"a label map with {error!r}") from error


def _mask_fields(answer: Record, image: Photo) -> dict[str, Any]:
    size = _size(answer)
    found: Sequence[Record] = answer["masks"]
    vocabulary = answer.get("vocabulary")
    named = vocabulary is not None
    arrays = {
        name: read_array(answer[name]) if name in answer else None
        for name in ("low_res_logits", "logits")
    }
    return {
        "packed": PackedMasks.pack(
            (decode_rle(each["segmentation"], size) for each in found), size
        ),
        "scores": _numbers(found, "predicted_iou"),
        "boxes": np.asarray([each["box"] for each in found], np.float32).reshape(-1, 4),
        "prompt_index": np.asarray([each["prompt_index"] for each in found], np.int64),
        "image": image,
        **arrays,
        "vocabulary": tuple(map(str, vocabulary)) if vocabulary is not None else None,
        "class_ids": np.asarray([e["class_id"] for e in found], np.int64) if named else None,
        "name_probabilities": _numbers(found, "probability") if named else None,
        "trained_head": answer.get("trained_head"),
        "timings": _timings(answer),
    }


def _numbers(found: Sequence[Record], name: str) -> NDArray[np.float32]:
    """Return a number of each mask as float32; JSON's null is NaN."""
    return np.asarray(
        [math.nan if each[name] is None else each[name] for each in found], np.float32
    )


def _size(answer: Record) -> tuple[int, int]:
    height, width = map(int, answer["size"])
    check_size((height, width))
    return height, width


def _timings(answer: Record) -> dict[str, float]:
    return {str(stage): float(took) for stage, took in answer.get("timings", {}).items()}


def decode_rle(rle: Record, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode COCO run lengths of a mask of (h, w) pixels: HxW bool; ValueError for others."""
    counts = rle["counts"]
    if tuple(rle["size"]) != size or not isinstance(counts, str):
        raise ValueError("has run lengths of another size")
    check_counts(counts, size)
    runs = unpack_counts(counts)  # of pixels outside and inside in turn, column after column
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(pixels.reshape(size[::-1]).T)  # WxH -> HxW


def read_array(record: Record) -> NDArray[np.float32]:
    """Return an array of little-endian float32 from base64; ValueError for anything else."""
    shape = [int(side) for side in record["shape"]]
    try:
        data = base64.b64decode(record["data"], validate=True)
    except binascii.Error as error:
        raise ValueError("bytes that are not base64") from error
    if record["dtype"] != "float32" or min(shape, default=0) < 0:
        raise ValueError("an array of another type")
    return np.frombuffer(data, "<f4").astype(np.float32).reshape(shape)


def write_array(array: Any) -> dict[str, Any]:
    """Return an array as the record that a server reads; see `read_array`."""
    values = np.ascontiguousarray(array, "<f4")
    data = base64.b64encode(values.tobytes()).decode("ascii")
    return {"dtype": "float32", "shape": list(values.shape), "data": data}
