"""Questions: what the body of a request may ask, as records with types, bounds and a schema.

The records check form and amount. The values themselves are checked by the code that checks those
of the Python API.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from samclip.client.decoding import decode_rle
from samclip.runtime.bundles.manifest import NameBy
from samclip.runtime.pixels.mask_ops import PackedMasks
from samclip.runtime.text.names import as_names
from samclip.server.problems import ProblemError
from samclip.server.settings import Limits

if TYPE_CHECKING:
    from samclip.runtime.model import Model
    from samclip.runtime.scene import Names as GivenNames
    from samclip.runtime.text.vocabulary import Vocabulary as SavedNames

Number = int | float
Numbers = list[Number | list[Number]]  # N, or BxN; the prompts' own checks say which may be
PointSets = list[Numbers]  # Nx2 for one prompt, BxNx2 for B


def about(text: str, **limits: Any) -> Meta:
    """Describe a field."""
    return Meta(description=text, **limits)


class Array(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An array of little-endian float32 in C order, its bytes as base64."""

    dtype: Literal["float32"] = "float32"
    shape: Annotated[list[int], about("the dimensions", min_length=1, max_length=4)]
    data: Annotated[str, about("base64 of the bytes")]

    def to_numpy(self) -> NDArray[np.float32]:
        """Return the array; ProblemError 422 where bytes and shape do not fit."""
        data = decode_base64(self.data, "an array")
        if min(self.shape) < 0 or math.prod(self.shape) * 4 != len(data):
            raise ProblemError(
                "invalid-question",
                f"an array of shape {self.shape} has {math.prod(self.shape) * 4:,} bytes of "
                f"float32; got {len(data):,}. Send its bytes in C order.",
            )
        return np.frombuffer(data, "<f4").astype(np.float32).reshape(self.shape)

    @staticmethod
    def of(array: NDArray[np.float32]) -> dict[str, Any]:
        """Return an array as the plain values of this record."""
        data = base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode("ascii")
        return {"dtype": "float32", "shape": list(array.shape), "data": data}


Image = Annotated[
    str | None,
    about("an image file, as base64; as a part of a multipart body: the file itself"),
]
SceneId = Annotated[str, about("the id of a scene, in place of an image", max_length=64)] | None
Names = Annotated[list[str], about("the names to choose from")]
Templates = Annotated[
    str | list[str] | None,
    about("the name of a template set, or templates with one {} each; null: the bundle's"),
]
AnswerForm = Annotated[
    Literal["rle", "png", "picture"],
    about(
        "rle: JSON, masks as COCO run lengths; png: JSON, masks as PNG files in base64; picture: "
        "the photo with the answer drawn on it, as Accept says: image/png, image/jpeg, image/webp"
    ),
]


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all questions have: an image or a scene, and the form of the answer."""

    image: Image = None
    scene: SceneId = None
    answer: AnswerForm = "rle"


class Vocabulary(Question, frozen=True, kw_only=True):
    """A question with names."""

    names: Names | None = None
    templates: Templates = None
    synonyms: Annotated[
        dict[str, list[str]] | None, about("for some names, other texts of the same meaning")
    ] = None
    seen: Annotated[list[str] | None, about("the names that the model was trained with")] = None

    def names_for(
        self, model: Model, saved: SavedNames | None = None
    ) -> tuple[GivenNames | None, Templates]:
        """Return the names and the templates that a scene is given.

        The names are embedded already where they have synonyms, were seen in training, or are among
        those of `saved`, whose embeddings are taken then; synonyms of the question go before these.
        """
        if self.names is None:
            return None, self.templates
        names = as_names(self.names)
        known = set(() if saved is None else saved.names) - set(self.synonyms or {})
        taken = [name for name in names if name in known]
        if not (taken or self.synonyms or self.seen):
            return self.names, self.templates
        given: list[Any] = [name for name in names if name not in known]
        seen = [name for name in self.seen or () if name not in taken] or None
        if saved is not None and taken:
            given.insert(0, saved.select(taken))
        made = model.vocabulary(given, self.templates, synonyms=self.synonyms, seen=seen)
        return (made.select(names) if taken else made), None


class NewScene(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An image to be encoded and kept."""

    image: Image = None


class Classify(Vocabulary, frozen=True, kw_only=True):
    """Which of the names fits the image best."""


class Segment(Vocabulary, frozen=True, kw_only=True):
    """Masks of the objects at points, boxes or masks; names are optional."""

    points: Annotated[
        PointSets | None,
        about("Nx2 (x, y) in pixels of the image: one prompt of N points; BxNx2: B prompts"),
    ] = None
    labels: Annotated[
        Numbers | None, about("for each point 1, foreground, or 0; null: all foreground")
    ] = None
    boxes: Annotated[Numbers | None, about("4 or Bx4: x0, y0, x1, y1 in pixels")] = None
    mask: Annotated[
        Array | None, about("hxw or Bxhxw logits, from `low_res_logits` of an earlier answer")
    ] = None
    multimask: Annotated[bool, about("three masks for each prompt")] = False
    name_by: Annotated[NameBy | None, about("how a bundle with two towers names masks")] = None
    include: Annotated[
        list[Literal["low_res_logits", "logits"]], about("arrays to add to the answer")
    ] = []


