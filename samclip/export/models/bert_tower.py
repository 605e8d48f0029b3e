"""BERT as a sentence encoder (Reimers and Gurevych 2019, "Sentence-BERT"), for MiniLM's text space.

A post-norm transformer whose token outputs are averaged over the text. Parameter names are
Hugging Face's `BertModel`; its unused pooler is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from samclip.errors import CheckpointError
from samclip.export.models.attention import scaled_attention

# Zero after the softmax in float32, and finite in float16, where -inf can become NaN.
MASKED = -1e4
LAYER_NORM_EPS = 1e-12
WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
HIDDEN = "encoder.layer.0.intermediate.dense.weight"
IGNORED_CHECKPOINT_KEYS = ("pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids")


@dataclass(frozen=True)
class BertTowerConfig:
    """Sizes of a sentence encoder; the embedding has `width` dimensions.

    `positions` is the table's length, `context_length` the tokens that a text is padded or cut
    to: templates and names are short, so far fewer than `positions`. `pad` is the padding's id.
    """

    width: int
    heads: int
    layers: int
    hidden: int
    vocab_size: int
    positions: int = 512
    context_length: int = 64
    pad: int = 0

    @property
    def embed_dim(self) -> int:
        """The dimension of the text space."""
        return self.width


MINILM_L6 = BertTowerConfig(width=384, heads=12, layers=6, hidden=1536, vocab_size=30522)


class BertEmbeddings(nn.Module):
    """Word, position and segment embeddings, added and normalised; every text is segment 0."""

    def __init__(self, config: BertTowerConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.width)
        self.position_embeddings = nn.Embedding(config.positions, config.width)
        self.token_type_embeddings = nn.Embedding(2, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map NxL ids to NxLxW."""
        places = self.position_embeddings.weight[: tokens.shape[1]]
        x = self.word_embeddings(tokens) + places + self.token_type_embeddings.weight[0]
        normed: Tensor = self.LayerNorm(x)
        return normed


class BertSelf(nn.Module):
    """The three projections of self-attention."""

    def __init__(self, config: BertTowerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attend within each text: `x` NxLxW, additive `mask` Nx1x1xL -> NxLxW."""
        q, k, v = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        out = scaled_attention(q, k, v, mask)  # N, H, L, W/H
        return out.transpose(1, 2).flatten(2)  # N, L, W

    def _split(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = x.reshape(batch, length, self.heads, width // self.heads)  # N, L, H, W/H
        return heads.transpose(1, 2)  # N, H, L, W/H


class BertOutput(nn.Module):
    """A projection, the residual sum, and the norm behind it."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, width)
        self.LayerNorm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Map NxLxC and the NxLxW residual to NxLxW."""
        normed: Tensor = self.LayerNorm(self.dense(x) + residual)
        return normed


class BertLayer(nn.Module):
    """Attention and a two-layer perceptron, each followed by its norm."""

    def __init__(self, config: BertTowerConfig) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {"self": BertSelf(config), "output": BertOutput(config.width, config.width)}
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(config.width, config.hidden)})
        self.output = BertOutput(config.hidden, config.width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map NxLxW -> NxLxW under the additive Nx1x1xL `mask`."""
        x = self.attention["output"](self.attention["self"](x, mask), x)
        out: Tensor = self.output(F.gelu(self.intermediate["dense"](x)), x)
        return out


class BertTower(nn.Module):
    """Tokens in, sentence embeddings out."""

    def __init__(self, config: BertTowerConfig = MINILM_L6) -> None:
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(config)
        layers = nn.ModuleList(BertLayer(config) for _ in range(config.layers))
        self.encoder = nn.ModuleDict({"layer": layers})

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed texts: `tokens` NxL int64, padded with `config.pad` -> NxW float32, not normalised.

        The mean runs over every token but padding, start and end tokens included, as in
        Sentence-BERT.
        """
        present = (tokens != self.config.pad).to(self.embeddings.word_embeddings.weight.dtype)
        mask = ((1.0 - present) * MASKED)[:, None, None, :]  # N, 1, 1, L
        x: Tensor = self.embeddings(tokens)
        for layer in self.encoder["layer"].children():
            x = layer(x, mask)
        return (x * present[..., None]).sum(1) / present.sum(1, keepdim=True).clamp(min=1.0)


def is_bert(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is a BERT encoder's."""
    return WORDS in state


def infer_bert_config(state: Mapping[str, Tensor], heads: int) -> BertTowerConfig:
    """Return the sizes of a `BertModel` state dict; `heads` cannot be inferred from the weights.

    Raises CheckpointError when they do not divide the width, or weights are missing.
    """
    tables = [state[key] for key in (WORDS, POSITIONS, HIDDEN) if key in state]
    if len(tables) < 3 or any(each.dim() != 2 for each in tables):
        raise CheckpointError(
            f"a BERT encoder has {WORDS}, {POSITIONS} and {HIDDEN} of two axes, and not all of "
            "them are here; give the whole model"
        )
    words, positions, hidden = tables
    if heads < 1 or words.shape[1] % heads:
        raise CheckpointError(
            f"{heads} attention heads do not divide a width of {words.shape[1]}; correct "
            "num_attention_heads in the config.json next to the weights"
        )
    layers = {key.split(".")[2] for key in state if key.startswith("encoder.layer.")}
    return BertTowerConfig(
        width=words.shape[1],
        heads=heads,
        layers=len(layers),
        hidden=hidden.shape[0],
        vocab_size=words.shape[0],
        positions=positions.shape[0],
    )
