"""Regions of scenes as examples of names, checked and embedded.

A region is embedded as `Scene.segment(names=)` embeds masks in the same bundle: by the tokens
inside the mask, or by a crop around it where a bundle of two towers names masks so. A box becomes a
mask first, by the mask decoder, as a box of `segment` does: tokens of what lies around the object
in its box would count for half. Without a region, the whole photo is the example, by the embedding
that `Scene.classify` compares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samclip.errors import (
    CapabilityError,
    EngineRunError,
    PromptError,
    VocabularyError,
    brief,
    error_context,
)
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.pixels.arrays import as_array
from samclip.runtime.results.masks import Masks
from samclip.runtime.scene import Scene
from samclip.runtime.tasks.regions import parse_given
from samclip.runtime.text.bundle_text import naming_parts, space_digest
from samclip.runtime.text.names import check_known
from samclip.runtime.text.vocabulary import Vocabulary, examples_of, unit_rows

MAX_EXAMPLES = 4096  # of one call: each may take a run of the decoder, and of a second CLIP
Region = Masks | ArrayLike | None
GivenExamples = Mapping[str, Sequence[tuple[Scene, Region]]]


def add_examples(made: Vocabulary, given: GivenExamples, bundle: Bundle) -> Vocabulary:
    """Return a vocabulary with further examples for some of its names; see `Model.vocabulary`.

    Raises VocabularyError for other values than examples, and for scenes of another bundle;
    PromptError for a mask or a box that does not fit its scene; CapabilityError for a bundle that
    has no embeddings of pictures; ClosedError for a closed scene, EngineRunError.
    """
    if not bundle.manifest.has_map:
        raise CapabilityError(
            f"bundle {bundle.manifest.name!r} names regions by two classifiers, which take texts "
            "and return scores: it has no embeddings of pictures, so examples cannot be mixed with "
            "texts. Leave out examples, give synonyms, or choose a bundle with a CLIP head or with "
            "two towers."
        )
    space = picture_space(bundle)
    width = made.embeddings.shape[1]
    sums = np.zeros((len(made.names), width), np.float32)
    counts = np.zeros(len(made.names), np.int64)
    scenes: dict[int, Scene] = {}
    for name, scene, region in list(_checked(given, made.names)):
        with error_context(f"the example of {name!r:.60}"):
            if id(scene) not in scenes:
                _check_scene(scene, space, bundle)
                scenes[id(scene)] = scene
            rows = _embed(scene, region)
        row = made.names.index(name)
        sums[row] += rows.sum(axis=0)
        counts[row] += len(rows)
    if not scenes:
        return made
    centres = [mean_token(scene) for scene in scenes.values()]
    centre = np.asarray(np.sum(centres, axis=0), np.float32)
    return made.with_examples(examples_of(made, space).add(sums, counts, centre, len(centres)))


def picture_space(bundle: Bundle) -> str:
    """Return the digest of what embeds a bundle's pictures; "" for a bundle without embeddings.

    Of several variants of a graph the first in FP32 stands for all of them, and the encoder of the
    first shape for those of other shapes: they compute the same embeddings but for rounding.
    """
    manifest = bundle.manifest
    if not manifest.has_map:
        return ""
    own = ("clip_encoder",) if manifest.clip_head is None else ("encoder", "clip_head")
    digest = hashlib.sha256()
    for name in (*own, "token_aggregation"):
        graph = manifest.graph(name)
        if graph is None:
            continue
        for file in (graph.first_full.file, graph.first_full.weights):
            entry = None if file is None else manifest.files.get(file)
            digest.update(f"{name} {None if entry is None else entry.sha256};".encode())
    return digest.hexdigest()


def check_saved(made: Vocabulary, bundle: Bundle) -> None:
    """Check that a bundle can use a vocabulary, without a graph of it.

    Raises CapabilityError for a bundle that cannot name, VocabularyError as `Vocabulary.check`.
    """
    _, text = naming_parts(bundle.manifest)
    pictures = None if made.examples is None else picture_space(bundle)
    made.check(space_digest(bundle, text), text.embed_dim, pictures)


def _checked(given: GivenExamples, names: Sequence[str]) -> Iterator[tuple[str, Scene, Region]]:
    """Yield each example with its name; raises VocabularyError for what is none."""
    form = "{name: [(scene, mask), (scene, box), ...]}"
    if not isinstance(given, Mapping):
        raise VocabularyError(f"examples must be {form}; got {brief(given)}.")
    count = 0
    for name, pairs in given.items():
        check_known("examples", [name], names)
        if isinstance(pairs, str | bytes | Mapping | Scene) or not isinstance(pairs, Sequence):
            raise VocabularyError(
                f"the examples of {name!r:.60} must be a list, as in {form}; got {brief(pairs)}."
            )
        count += len(pairs)
        if count > MAX_EXAMPLES:
            raise VocabularyError(
                f"{count:,} examples or more were given; one call takes {MAX_EXAMPLES:,}. Give the "
                "rest in further calls, with the vocabulary that this one returns as names."
            )
        for pair in pairs:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise VocabularyError(
                    f"an example of {name!r:.60} must be a pair (scene, mask or box); got "
                    f"{brief(pair)}."
                )
            scene, region = pair
            if not isinstance(scene, Scene):
                raise VocabularyError(
                    f"an example of {name!r:.60} must begin with a scene; got {brief(scene)}. Give "
                    "what model.encode(photo) returned."
                )
            yield name, scene, region


def _check_scene(scene: Scene, space: str, bundle: Bundle) -> None:
    scene.features.check_open()
    other = scene.features.bundle
    if (came := picture_space(other)) != space:
        raise VocabularyError(
            f"the scene is of bundle {other.manifest.name!r}, whose pictures are embedded by "
            f"{came[:12] or 'nothing'}, and this is {bundle.manifest.name!r} with {space[:12]}: "
            "their embeddings do not compare. Encode the photo with this model."
        )


def _embed(scene: Scene, region: Region) -> NDArray[np.float32]:
    """Embed what a region shows: NxD, unit rows; N is 1 but for `Masks` of several."""
    if region is None:
        rows = scene.image_embed[None]
    else:
        rows = scene.embed_masks(_as_masks(scene, region))
    units = unit_rows(rows)
    lengths = np.linalg.norm(units, axis=1)
    if not (np.abs(lengths - 1) < 1e-3).all():  # NaN is not
        raise EngineRunError(
            "the embedding of this region is zero or not finite; try another backend or precision"
        )
    return units


def _as_masks(scene: Scene, region: Any) -> Masks:
    """Turn a mask, a box or `Masks` into masks with a pixel each; raises PromptError."""
    if _is_box(region):
        found = scene.segment(boxes=region)
        what = f"the decoder found nothing in the box {brief(region)}. Give a mask"
    else:
        found = parse_given(region, scene.image)
        what = "the mask is empty, so it shows nothing. Leave it out"
    if not len(found) or not found.areas.all():
        raise PromptError(f"{what}, or another region.")
    return found


def _is_box(region: Any) -> bool:
    if isinstance(region, Masks) or hasattr(region, "xyxy"):
        return False
    return as_array(region, "a region", "a mask HxW bool or 4 numbers XYXY").shape == (4,)


def mean_token(scene: Scene) -> NDArray[np.float32]:
    """Return the direction of the mean of a photo's tokens, each of unit length: D, unit length."""
    clip = scene.features.clip()
    tokens = clip.patch_embeds.reshape(len(clip.patch_embeds), -1).T  # Dxhxw -> hwxD
    inside = tokens[clip.token_mask.reshape(-1) > 0]
    row: NDArray[np.float32] = unit_rows(unit_rows(inside).mean(axis=0, keepdims=True))[0]
    return row
