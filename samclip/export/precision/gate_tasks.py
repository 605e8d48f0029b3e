"""The tasks of the gates: questions that FP32 finds on a photo, and a model's answers to them.

Each photo yields prompts that FP32 answers well, and masks to name. The answers are embeddings,
masks and names; the names come from a fixed vocabulary in the model's own text space.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samclip.errors import UntrainedHeadWarning
from samclip.export.naming_head import head_name
from samclip.runtime.bundles.manifest import Manifest
from samclip.runtime.features import Regions
from samclip.runtime.model import Model
from samclip.runtime.pixels.image import load_image
from samclip.runtime.pixels.mask_ops import PackedMasks, nms, stability_score
from samclip.runtime.results.masks import Masks
from samclip.runtime.scene import Scene
from samclip.runtime.tasks.grid import AutoMaskOptions
from samclip.runtime.tasks.regions import parse_given, regions_of
from samclip.runtime.text.vocabulary import Vocabulary

POINTS_PER_SIDE = 6  # of the grid in which FP32 looks for objects
MAX_OBJECTS = 16
MIN_AREA = 32**2  # pixels: for COCO's "small" objects IoU depends on single pixels
PER_POINT = 3  # masks that SAM's decoder offers for a lone point

# Things on everyday photos, some of the names close to each other.
NAMES = (
    "person", "face", "dog", "cat", "bird", "horse", "car", "bus", "bicycle", "aeroplane", "boat",
    "rocket", "chair", "table", "cup", "plate", "spoon", "food", "flower", "tree", "grass", "sky",
    "water", "road", "building", "wall", "fabric", "wood",
)  # fmt: skip
TEMPLATES = ("a photo of a {}.",)
MAX_LABELS = 64  # taken from a bundle without a text encoder, which has no other names


@dataclass(frozen=True, eq=False)
class Questions:
    """The questions that every model answers about one photo, found by FP32.

    `boxes` Bx4 XYXY and `points` Px2 (x, y) are in pixels of the photo; `objects` are the masks to
    name; `per_point` is the number of masks that a point gets.
    """

    boxes: NDArray[np.float64]
    points: NDArray[np.float64]
    objects: PackedMasks
    per_point: int = PER_POINT


@dataclass(frozen=True, eq=False)
class Answers:
    """One model's answers on one photo; None where its bundle lacks the graphs to answer.

    `image_embeddings` is Nx256 for N positions; `image_embed` 1xD; `patch_embeds` NxD for N tokens
    of the image; `opinions` 2NxK, the scores of the classifier and of CLIP for N boxes and K names;
    `masks` one for each box, then those of each point, and `scores` of all, by which a point's
    masks are ranked; `labels` HxW the index of a name for each pixel; `names` the index for the
    photo, then for each object.
    """

    image_embeddings: NDArray[np.float32]
    image_embed: NDArray[np.float32] | None
    patch_embeds: NDArray[np.float32] | None
    opinions: NDArray[np.float32] | None
    masks: PackedMasks
    scores: NDArray[np.float32]
    labels: NDArray[np.int16] | None
    names: NDArray[np.int64] | None


def ask(model: Model, photo: Path, vocabulary: Vocabulary | None) -> tuple[Questions, Answers]:
    """Find the questions of a photo with the FP32 model; returns them and its answers."""
    with model.encode(load_image(photo)) as scene:
        questions = find_questions(scene)
        return questions, _answers(model, scene, questions, vocabulary)


def answer(
    model: Model, photo: Path, questions: Questions, vocabulary: Vocabulary | None
) -> Answers:
    """Answer the questions of a photo; overflows give bad answers, not warnings."""
    with np.errstate(all="ignore"), model.encode(load_image(photo)) as scene:
        return _answers(model, scene, questions, vocabulary)


def gate_vocabulary(model: Model) -> Vocabulary | None:
    """Embed the gates' names with the model's own text encoder, or take its ready-made labels.

    None when it has neither, or no head. A head that was never trained has a vocabulary too, whose
    vectors can be compared, but see `unnameable`.
    """
    text = model.manifest.text
    if model.manifest.head is None or text is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedHeadWarning)
        if model.manifest.graphs.text_encoder is not None:
            return model.vocabulary(NAMES, TEMPLATES)
        if text.labels is not None:
            return model.vocabulary(json.loads(model.bundle.read(text.labels))[:MAX_LABELS])
    return None


def unnameable(manifest: Manifest) -> str | None:
    """Return the reason why names cannot be judged; None when they can."""
    text, head = manifest.text, manifest.head
    if head is None:
        return "names are not judged: the bundle has no CLIP head"
    if not head.trained:
        return f"names are not judged: the {head_name(head)} was never trained"
    if text is None or (manifest.graphs.text_encoder is None and text.labels is None):
        return "names are not judged: the bundle has no text encoder and no labels"
    return None


def find_questions(scene: Scene) -> Questions:
    """Take the surest objects that FP32 finds on a grid of points; without any, fixed prompts."""
    if scene.features.has_multimask:
        masks = scene.everything(points_per_side=POINTS_PER_SIDE)
        found = _Found(masks.packed, masks.boxes, masks.scores, masks.points)
    else:
        found = _find_single_masks(scene)
    order = np.argsort(-found.scores, kind="stable")
    chosen = order[found.packed.areas()[order] >= MIN_AREA][:MAX_OBJECTS]
    if not len(chosen):
        return _fixed_questions(scene)
    boxes = found.boxes[chosen].astype(np.float64)
    return Questions(boxes, found.points[chosen], found.packed.select(chosen), _per_point(scene))


@dataclass(frozen=True, eq=False)
class _Found:
    """N objects: their masks, boxes Nx4 XYXY, scores N, and the points Nx2 that they are at."""

    packed: PackedMasks
    boxes: NDArray[np.floating]
    scores: NDArray[np.floating]
    points: NDArray[np.float64]


def _per_point(scene: Scene) -> int:
    return PER_POINT if scene.features.has_multimask else 1


def _find_single_masks(scene: Scene) -> _Found:
    """Find objects as `everything` does, with a decoder of one mask: stable, no duplicates."""
    height, width = scene.size
    places = (np.arange(POINTS_PER_SIDE) + 0.5) / POINTS_PER_SIDE
    parts: list[_Found] = []
    for y in places * height:  # row by row: logits of all the grid at once would be large
        points = np.stack([places * width, np.full(POINTS_PER_SIDE, y)], axis=1)
        masks = scene.segment(points=points[:, None], return_logits=True)
        stable = np.flatnonzero(_is_stable(masks))
        parts.append(
            _Found(
                masks.packed.select(stable),
                masks.boxes[stable],
                masks.scores[stable],
                points[stable],
            )
        )
    packed = PackedMasks.concatenate([part.packed for part in parts], scene.size)
    boxes, scores, points = (
        np.concatenate([getattr(part, field) for part in parts])
        for field in ("boxes", "scores", "points")
    )
    kept = nms(boxes, scores, AutoMaskOptions().box_nms_thresh)
    return _Found(packed.select(kept), boxes[kept], scores[kept], points[kept])


def _fixed_questions(scene: Scene) -> Questions:
    """Take those of five boxes and their centres for which FP32 finds a stable mask.

    Where all logits are close to the threshold, as those of an untrained encoder, the contour
    depends on the last bit, and such a mask does not measure a precision. A model of one mask names
    all boxes nevertheless, because these names do not depend on masks.
    """
    boxes, per_point = fixed_boxes(scene.size), _per_point(scene)
    points = (boxes[:, :2] + boxes[:, 2:]) / 2
    of_boxes = scene.segment(boxes=boxes, return_logits=True)
    of_points = scene.segment(points=points[:, None], multimask=per_point > 1, return_logits=True)
    best = per_point * np.arange(len(points)) + of_points.scores.reshape(-1, per_point).argmax(1)
    objects = PackedMasks.pack((), scene.size) if per_point > 1 else drawn_boxes(scene.size)
    sure = points[_is_stable(of_points[best])]
    return Questions(boxes[_is_stable(of_boxes)], sure, objects, per_point)


def _is_stable(masks: Masks) -> NDArray[np.bool_]:
    """Return which of N masks with logits `everything` would take by its stability score."""
    options = AutoMaskOptions()
    offset, threshold = options.stability_score_offset, options.stability_score_thresh
    logits: list[NDArray[np.float32]] = [] if masks.logits is None else list(masks.logits)
    return np.asarray([stability_score(each, offset) >= threshold for each in logits], np.bool_)


def _answers(
    model: Model, scene: Scene, questions: Questions, vocabulary: Vocabulary | None
) -> Answers:
    asked: list[Masks] = []
    if len(questions.boxes):
        asked.append(scene.segment(boxes=questions.boxes))
    if len(questions.points):
        points, multimask = questions.points[:, None], questions.per_point > 1  # Bx1x2
        asked.append(scene.segment(points=points, multimask=multimask))
    embeddings = scene.image_embeddings
    graphs = model.manifest.graphs
    has_head = model.manifest.has_map
    names = vocabulary if vocabulary is not None and vocabulary.trained_head else None
    patch_embeds = labels = None
    if has_head:
        clip = scene.features.clip()
        patch_embeds = np.asarray(clip.patch_embeds[:, clip.token_mask > 0].T)  # NxD, no padding
    if has_head and names is not None:
        labels = scene.semantic(names).labels.astype(np.int16)
    return Answers(
        image_embeddings=embeddings.reshape(embeddings.shape[1], -1).T,  # 1x256xGxG -> GGx256
        image_embed=scene.image_embed[None].copy() if has_head else None,
        patch_embeds=patch_embeds,
        opinions=_opinions(scene, vocabulary) if graphs.roi_classifier is not None else None,
        masks=PackedMasks.concatenate([masks.packed for masks in asked], scene.size),
        scores=np.concatenate([np.zeros(0, np.float32), *(masks.scores for masks in asked)]),
        labels=labels,
        names=None if names is None else _names(scene, questions.objects, names),
    )


def _opinions(scene: Scene, vocabulary: Vocabulary | None) -> NDArray[np.float32] | None:
    """Score the fixed boxes by both classifiers, 2NxK; None with fewer than two names.

    Each row is less its mean, which a softmax ignores, and which cosines of texts have in common.
    """
    if vocabulary is None or len(vocabulary.embeddings) < 2:
        return None
    regions, features = fixed_regions(scene), scene.features
    both = (features.score_regions, features.score_regions_by_clip)
    logits = np.concatenate([score(regions, vocabulary.embeddings) for score in both])  # 2NxK
    return np.asarray(logits - logits.mean(axis=1, keepdims=True))


def _names(scene: Scene, objects: PackedMasks, vocabulary: Vocabulary) -> NDArray[np.int64]:
    whole = int(np.argmax(scene.classify(vocabulary).probabilities))
    if not len(objects):
        return np.asarray([whole])
    named = scene.name(objects.unpack_all(), vocabulary)
    found: Sequence[int] = [] if named.class_ids is None else list(named.class_ids)
    return np.asarray([whole, *found])


def fixed_regions(scene: Scene) -> Regions:
    """Return the fixed boxes of a scene's photo as classifiers take them."""
    masks = parse_given(drawn_boxes(scene.size).unpack_all(), scene.image)
    return regions_of(masks, scene.features.letterbox, scene.features.mask_size)


def fixed_boxes(size: tuple[int, int]) -> NDArray[np.float64]:
    """Return five boxes of a photo of `size` (h, w), 5x4 XYXY: its middle and its quarters."""
    height, width = size
    corners = np.asarray([[1, 1, 3, 3], [0, 0, 2, 2], [2, 0, 4, 2], [0, 2, 2, 4], [2, 2, 4, 4]])
    return np.asarray(corners * np.asarray([width, height, width, height]) / 4)


def drawn_boxes(size: tuple[int, int]) -> PackedMasks:
    """Return the fixed boxes as filled masks."""
    boxes = fixed_boxes(size).round().astype(int)
    masks = np.zeros((len(boxes), *size), np.bool_)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return PackedMasks.pack(masks, size)
