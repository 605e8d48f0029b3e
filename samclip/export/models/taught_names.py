"""Taught names: concepts that labels taught a head, and the share that a new name has in them.

A head learns one score per concept from labelled regions. A text tower knows endless names, so each
name needs its place among the concepts, and it has to be found by the graph that embeds the name:

- the name's cosines with all texts of a concept (its names and synonyms); the highest counts;
- the name's shares in the concepts: a softmax over these cosines, so that "man" leans on "person",
  and a name between two concepts on both;
- a gate, which is 1 for a taught name and falls smoothly to 0 for names far from all of them.

A name's embedding is then [text / sqrt 2 | gate * shares / sqrt 2 | rest | 0], and a picture's
[ConSE's embedding | a score per concept | a constant | 1], both up to factors. Their product is
ConSE's cosine plus, for names that are near to taught ones, the score of the nearest concept; names
far from all of them get the constant, which is chosen on held-back photos. A name's vector has unit
length whatever its gate is: gate and rest are the sine and the cosine of one angle. The 1 keeps a
picture's length nearly constant, so that scores of unsure pictures stay small and probabilities can
be calibrated; and the mean over tokens is the mean of their scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.errors import InputError
from samclip.export.models.bert_tower import BertTower
from samclip.export.models.siglip_tower import SiglipTower
from samclip.export.models.text_tower import TextTower

EXTRA = 2  # dimensions: the rest of a name's length, and that of a picture's
SHARE = math.sqrt(0.5)  # of a name's length: its text, and its place among the concepts


@dataclass(frozen=True)
class TaughtConfig:
    """`concepts` of `texts` texts each, in an `embed_dim`-d text space, and the form of the gate.

    `sharpness` multiplies the cosines before the softmax that gives the shares; the gate is half
    open at the cosine `centre`, and opens by `slope`. `logit_scale` is the factor that makes logits
    of the cosines of joint embeddings, `conse_scale` the part of it that ConSE's own embedding has.
    `image_share` multiplies the scores of whole images. `untaught` is a logit that names far from
    all concepts get in any picture, since scores of taught names were learned without them. Raises
    InputError for numbers that are out of range.
    """

    concepts: int
    texts: int
    embed_dim: int
    sharpness: float = 40.0
    centre: float = 0.85
    slope: float = 30.0
    logit_scale: float = 200.0
    conse_scale: float = 20.0
    image_share: float = 0.5
    untaught: float = 0.0

    def __post_init__(self) -> None:
        if min(self.concepts, self.texts, self.embed_dim) < 1:
            raise InputError(f"{self}: concepts, texts and embed_dim must be at least 1.")
        if min(self.sharpness, self.slope, self.logit_scale, self.conse_scale) <= 0:
            raise InputError(f"{self}: scales, sharpness and slope must be above 0.")

    @property
    def joint_dim(self) -> int:
        """The dimension of the joint embeddings of names and pictures."""
        return self.embed_dim + self.concepts + EXTRA

    @property
    def conse_factor(self) -> float:
        """The factor on ConSE's embedding inside a picture's joint embedding."""
        return self.conse_scale / (self.logit_scale * SHARE)

    @property
    def score_factor(self) -> float:
        """The factor on the concepts' scores, which are logits."""
        return 1 / (self.logit_scale * SHARE)


class TaughtTexts(nn.Module):
    """The texts of the concepts, and the joint embedding of a name; texts are 0 until set."""

    texts: Tensor

    def __init__(self, config: TaughtConfig) -> None:
        super().__init__()
        self.config = config
        rows = config.concepts * config.texts
        self.register_buffer("texts", torch.zeros(rows, config.embed_dim))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Join text embeddings NxD, of any length, with their places: NxJ of unit length."""
        config = self.config
        units = F.normalize(embeddings, dim=1)
        cosines = (units @ self.texts.T).reshape(-1, config.concepts, config.texts).amax(dim=2)
        shares = F.normalize((cosines * config.sharpness).softmax(dim=1), dim=1)  # N, C
        nearest = cosines.amax(dim=1, keepdim=True)  # N, 1
        angle = torch.sigmoid((nearest - config.centre) * config.slope) * (math.pi / 2)
        gate, rest = torch.sin(angle), torch.cos(angle)
        parts = [units, gate * shares, rest]
        return torch.cat([*(part * SHARE for part in parts), torch.zeros_like(rest)], dim=1)

    def set_texts(self, texts: Tensor) -> None:
        """Set the embeddings of the concepts' texts, CxPxD of unit length.

        Concepts with fewer texts than others repeat one. Raises InputError for another shape.
        """
        config = self.config
        expected = (config.concepts, config.texts, config.embed_dim)
        if tuple(texts.shape) != expected:
            raise InputError(f"texts of shape {tuple(texts.shape)} were given; expected {expected}")
        self.texts.copy_(texts.flatten(0, 1))


class JointText(nn.Module):
    """A text tower, and the join with the taught names behind it: tokens in, NxJ out."""

    def __init__(self, tower: TextTower | BertTower | SiglipTower, taught: TaughtTexts) -> None:
        super().__init__()
        self.tower = tower
        self.taught = taught
        self.config = tower.config

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed texts: `tokens` NxL int64 -> NxJ of unit length."""
        joined: Tensor = self.taught(self.tower(tokens))
        return joined


class TaughtScores(nn.Module):
    """A score per concept: of a token by its features, and by those of the whole image.

    The scores are linear in the features, so the mean of tokens' scores is the score of their mean.
    Weights start as zeros: a new head scores nothing.
    """

    def __init__(self, features: int, config: TaughtConfig) -> None:
        super().__init__()
        self.config = config
        self.local = nn.Linear(features, config.concepts)
        self.context = nn.Linear(features, config.concepts, bias=False)
        for part in (self.local.weight, self.local.bias, self.context.weight):
            nn.init.zeros_(part)

    def forward(self, tokens: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score the image, BxC, and its tokens, BxGxGxC, by features BxGxGxF and their mean BxF."""
        context = self.context(image)  # B, C
        of_image = (self.local(image) + context) * self.config.image_share
        return of_image, self.local(tokens) + context[:, None, None]

    def join(self, conse: Tensor, scores: Tensor) -> Tensor:
        """Join ConSE's embeddings ...xD and scores ...xC to pictures' joint embeddings ...xJ."""
        config = self.config
        one = torch.ones_like(scores[..., :1])
        rest = one * (config.untaught * config.score_factor)
        parts = [conse * config.conse_factor, scores * config.score_factor, rest, one]
        return torch.cat(parts, dim=-1)