class Semantic(Vocabulary, frozen=True, kw_only=True):
    """A name for every pixel."""

    refine: Annotated[bool, about("let SAM's decoder draw the borders")] = False
    background: Annotated[
        float | None, about("pixels of a lower probability get no name; null: all get one")
    ] = None
    include: Annotated[list[Literal["scores"]], about("arrays to add to the answer")] = []


class Everything(Vocabulary, frozen=True, kw_only=True):
    """Masks of everything, with the options of segment-anything's generator, and `adaptive`."""

    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: Annotated[int, about("0 or 1 here; each crop is an encoder pass", le=1)] = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    min_mask_region_area: float = 0
    adaptive: Annotated[
        bool, about("a quarter of the grid first, then only points that few masks cover")
    ] = False
    name_by: Annotated[NameBy | None, about("how a bundle with two towers names masks")] = None

    def options(self) -> dict[str, Any]:
        """Return the options of `Scene.everything`, without names."""
        shared = {field.name for field in msgspec.structs.fields(Vocabulary)}
        return {
            field.name: getattr(self, field.name)
            for field in msgspec.structs.fields(Everything)
            if field.name not in shared
        }


class RunLengths(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mask as COCO's compressed run lengths."""

    size: Annotated[list[int], about("[h, w] of the image", min_length=2, max_length=2)]
    counts: Annotated[str, about("the packed lengths of runs, column after column")]


class Name(Vocabulary, frozen=True, kw_only=True):
    """The names that fit given masks best, as those of another model."""

    masks: Annotated[list[RunLengths], about("masks in pixels of the image")]
    name_by: Annotated[NameBy | None, about("how a bundle with two towers names masks")] = None

    def decode(self, size: tuple[int, int]) -> PackedMasks:
        """Return the masks of an image of (h, w) pixels; ProblemError 422 for others."""
        try:
            return PackedMasks.pack(
                (decode_rle(msgspec.structs.asdict(mask), size) for mask in self.masks), size
            )
        except ValueError as error:
            raise ProblemError(
                "invalid-question",
                f"a mask {error}. Send COCO run lengths of masks of the image, whose (h, w) is "
                f"{size}.",
            ) from error


AnyQuestion = Classify | Segment | Semantic | Everything | Name


def check_amounts(question: AnyQuestion, limits: Limits) -> None:
    """Check how much a question asks; ProblemError 422 for more than the limits."""
    texts = [*(question.names or ()), *(question.seen or ())]
    for name, others in (question.synonyms or {}).items():
        texts += [name, *others]
    if isinstance(question.templates, list):
        texts += question.templates
    _check("names, synonyms and templates", len(texts), limits.names)
    _check("letters of a name", max(map(len, texts), default=0), limits.name_letters)
    if isinstance(question, Segment):
        prompts, points = count_prompts(question)
        _check("prompts", prompts, limits.prompts)
        _check("points", points, limits.points)
    if isinstance(question, Name):
        _check("masks", len(question.masks), limits.prompts)
    if isinstance(question, Everything):
        _check("points_per_side", question.points_per_side, limits.grid)
        _check("points_per_batch", question.points_per_batch, limits.grid**2)


def count_prompts(question: Segment) -> tuple[int, int]:
    """Return the number of prompts of a question, and of their points together."""
    points: list[Any] = list(question.points or ())
    is_nested = any(isinstance(each, list) for row in points for each in row)
    sets = points if is_nested else [points] if points else []
    boxes: list[Any] = list(question.boxes or ())
    rows = len(boxes) if any(isinstance(each, list) for each in boxes) else min(1, len(boxes))
    shape = question.mask.shape if question.mask is not None else []
    masks = shape[0] if len(shape) == 3 else len(shape[:1])
    return max(len(sets), rows, masks), sum(map(len, sets))


def _check(what: str, count: int, most: int) -> None:
    if count > most:
        raise ProblemError(
            "invalid-question",
            f"a question may have {most:,} {what}; this one has {count:,}. Ask in several.",
        )


def decode_base64(text: str, what: str) -> bytes:
    """Decode base64; ProblemError 422 for other text."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProblemError(
            "invalid-question", f"{what} must be base64 of bytes; {error}."
        ) from error


def schema_of(kind: type[Any]) -> dict[str, Any]:
    """Return the JSON schema of a record, with the schemas of its parts in their places."""
    (_,), parts = msgspec.json.schema_components([kind], ref_template="{name}")

    def inlined(node: Any) -> Any:
        if isinstance(node, Mapping):
            if "$ref" in node:
                return inlined(parts[node["$ref"]])
            return {key: inlined(value) for key, value in node.items()}
        return [inlined(each) for each in node] if isinstance(node, list) else node

    schema: dict[str, Any] = inlined(parts[kind.__name__])
    return schema
