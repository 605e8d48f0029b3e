"""ConSE, a name teacher without CLIP: a classifier whose class names a text tower embeds.

Norouzi et al., arXiv 1312.5650, section 3: a picture's embedding is the sum of the embeddings of
its most probable class names, weighted by their probabilities.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from samclip.errors import CheckpointError, InputError, error_context
from samclip.export.checkpoints.checkpoint import read_checkpoint
from samclip.export.checkpoints.imagenet_classes import imagenet_names
from samclip.export.checkpoints.recogniser import load_recogniser
from samclip.export.checkpoints.text_source import read_text
from samclip.export.models.efficientnet_lite import RECOGNISER_MEAN, RECOGNISER_STD
from samclip.export.models.norms import fold_batch_norms
from samclip.merge.data.labels import TEMPLATES, embed_names
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.teachers.base import fingerprint_of
from samclip.runtime.text.templates import resolve_templates

VERSION = 1  # of the recipe, part of the fingerprint
CENTRE_SHARE = 260 / 292  # side of a centre crop, as a share of the picture's shorter side

Framing = Literal["whole", "centre"]


@dataclass(frozen=True)
class ConseOptions:
    """The options of turning class probabilities into an embedding.

    `top_k`: how many of the most probable classes count, None for all; the paper tries 1, 10 and
    1000, and 10 is best. `temperature` divides the logits; the paper has none, which is 1. `centre`
    subtracts the mean of the class names' embeddings from each: otherwise that common direction
    draws uncertain pictures to the prompts that lie near it. `framing`: the classifier sees the
    whole picture squashed to a square, or a centre crop. `templates`: a set's name, or the
    templates that class names are put into. Raises InputError for numbers out of range.
    """

    top_k: int | None = 10
    temperature: float = 1.0
    centre: bool = False
    framing: Framing = "whole"
    templates: str | tuple[str, ...] = TEMPLATES

    def __post_init__(self) -> None:
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k is {self.top_k}; expected 1 or more, or none for all classes")
        if not self.temperature > 0:
            raise InputError(f"the temperature is {self.temperature}; expected more than 0")


class Conse:
    """A frozen EfficientNet-Lite2 and the embeddings of its classes' names.

    `classifier`: the checkpoint of the classifier; `text`: that of a text tower, with its tokenizer
    next to it, and `quick_gelu` its activation, where no file next to it says it; `class_names`:
    one for each class, in the classifier's order, None for ImageNet's. Raises CheckpointError when
    a checkpoint cannot be read, or when there are not as many names as classes.
    """

    def __init__(
        self,
        classifier: Path,
        text: Path,
        class_names: Sequence[str] | None = None,
        options: ConseOptions | None = None,
        device: torch.device | str = "cpu",
        quick_gelu: bool | None = None,
    ) -> None:
        self.options = options or ConseOptions()
        weights, text_weights = read_checkpoint(classifier), read_checkpoint(text)
        tower = read_text(text_weights, quick_gelu)
        with error_context(str(classifier)):
            model = load_recogniser(weights.state)
        self._side = model.config.image_size
        self._model = fold_batch_norms(model).requires_grad_(False).to(device)
        names = tuple(imagenet_names() if class_names is None else class_names)
        embeds = embed_names(names, tower, self.options.templates)  # KxD
        self._names = (embeds - embeds.mean(dim=0) if self.options.centre else embeds).to(device)
        self._device = torch.device(device)
        self._check_classes(classifier)
        settings = asdict(self.options) | {"templates": resolve_templates(self.options.templates)}
        # Digests of what was read: the name of a text space in a merged checkpoint is a claim.
        origins = (
            weights.sha256,
            text_weights.sha256,
            hashlib.sha256(tower.tokenizer).hexdigest(),
            asdict(tower.config),
        )
        self._fingerprint = fingerprint_of("conse", VERSION, origins, names, settings)

    @property
    def fingerprint(self) -> str:
        """A digest of weights and options, lowercase hexadecimal."""
        return self._fingerprint

    @property
    def embed_dim(self) -> int:
        """D, the dimension of the text space."""
        return self._names.shape[1]

    @property
    def class_embeddings(self) -> Tensor:
        """The class names' embeddings, KxD float32: centred if `centre`, else of unit length."""
        return self._names

    def embed(self, batch: PixelBatch) -> Tensor:
        """Embed B pictures: BxD float32, of unit length."""
        return self.embed_classes(self.class_probabilities(self.class_logits(batch)))

    @torch.no_grad()
    def class_logits(self, batch: PixelBatch) -> Tensor:
        """Classify B pictures: BxK float32 logits, before the temperature."""
        framed = batch.to(self._device)
        if self.options.framing == "centre":
            framed = framed.centred(CENTRE_SHARE)
        image = framed.resized(self._side, self._side)
        centre, spread = (
            torch.tensor(values, device=self._device).reshape(1, 3, 1, 1)
            for values in (RECOGNISER_MEAN, RECOGNISER_STD)
        )
        return self._model.classify((image - centre) / spread).to(batch.pixels.device)

    def class_probabilities(self, logits: Tensor) -> Tensor:
        """Turn BxK logits into probabilities at the temperature: BxK, rows of sum 1."""
        return (logits.float() / self.options.temperature).softmax(dim=1)

    def embed_classes(self, probabilities: Tensor) -> Tensor:
        """Embed BxK probabilities by the names of the `top_k` greatest: BxD of unit length.

        The paper also divides by the sum of these probabilities, which unit length makes needless.
        """
        kept = probabilities
        if self.options.top_k is not None and self.options.top_k < probabilities.shape[1]:
            best = probabilities.topk(self.options.top_k, dim=1)
            kept = torch.zeros_like(probabilities).scatter(1, best.indices, best.values)
        return F.normalize(kept @ self._names.to(kept.device), dim=1)

    def _check_classes(self, classifier: Path) -> None:
        head = self._model.head
        classes = 0 if head is None else head.classifier.out_features
        if len(self._names) != classes:
            raise CheckpointError(
                f"{classifier.name} has {classes} classes, and {len(self._names)} class names were "
                "given; give one name for each"
            )
