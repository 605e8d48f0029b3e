"""Answers as JSON or pictures: what `to_dict` gives, and what a client needs to make it again."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samclip.json_text import finite, to_json
from samclip.runtime.pixels.mask_ops import encode_rle
from samclip.runtime.results.classification import Classification, SemanticMap
from samclip.runtime.results.masks import AutoMasks, Masks
from samclip.server.problems import ProblemError
from samclip.server.questions import Array

AnyAnswer = Masks | Classification | SemanticMap
MaskForm = Literal["rle", "png"]
PICTURES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
JSON_TYPES = ("application/json", "application/*", "*/*")
WEIGHT = re.compile(r"q=([01](?:\.\d{0,3})?)")
QUALITY = 92  # of JPEG and WebP
ARRAY_GROWTH = 4 / 3  # base64


@dataclass(frozen=True)
class Content:
    """The body of a response and its type."""

    data: bytes
    media_type: str = "application/json"


def draw(answer: AnyAnswer, media_type: str) -> Content:
    """Draw an answer on its photo, with a legend."""
    picture = answer.draw(legend=True)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, PICTURES[media_type], quality=QUALITY)
    return Content(buffer.getvalue(), media_type)


def choose_picture(accept: str) -> str | None:
    """Return the type of picture that a header Accept wants most; None for JSON.

    Among those of the same weight (RFC 9110, 12.4.2) the first one counts.
    """
    best, wanted = 0.0, None
    for part in accept.lower().split(","):
        media, *parameters = map(str.strip, part.split(";"))
        weights = (WEIGHT.fullmatch(parameter) for parameter in parameters)
        weight = next((float(found[1]) for found in weights if found), 1.0)
        if media not in {*PICTURES, "image/*", *JSON_TYPES} or weight <= best:
            continue
        best, wanted = weight, {"image/*": "image/png"}.get(media, media)
    return wanted if wanted in PICTURES else None


def to_content(
    answer: AnyAnswer,
    form: MaskForm,
    include: Mapping[str, NDArray[np.float32]],
    head: Mapping[str, Any],
    most_bytes: int,
) -> Content:
    """Return an answer as JSON: `head`, then its own fields, then arrays.

    `include`: the arrays by name. Raises ProblemError 422 for an answer of more than `most_bytes`.
    """
    arrays = sum(array.nbytes for array in include.values()) * ARRAY_GROWTH
    if arrays > most_bytes:
        raise _too_long(int(arrays), most_bytes)
    if isinstance(answer, Classification):
        record = record_classification(answer)
    elif isinstance(answer, SemanticMap):
        record = record_map(answer, form)
    else:
        record = record_masks(answer, form)
    record |= {name: Array.of(array) for name, array in include.items()}
    data = to_json({**head, **record}).encode()
    if len(data) > most_bytes:
        raise _too_long(len(data), most_bytes)
    return Content(data)


def _too_long(size: int, most: int) -> ProblemError:
    return ProblemError(
        "invalid-question",
        f"the answer would have {size:,} bytes; at most {most:,} are sent. Ask for fewer masks at "
        "once, or leave out arrays.",
    )


def list_warnings(warned: Iterable[tuple[type[Warning], str]]) -> list[dict[str, str]]:
    """Return warnings as plain values."""
    return [{"kind": kind.__name__, "message": message} for kind, message in warned]


def record_classification(answer: Classification) -> dict[str, Any]:
    """Return all names, best first, with their logits and places in the question."""
    order = np.argsort(-answer.logits, kind="stable")
    return {
        **answer.to_dict(),
        "logits": [float(answer.logits[index]) for index in order],
        "indices": order.tolist(),
    }


def record_masks(answer: Masks, form: MaskForm) -> dict[str, Any]:
    """Return the masks as `Masks.to_dict` does, with the model's scores and the names' places.

    Masks of everything also have what segment-anything's generator records.
    """
    record = answer.to_dict()
    for row, entry in enumerate(record["masks"]):
        entry["predicted_iou"] = finite(answer.scores[row])
        if answer.class_ids is not None:
            entry["class_id"] = int(answer.class_ids[row])
        if isinstance(answer, AutoMasks):
            entry["point"] = answer.points[row].tolist()
            entry["stability_score"] = finite(answer.stability_scores[row])
            entry["crop_box"] = answer.crop_boxes[row].tolist()
        if form == "png":
            entry["segmentation"] = {"png": encode_png(answer.packed.unpack(row))}
    if answer.vocabulary is not None:
        record["vocabulary"] = list(answer.vocabulary)
    return record


def record_map(answer: SemanticMap, form: MaskForm) -> dict[str, Any]:
    """Return each name found, with its pixels."""
    record = answer.to_dict()
    for entry in record["classes"]:
        mask = answer.labels == entry["index"]
        entry["segmentation"] = encode_rle(mask) if form == "rle" else {"png": encode_png(mask)}
    record["vocabulary"] = list(answer.names)
    return record


def encode_png(mask: NDArray[np.bool_]) -> str:
    """Encode an HxW mask as a PNG of 0 and 255, as base64."""
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
