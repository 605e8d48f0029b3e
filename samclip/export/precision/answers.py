"""What a model answers on the gates' photos: embeddings, masks, names; FP32 asks the questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samclip.runtime.images.image import load_image
from samclip.runtime.model import Model
from samclip.runtime.results.masks import AutoMasks, Masks
from samclip.runtime.results.packed_masks import PackedMasks
from samclip.runtime.scene import Scene
from samclip.runtime.tasks.auto_options import AutoMaskOptions
from samclip.runtime.tasks.mask_ops import stability_score
from samclip.runtime.texts.vocabulary import Vocabulary

POINTS_PER_SIDE = 6  # of the grid in which FP32 looks for objects
MAX_OBJECTS = 16
MIN_AREA = 32**2  # pixels: below COCO's "small" a mask's IoU says more of single pixels
PER_POINT = 3  # masks that the decoder offers for a lone point


@dataclass(frozen=True, eq=False)
class Questions:
    """What every model is asked of one photo, found by FP32.

    `boxes` Bx4 XYXY and `points` Px2 (x, y) in pixels of the photo; `objects`: masks to name.
    """

    boxes: NDArray[np.float64]
    points: NDArray[np.float64]
    objects: PackedMasks


@dataclass(frozen=True, eq=False)
class Answers:
    """One model's answers on one photo; what its bundle cannot answer is None.

    `image_embeddings` Nx256, N positions; `image_embed` 1xD; `patch_embeds` NxD, N tokens of the
    image; `masks`: one for each box, then `PER_POINT` for each point, and `scores` of all, the
    IoU that the model predicts; `labels` HxW, a name's number for each pixel; `names`: that of
    the photo, then that of each object.
    """

    image_embeddings: NDArray[np.float32]
    image_embed: NDArray[np.float32] | None
    patch_embeds: NDArray[np.float32] | None
    masks: PackedMasks
    scores: NDArray[np.float32]
    labels: NDArray[np.int16] | None
    names: NDArray[np.int64] | None


def ask(model: Model, photo: Path, vocabulary: Vocabulary | None) -> tuple[Questions, Answers]:
    """Find the questions of a photo with the FP32 model, and its answers to them."""
    with model.encode(load_image(photo)) as scene:
        questions = _questions(scene)
        return questions, _answers(scene, questions, vocabulary, _has_head(model))


def answer(
    model: Model, photo: Path, questions: Questions, vocabulary: Vocabulary | None
) -> Answers:
    """Answer the questions of a photo; what has overflowed gives bad answers, no warnings."""
    with np.errstate(all="ignore"), model.encode(load_image(photo)) as scene:
        return _answers(scene, questions, vocabulary, _has_head(model))


def _has_head(model: Model) -> bool:
    return model.manifest.graphs.clip_head is not None


def _questions(scene: Scene) -> Questions:
    """Take what FP32 finds on a grid of points, the surest first; without finds, fixed prompts."""
    found = scene.everything(points_per_side=POINTS_PER_SIDE)
    chosen = _surest(found)
    if len(chosen):
        objects = found.packed.select(chosen)
        return Questions(found.boxes[chosen].astype(np.float64), found.points[chosen], objects)
    return _fixed_questions(scene)


def _fixed_questions(scene: Scene) -> Questions:
    """Take five boxes and their centres, those to which FP32 has an answer that it is sure of.

    Where logits lie about the threshold all over, as those of an untrained encoder, the contour
    hangs on the last bit: such a mask tells of no precision.
    """
    height, width = scene.size
    corners = np.asarray([[1, 1, 3, 3], [0, 0, 2, 2], [2, 0, 4, 2], [0, 2, 2, 4], [2, 2, 4, 4]])
    boxes = corners * np.asarray([width, height, width, height]) / 4
    points = (boxes[:, :2] + boxes[:, 2:]) / 2
    of_boxes = scene.segment(boxes=boxes, return_logits=True)
    of_points = scene.segment(points=points[:, None], multimask=True, return_logits=True)
    best = PER_POINT * np.arange(len(points)) + of_points.scores.reshape(-1, PER_POINT).argmax(1)
    nothing = PackedMasks.pack((), scene.size)
    return Questions(boxes[_is_stable(of_boxes)], points[_is_stable(of_points[best])], nothing)


def _is_stable(masks: Masks) -> NDArray[np.bool_]:
    """Tell which of N masks with logits `everything` would take, by its stability score."""
    options = AutoMaskOptions()
    offset, threshold = options.stability_score_offset, options.stability_score_thresh
    logits: list[NDArray[np.float32]] = [] if masks.logits is None else list(masks.logits)
    return np.asarray([stability_score(each, offset) >= threshold for each in logits], np.bool_)


def _surest(found: AutoMasks) -> NDArray[np.int64]:
    order = np.argsort(-found.scores, kind="stable")
    return order[found.areas[order] >= MIN_AREA][:MAX_OBJECTS]


def _answers(
    scene: Scene, questions: Questions, vocabulary: Vocabulary | None, has_head: bool
) -> Answers:
    asked: list[Masks] = []
    if len(questions.boxes):
        asked.append(scene.segment(boxes=questions.boxes))
    if len(questions.points):
        asked.append(scene.segment(points=questions.points[:, None], multimask=True))  # Bx1x2
    embeddings = scene.image_embeddings
    return Answers(
        image_embeddings=embeddings.reshape(embeddings.shape[1], -1).T,  # 1x256xGxG -> GGx256
        image_embed=scene.image_embed[None].copy() if has_head else None,
        patch_embeds=_tokens(scene) if has_head else None,
        masks=PackedMasks.concatenate([masks.packed for masks in asked], scene.size),
        scores=np.concatenate([np.zeros(0, np.float32), *(masks.scores for masks in asked)]),
        labels=None if vocabulary is None else _labels(scene, vocabulary),
        names=None if vocabulary is None else _names(scene, questions.objects, vocabulary),
    )


def _tokens(scene: Scene) -> NDArray[np.float32]:
    """Give the embeddings of the tokens that lie on the photo: NxD."""
    clip = scene.features.clip()
    return np.asarray(clip.patch_embeds[:, clip.token_mask > 0].T)


def _labels(scene: Scene, vocabulary: Vocabulary) -> NDArray[np.int16]:
    return scene.semantic(vocabulary).labels.astype(np.int16)


def _names(scene: Scene, objects: PackedMasks, vocabulary: Vocabulary) -> NDArray[np.int64]:
    whole = int(np.argmax(scene.classify(vocabulary).probabilities))
    if not len(objects):
        return np.asarray([whole])
    named = scene.name(objects.unpack_all(), vocabulary)
    found: Sequence[int] = [] if named.class_ids is None else list(named.class_ids)
    return np.asarray([whole, *found])
