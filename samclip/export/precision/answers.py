"""What a model answers on the gates' photos: embeddings, masks, names; FP32 asks the questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samclip.export.precision.questions import Questions, drawn_boxes, find_questions
from samclip.runtime.features import Regions
from samclip.runtime.model import Model
from samclip.runtime.pixels.image import load_image
from samclip.runtime.pixels.masks import PackedMasks
from samclip.runtime.results.masks import Masks
from samclip.runtime.scene import Scene
from samclip.runtime.tasks.regions import parse_given, regions_of
from samclip.runtime.text.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Answers:
    """One model's answers on one photo; what its bundle cannot answer is None.

    `image_embeddings` Nx256, N positions; `image_embed` 1xD; `patch_embeds` NxD, N tokens of the
    image; `opinions` 2NxK, what the classifier and CLIP say of N boxes and K names; `masks`: one
    for each box, then those of each point, and `scores` of all, by which a point's masks are
    ranked; `labels` HxW, a name's number for each pixel; `names`: that of the photo, then that of
    each object.
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
    """Find the questions of a photo with the FP32 model, and its answers to them."""
    with model.encode(load_image(photo)) as scene:
        questions = find_questions(scene)
        return questions, _answers(model, scene, questions, vocabulary)


def answer(
    model: Model, photo: Path, questions: Questions, vocabulary: Vocabulary | None
) -> Answers:
    """Answer the questions of a photo; what has overflowed gives bad answers, no warnings."""
    with np.errstate(all="ignore"), model.encode(load_image(photo)) as scene:
        return _answers(model, scene, questions, vocabulary)


def fixed_regions(scene: Scene) -> Regions:
    """Give the fixed boxes of a scene's photo as classifiers take them."""
    masks = parse_given(drawn_boxes(scene.size).unpack_all(), scene.image)
    return regions_of(masks, scene.features.letterbox, scene.features.mask_size)


def _answers(
    model: Model, scene: Scene, questions: Questions, vocabulary: Vocabulary | None
) -> Answers:
    asked: list[Masks] = []
    if len(questions.boxes):
        asked.append(scene.segment(boxes=questions.boxes))
    if len(questions.points):
        points, multimask = questions.points[:, None], questions.per_point > 1  # Bx1x2
        asked.append(scene.segment(points=points, multimask=multimask))
    embeddings, graphs = scene.image_embeddings, model.manifest.graphs
    has_head = graphs.clip_head is not None
    names = vocabulary if vocabulary is not None and vocabulary.trained_head else None
    return Answers(
        image_embeddings=embeddings.reshape(embeddings.shape[1], -1).T,  # 1x256xGxG -> GGx256
        image_embed=scene.image_embed[None].copy() if has_head else None,
        patch_embeds=_tokens(scene) if has_head else None,
        opinions=_opinions(scene, vocabulary) if graphs.roi_classifier is not None else None,
        masks=PackedMasks.concatenate([masks.packed for masks in asked], scene.size),
        scores=np.concatenate([np.zeros(0, np.float32), *(masks.scores for masks in asked)]),
        labels=_labels(scene, names) if has_head and names is not None else None,
        names=None if names is None else _names(scene, questions.objects, names),
    )


def _tokens(scene: Scene) -> NDArray[np.float32]:
    """Give the embeddings of the tokens that lie on the photo: NxD."""
    clip = scene.features.clip()
    return np.asarray(clip.patch_embeds[:, clip.token_mask > 0].T)


def _opinions(scene: Scene, vocabulary: Vocabulary | None) -> NDArray[np.float32] | None:
    """Score the fixed boxes by both classifiers; None without two names to choose between.

    Each row is less its mean, which a softmax does not see, and which cosines of texts share.
    """
    if vocabulary is None or len(vocabulary.embeddings) < 2:
        return None
    regions, features = fixed_regions(scene), scene.features
    both = (features.score_regions, features.score_regions_by_clip)
    logits = np.concatenate([score(regions, vocabulary.embeddings) for score in both])  # 2NxK
    return np.asarray(logits - logits.mean(axis=1, keepdims=True))


def _labels(scene: Scene, vocabulary: Vocabulary) -> NDArray[np.int16]:
    return scene.semantic(vocabulary).labels.astype(np.int16)


def _names(scene: Scene, objects: PackedMasks, vocabulary: Vocabulary) -> NDArray[np.int64]:
    whole = int(np.argmax(scene.classify(vocabulary).probabilities))
    if not len(objects):
        return np.asarray([whole])
    named = scene.name(objects.unpack_all(), vocabulary)
    found: Sequence[int] = [] if named.class_ids is None else list(named.class_ids)
    return np.asarray([whole, *found])
