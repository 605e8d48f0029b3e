"""Masks as COCO annotations, and a whole annotation file of many images."""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from samclip.disk.partial_files import result_file
from samclip.errors import InputError, brief, did_you_mean
from samclip.json_text import finite, to_json
from samclip.runtime.pixels.mask_ops import PackedMasks, encode_rle
from samclip.runtime.results.drawing import as_path
from samclip.version import __version__

UNNAMED = "object"  # the category of masks without names
INFO = {"description": f"masks of samclip {__version__}"}
MAX_ID = 2**53  # JSON's readers and COCO's evaluation keep ids as doubles
MAX_MASKS = 2**21  # of one answer: its ids follow each other


class Answer(Protocol):
    """What annotations need of `Masks`."""

    @property
    def packed(self) -> PackedMasks: ...  # noqa: D102 - see Masks
    @property
    def boxes(self) -> NDArray[np.float32]: ...  # noqa: D102
    @property
    def areas(self) -> NDArray[np.int64]: ...  # noqa: D102
    @property
    def confidences(self) -> NDArray[np.float32]: ...  # noqa: D102
    @property
    def image(self) -> NDArray[np.uint8]: ...  # noqa: D102
    @property
    def vocabulary(self) -> tuple[str, ...] | None: ...  # noqa: D102
    @property
    def class_ids(self) -> NDArray[np.int64] | None: ...  # noqa: D102
    @property
    def names(self) -> tuple[str, ...] | None: ...  # noqa: D102
    def __len__(self) -> int: ...


def coco_annotations(
    masks: Answer,
    image_id: int = 0,
    first_id: int | None = None,
    categories: Mapping[str, int] | None = None,
) -> list[dict[str, Any]]:
    """List N masks as COCO annotations, ready for JSON and for pycocotools.

    `segmentation` is compressed RLE with `counts` as str, `bbox` is XYWH in pixels, `score` is the
    mask's confidence in [0, 1], None when no model predicted it.

    `id` counts from `first_id`. Without it, the first id is a number in [1, 2**53) computed from
    `image_id` and the masks, so that the lists of several images, or of several questions about
    one image, can be joined: only a list that is joined twice repeats its ids.

    `category_id` is that of the name in `categories`, else the name's index in the vocabulary plus
    1, and 1 without names. Answers with different vocabularies need `categories` to be joined.

    Raises InputError for ids that are not whole numbers in range, and for a name that
    `categories` lacks.
    """
    image = check_id("image_id", image_id, least=0)
    start = _derive_id(masks, image) if first_id is None else check_id("first_id", first_id)
    check_id("first_id + the number of masks", start + len(masks))
    chosen = _choose_categories(masks, categories)
    names, confidences = masks.names, masks.confidences
    annotations = []
    for row, mask in enumerate(masks.packed):
        x0, y0, x1, y1 = (float(edge) for edge in masks.boxes[row])
        annotation = {
            "id": start + row,
            "image_id": image,
            "category_id": chosen[row],
            "segmentation": encode_rle(mask),
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": int(masks.areas[row]),
            "iscrowd": 0,
            "score": finite(confidences[row]),
        }
        if names is not None:
            annotation["category_name"] = names[row]
        annotations.append(annotation)
    return annotations


def write_coco(path: str | os.PathLike[str], answers: Iterable[tuple[str | Path, Answer]]) -> Path:
    """Write the masks of many images as one COCO file, `images`, `annotations`, `categories`.

    `answers`: pairs of an image's file name, as it is to stand in the file, and its `Masks`; they
    may come from a generator. Ids count from 1 in the order given. A file name that comes again
    with the same picture is the same image. Categories are the names of all vocabularies, in the
    order in which they first come; masks without names have the category "object". The file is
    whole or absent. Return its path.

    Raises InputError for anything else than such pairs, or two pictures of one name; WriteError.

    Examples:
        >>> masks = scene.segment(boxes=[(172, 17, 410, 308)], names=["cup", "cat"])
        >>> samclip.write_coco("annotations.json", [("coffee.jpg", masks)]).name
        'annotations.json'
    """
    target = as_path(path, "path")
    text = to_json(coco_document(answers))
    with result_file(target) as file:
        file.write(text.encode())
    return target


