"""CLIP's text tower (Radford et al. 2021, section 2.4), with open_clip's parameter names.

A pre-norm transformer with a causal mask; the embedding is read at the end-of-text token. A state
dict of open_clip's `TextTransformer` loads as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.export.models.attention import scaled_attention

MLP_RATIO = 4
# Exactly zero after the softmax in float32, and finite in float16, where -inf can become NaN.
MASKED = -1e4


@dataclass(frozen=True)
class TextTowerConfig:
    """Sizes of a text tower.

    `quick_gelu` is for OpenAI's own weights and others trained with it: x * sigmoid(1.702 x).
    """

    width: int
    heads: int
    layers: int
    embed_dim: int
    context_length: int = 77
    vocab_size: int = 49408
    quick_gelu: bool = False

    @property
    def residual_std(self) -> float:
        """Deviation from which the released CLIP code draws layers that end residual branches."""
        return float(self.width**-0.5 * (2 * self.layers) ** -0.5)


TEXT_TOWER_CONFIGS = {
    "ViT-B-32": TextTowerConfig(width=512, heads=8, layers=12, embed_dim=512),
    "ViT-B-16": TextTowerConfig(width=512, heads=8, layers=12, embed_dim=512),
    "ViT-L-14": TextTowerConfig(width=768, heads=12, layers=12, embed_dim=768),
}


class QuickGELU(nn.Module):
    """The sigmoid approximation of GELU (Hendrycks and Gimpel 2016, section 2)."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it elementwise."""
        return x * torch.sigmoid(1.702 * x)


class TextAttention(nn.Module):
    """Masked self-attention with the parameter names of `nn.MultiheadAttention`."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        width = config.width
        self.heads, self.length = config.heads, config.context_length
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.normal_(self.in_proj_weight, std=width**-0.5)
        nn.init.normal_(self.out_proj.weight, std=config.residual_std)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attend within each text: `x` NxLxW, additive `mask` LxL -> NxLxW."""
        width = x.shape[-1]
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = (
            part.reshape(-1, self.length, self.heads, width // self.heads).transpose(1, 2)
            for part in qkv.chunk(3, dim=-1)
        )  # each N, H, L, W/H
        x = scaled_attention(q, k, v, mask)
        x = x.transpose(1, 2).reshape(-1, self.length, width)  # N, L, W
        projected: Tensor = self.out_proj(x)
        return projected


class TextMlp(nn.Module):
    """Two linear layers, four times as wide between them."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.width, MLP_RATIO * config.width)
        self.gelu = QuickGELU() if config.quick_gelu else nn.GELU()
        self.c_proj = nn.Linear(MLP_RATIO * config.width, config.width)
        nn.init.normal_(self.c_fc.weight, std=(2 * config.width) ** -0.5)
        nn.init.normal_(self.c_proj.weight, std=config.residual_std)

    def forward(self, x: Tensor) -> Tensor:
        """Map NxLxW -> NxLxW."""
        hidden: Tensor = self.gelu(self.c_fc(x))
        projected: Tensor = self.c_proj(hidden)
        return projected


class TextBlock(nn.Module):
    """One pre-norm residual block."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width)
        self.attn = TextAttention(config)
        self.ln_2 = nn.LayerNorm(config.width)
        self.mlp = TextMlp(config)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map NxLxW -> NxLxW under the additive LxL `mask`."""
        x = x + self.attn(self.ln_1(x), mask)
        x = x + self.mlp(self.ln_2(x))
        return x  # noqa: RET504


class TextTransformer(nn.Module):
    """The stack of blocks, called `resblocks` as in open_clip."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(TextBlock(config) for _ in range(config.layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map NxLxW -> NxLxW under the additive LxL `mask`."""
        for block in self.resblocks:
            x = block(x, mask)
        return x


class TextTower(nn.Module):
    """Tokens in, text embeddings out."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self.config = config
        length = config.context_length
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.positional_embedding = nn.Parameter(torch.empty(length, config.width))
        self.transformer = TextTransformer(config)
        self.ln_final = nn.LayerNorm(config.width)
        self.text_projection = nn.Parameter(torch.empty(config.width, config.embed_dim))
        mask = torch.full((length, length), MASKED).triu(1)
        self.mask: Tensor
        self.register_buffer("mask", mask, persistent=False)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=config.width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed texts: `tokens` NxL int64, zero-padded -> NxD float32, not normalised.

        The end-of-text token has the highest id, so its first place is the argmax. The ids are
        compared as int32: every backend takes that, and no float16 pass can round them.
        """
        x: Tensor = self.token_embedding(tokens) + self.positional_embedding  # N, L, W
        x = self.ln_final(self.transformer(x, self.mask))  # N, L, W
        end = tokens.to(torch.int32).argmax(dim=-1)
        index = end.reshape(-1, 1, 1).expand(-1, 1, x.shape[-1])  # N, 1, W
        pooled = x.gather(1, index).squeeze(1)  # N, W
        return pooled @ self.text_projection
