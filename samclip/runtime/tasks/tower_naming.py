"""Naming by a separate CLIP: masks by crops or by pooled tokens, photos as CLIP does.

These are the two baselines of Open-Vocabulary SAM (Yuan et al., arXiv 2401.02955, section 1): SAM
makes the masks, and CLIP, which knows nothing of SAM, names them.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
from numpy.typing import NDArray

from samclip.errors import InputError, brief, did_you_mean
from samclip.runtime.bundles.manifest import NameBy
from samclip.runtime.features import Features
from samclip.runtime.photo import Photo
from samclip.runtime.results.classification import Classification
from samclip.runtime.results.masks import Masks
from samclip.runtime.tasks.token_naming import AnyMasks, TokenNamer, attach_names
from samclip.runtime.text.vocabulary import Vocabulary

WAYS: tuple[NameBy, ...] = get_args(NameBy)


class TowerNamer:
    """Names masks by crops or by tokens, whichever is asked for, else as `default` says.

    Methods raise CapabilityError, ClosedError, EngineRunError.
    """

    def __init__(self, default: NameBy) -> None:
        self._default: NameBy = default
        self._by_tokens = TokenNamer()

    def name(
        self,
        masks: AnyMasks,
        features: Features,
        vocabulary: Vocabulary,
        name_by: NameBy | None = None,
    ) -> AnyMasks:
        """Name each of N masks; the name with the highest cosine counts.

        "crop-image" costs a pass of CLIP for each mask, over a square of the photo around it.
        "crop-feature" costs one pass for all masks of a scene, over the whole photo: MaskCLIP's
        tokens are averaged in each mask as a merged model's are (`TokenNamer.name`).
        """
        return attach_names(masks, self.embed(masks, features, name_by), vocabulary)

    def embed(
        self, masks: Masks, features: Features, name_by: NameBy | None = None
    ) -> NDArray[np.float32]:
        """Embed each of N masks by its crop or its tokens, as `name` does: NxD, not normalised."""
        if (name_by or self._default) == "crop-feature" and len(masks):
            return self._by_tokens.embed(masks, features)
        return features.tower().crops(masks.packed)

    def classify(self, features: Features, vocabulary: Vocabulary, image: Photo) -> Classification:
        """Compare the whole photo with the names by CLIP's zero-shot rule, as CLIP itself does."""
        return self._by_tokens.classify(features, vocabulary, image)


def check_name_by(name_by: NameBy | None, names: object) -> NameBy | None:
    """Return `name_by`; raises InputError for another word, and where there are no names."""
    if name_by is None:
        return None
    if name_by not in WAYS:
        hint = did_you_mean(name_by, WAYS) if isinstance(name_by, str) else ""
        raise InputError(
            f"name_by must be {' or '.join(map(repr, WAYS))}, or None for the bundle's own; got "
            f"{brief(name_by)}{hint}."
        )
    if names is None:
        raise InputError("name_by says how masks are named; give names with it.")
    return name_by