def coco_document(answers: Iterable[tuple[str | Path, Answer]]) -> dict[str, Any]:
    """Return what `write_coco` writes, as plain values."""
    images: dict[str, dict[str, Any]] = {}
    pictures: dict[str, bytes] = {}
    annotations: list[dict[str, Any]] = []
    categories: dict[str, int] = {}
    for name, masks in _check_pairs(answers):
        picture = hashlib.blake2b(np.ascontiguousarray(masks.image).data).digest()
        if pictures.setdefault(name, picture) != picture:
            raise InputError(
                f"two pictures have the file name {name!r:.200}. Give their paths below one folder."
            )
        height, width = masks.packed.size
        record = {"id": len(images) + 1, "file_name": name, "width": width, "height": height}
        image = images.setdefault(name, record)
        for known in masks.vocabulary or (UNNAMED,):
            categories.setdefault(known, len(categories) + 1)
        annotations += coco_annotations(masks, image["id"], len(annotations) + 1, categories)
    return {
        "info": INFO,
        "images": list(images.values()),
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
    }


def check_id(what: str, value: int, least: int = 1) -> int:
    """Return `value` as int if it is a whole number in [least, 2**53]; else InputError."""
    try:
        number = least - 1 if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        number = least - 1
    if not least <= number <= MAX_ID:
        raise InputError(
            f"{what} must be a whole number of at least {least}, at most 2**53; got {brief(value)}."
        )
    return number


def _derive_id(masks: Answer, image_id: int) -> int:
    """Compute the first of N ids from the image's id and the masks, with their classes."""
    digest = hashlib.blake2b(repr((image_id, masks.packed.size)).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(masks.packed.bits).data)
    if masks.class_ids is not None:
        digest.update(masks.class_ids.astype("<i8").tobytes())
    return 1 + int.from_bytes(digest.digest(), "little") % (MAX_ID - MAX_MASKS)


def _choose_categories(masks: Answer, categories: Mapping[str, int] | None) -> list[int]:
    """Return the category's id of each mask."""
    if categories is None:
        ids = np.zeros(len(masks), np.int64) if masks.class_ids is None else masks.class_ids
        return [int(index) + 1 for index in ids]
    if not isinstance(categories, Mapping):
        raise InputError(
            "categories must be a mapping of name: id, as {'cat': 1}; got "
            f"{type(categories).__name__}."
        )
    names = masks.names or (UNNAMED,) * len(masks)
    for name in dict.fromkeys(names):
        if name not in categories:
            raise InputError(
                f"categories has no id for {name!r:.60}{did_you_mean(name, categories)}. Add it."
            )
    known = {name: check_id(f"the id of category {name!r:.60}", categories[name]) for name in names}
    return [known[name] for name in names]


def _check_pairs(answers: Iterable[tuple[str | Path, Answer]]) -> Iterator[tuple[str, Answer]]:
    """Yield the pairs, file names as text with forward slashes; InputError for anything else."""
    try:
        given = iter(answers)
    except TypeError as error:
        raise _wrong_pair(answers) from error
    for pair in given:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise _wrong_pair(pair)
        name, masks = pair[0].as_posix() if isinstance(pair[0], Path) else pair[0], pair[1]
        if not isinstance(name, str) or not name or not hasattr(masks, "packed"):
            raise _wrong_pair(pair)
        yield name, masks


def _wrong_pair(given: object) -> InputError:
    parts = [type(part).__name__ for part in given] if isinstance(given, (tuple, list)) else []
    got = f"({', '.join(parts)})" if parts else type(given).__name__
    return InputError(
        "answers must be pairs of a file name and Masks, as [('street.jpg', masks)]; got "
        f"{got:.200}."
    )
