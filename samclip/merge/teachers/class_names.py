"""The names of a classifier's classes in a text tower's space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samclip.export.checkpoints.checkpoint import fit_state
from samclip.export.checkpoints.text_source import TextSource
from samclip.export.models.bert_tower import BertTowerConfig
from samclip.export.models.merged import build_text_tower
from samclip.runtime.text.templates import PLACEHOLDER, fill, resolve_templates
from samclip.runtime.text.tokenizer import Tokenizer

TEMPLATES = (PLACEHOLDER, "a photo of a {}.")
TEXTS_AT_ONCE = 128


@torch.no_grad()
def embed_names(
    names: Sequence[str], text: TextSource, templates: str | Sequence[str] = TEMPLATES
) -> Tensor:
    """Embed K names with a text tower: KxD float32 of unit length.

    A name's prompts, one for each template, are each of unit length before they are averaged, as
    at run time (`samclip.runtime.text.text_space`). Raises VocabularyError for names or templates
    that cannot be used.
    """
    tower = build_text_tower(text.config)
    fit_state(tower, text.state, f"text tower ({text.model})")
    tower.eval()
    tokenizer = Tokenizer.from_bytes(text.tokenizer, text.config.context_length)
    chosen = resolve_templates(templates)
    prompts = [fill(template, name) for name in names for template in chosen]
    rows = []
    for start in range(0, len(prompts), TEXTS_AT_ONCE):
        tokens = tokenizer(prompts[start : start + TEXTS_AT_ONCE])
        if isinstance(text.config, BertTowerConfig):  # CLIP's tower takes its whole length alone
            tokens = tokens[:, : int(np.count_nonzero(tokens.any(axis=0)))]
        rows.append(F.normalize(tower(torch.from_numpy(tokens)), dim=1))
    means = torch.cat(rows).reshape(len(names), len(chosen), -1).mean(dim=1)  # K, T, D -> KxD
    return F.normalize(means, dim=1)
