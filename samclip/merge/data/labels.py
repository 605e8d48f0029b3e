"""Names in a text tower's space: their embeddings, and the classes of instances among them.

A class may have several texts, its synonyms; a region belongs to the class of its nearest text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samclip.errors import ConfigError
from samclip.export.checkpoints.checkpoint import fit_state
from samclip.export.checkpoints.text_source import TextSource
from samclip.export.models.bert_tower import BertTowerConfig
from samclip.export.models.merged import build_text_tower
from samclip.export.models.ovsam.roi_classifier import text_logits
from samclip.runtime.text.templates import PLACEHOLDER, fill, resolve_templates
from samclip.runtime.text.tokenizer import Tokenizer

TEMPLATES = (PLACEHOLDER, "a photo of a {}.")
TEXTS_AT_ONCE = 128
SEPARATOR = ";"  # between a class's synonyms in a vocabulary's line
UNNAMED = -1  # the label of an instance whose class is not in the vocabulary
BACKGROUND_LOGIT = 0.0  # of any region with the zero vector, the background's text


@torch.no_grad()
def embed_names(
    names: Sequence[str], text: TextSource, templates: str | Sequence[str] = TEMPLATES
) -> Tensor:
    """Embed K names with a text tower: KxD float32 of unit length.

    The embeddings of a name's prompts, one for each template, are normalised before they are
    averaged, as at run time (`samclip.runtime.text.text_space`). Raises VocabularyError for names
    or templates that cannot be used.
    """
    tower = build_text_tower(text.config)
    fit_state(tower, text.state, f"text tower ({text.model})")
    tower.eval()
    tokenizer = Tokenizer.from_bytes(
        text.tokenizer, text.config.context_length, text.metadata.canonical
    )
    chosen = resolve_templates(templates)
    prompts = [fill(template, name) for name in names for template in chosen]
    rows = []
    for start in range(0, len(prompts), TEXTS_AT_ONCE):
        tokens = tokenizer(prompts[start : start + TEXTS_AT_ONCE])
        if isinstance(text.config, BertTowerConfig):  # CLIP's tower takes only its full length
            tokens = tokens[:, : int(np.count_nonzero(tokens.any(axis=0)))]
        rows.append(F.normalize(tower(torch.from_numpy(tokens)), dim=1))
    means = torch.cat(rows).reshape(len(names), len(chosen), -1).mean(dim=1)  # K, T, D -> KxD
    return F.normalize(means, dim=1)


@dataclass(frozen=True)
class Labels:
    """K classes, by their first names, and the embeddings of their T texts.

    `text`: TxD float32 of unit length; `owners`: T int64, the class that each text belongs to.
    """

    names: tuple[str, ...]
    text: Tensor
    owners: Tensor

    def scores(self, embeds: Tensor) -> Tensor:
        """Score NxD embeddings against the classes: NxK logits, each that of the best text."""
        every = text_logits(embeds, self.text.to(embeds))  # NxT
        best = every.new_full((len(every), len(self.names)), -torch.inf)
        owners = self.owners.to(every.device).expand_as(every)
        return best.scatter_reduce(1, owners, every, "amax")

    def logits(self, embeds: Tensor) -> Tensor:
        """Score NxD embeddings against the classes and, last, the background: Nx(K+1).

        Open-Vocabulary SAM's background is the zero vector among the texts, so its logit is 0.
        """
        scores = self.scores(embeds)
        return torch.cat([scores, scores.new_full((len(scores), 1), BACKGROUND_LOGIT)], dim=1)

    def nearest(self, embeds: Tensor) -> Tensor:
        """Return the class nearest to each of NxD embeddings: N int64."""
        return self.scores(embeds).argmax(dim=1)

    def places(self, names: Sequence[str]) -> Tensor:
        """Return the classes with these first names: int64, `UNNAMED` where there is none."""
        known = {name: place for place, name in enumerate(self.names)}
        return torch.tensor([known.get(name, UNNAMED) for name in names], dtype=torch.int64)


def embed_labels(lines: Sequence[str], text: TextSource, templates: str | Sequence[str]) -> Labels:
    """Embed classes, one a line, each with its synonyms after semicolons.

    Raises ConfigError for a class that is there twice and for no classes, VocabularyError for
    templates that cannot be used.
    """
    classes = [[name.strip() for name in line.split(SEPARATOR) if name.strip()] for line in lines]
    firsts = tuple(synonyms[0] for synonyms in classes if synonyms)
    doubled = sorted({name for name in firsts if firsts.count(name) > 1})
    if not firsts or doubled:
        problem = f"{doubled[0]!r} is there twice" if doubled else "it is empty"
        raise ConfigError(f"[labels] vocabulary: {problem}; give every class on its own line, once")
    names = [name for synonyms in classes for name in synonyms]
    owners = [place for place, synonyms in enumerate(filter(None, classes)) for _ in synonyms]
    return Labels(firsts, embed_names(names, text, templates), torch.tensor(owners))
