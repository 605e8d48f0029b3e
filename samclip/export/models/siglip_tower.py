"""SigLIP's text tower (Zhai et al. 2023; SigLIP 2: Tschannen et al. 2025), for SigLIP 2's space.

A pre-norm transformer without a causal mask and without a mask of the padding: every text has all
its tokens, padding included. The embedding is read at the last token. Parameter names are those of
Hugging Face's `SiglipTextModel`, whose state dict loads as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from samclip.errors import CheckpointError
from samclip.export.models.attention import scaled_attention

LAYER_NORM_EPS = 1e-6
WORDS = "embeddings.token_embedding.weight"
POSITIONS = "embeddings.position_embedding.weight"
HIDDEN = "encoder.layers.0.mlp.fc1.weight"
HEAD = "head.weight"


@dataclass(frozen=True)
class SiglipTowerConfig:
    """Sizes of a text tower; `embed_dim`, of the text space, may differ from `width`."""

    width: int
    heads: int
    layers: int
    hidden: int
    embed_dim: int
    vocab_size: int = 256_000
    context_length: int = 64


# The tower of siglip2-giant-opt, in whose space C-RADIO's summaries are: 0.708 billion weights.
SIGLIP2_GIANT = SiglipTowerConfig(width=1152, heads=16, layers=27, hidden=4304, embed_dim=1536)


class SiglipEmbeddings(nn.Module):
    """Embeddings of tokens and of places, added."""

    def __init__(self, config: SiglipTowerConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.context_length, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map NxL ids to NxLxW."""
        embedded: Tensor = self.token_embedding(tokens) + self.position_embedding.weight
        return embedded


class SiglipAttention(nn.Module):
    """Self-attention of every token to every token."""

    def __init__(self, config: SiglipTowerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_proj = nn.Linear(config.width, config.width)
        self.k_proj = nn.Linear(config.width, config.width)
        self.v_proj = nn.Linear(config.width, config.width)
        self.out_proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each text: NxLxW -> NxLxW."""
        q, k, v = (self._split(layer(x)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        out = scaled_attention(q, k, v, None)  # N, H, L, W/H
        projected: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))  # N, L, W
        return projected

    def _split(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = x.reshape(batch, length, self.heads, width // self.heads)  # N, L, H, W/H
        return heads.transpose(1, 2)  # N, H, L, W/H


class SiglipMlp(nn.Module):
    """Two linear layers with the tanh form of GELU between them."""

    def __init__(self, config: SiglipTowerConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Map NxLxW -> NxLxW."""
        projected: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return projected


class SiglipLayer(nn.Module):
    """One pre-norm residual block."""

    def __init__(self, config: SiglipTowerConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.self_attn = SiglipAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.mlp = SiglipMlp(config)

    def forward(self, x: Tensor) -> Tensor:
        """Map NxLxW -> NxLxW."""
        x = x + self.self_attn(self.layer_norm1(x))
        x = x + self.mlp(self.layer_norm2(x))
        return x  # noqa: RET504


class SiglipTower(nn.Module):
    """Tokens in, text embeddings out."""

    def __init__(self, config: SiglipTowerConfig = SIGLIP2_GIANT) -> None:
        super().__init__()
        self.config = config
        self.embeddings = SiglipEmbeddings(config)
        layers = nn.ModuleList(SiglipLayer(config) for _ in range(config.layers))
        self.encoder = nn.ModuleDict({"layers": layers})
        self.final_layer_norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(config.width, config.embed_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed texts: `tokens` NxL int64, padded to L -> NxD float32, not normalised."""
        x: Tensor = self.embeddings(tokens)  # N, L, W
        for layer in self.encoder["layers"].children():
            x = layer(x)
        pooled: Tensor = self.head(self.final_layer_norm(x[:, -1]))  # N, D
        return pooled


def infer_siglip_config(state: Mapping[str, Tensor], heads: int) -> SiglipTowerConfig:
    """Return the sizes of a `SiglipTextModel` state dict; `heads` cannot be read off the weights.

    Raises CheckpointError when they do not divide the width, or weights are missing.
    """
    tables = [state[key] for key in (WORDS, POSITIONS, HIDDEN, HEAD) if key in state]
    if len(tables) < 4 or any(each.dim() != 2 for each in tables):
        raise CheckpointError(
            f"a SigLIP text tower has {WORDS}, {POSITIONS}, {HIDDEN} and {HEAD} of two axes, and "
            "not all of them are here; give the whole model"
        )
    words, positions, hidden, head = tables
    if heads < 1 or words.shape[1] % heads:
        raise CheckpointError(
            f"{heads} attention heads do not divide a width of {words.shape[1]}; correct "
            "num_attention_heads in the config.json next to the weights"
        )
    layers = {key.split(".")[2] for key in state if key.startswith("encoder.layers.")}
    return SiglipTowerConfig(
        width=words.shape[1],
        heads=heads,
        layers=len(layers),
        hidden=hidden.shape[0],
        embed_dim=head.shape[0],
        vocab_size=words.shape[0],
        context_length=positions.shape[0],
    )
