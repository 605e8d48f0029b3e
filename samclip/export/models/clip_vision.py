"""Image towers of CLIP and SigLIP that are transformers, and the tower of any kind in a bundle.

A tower gives two things of each image: CLIP's own embedding, and an embedding of each token. The
first is what the released models compute: CLIP projects its class token (Radford et al. 2021,
section 2.4; parameter names are open_clip's `VisionTransformer`), SigLIP pools all tokens by one
learnt query (Zhai et al. 2023; transformers' `SiglipMultiheadAttentionPoolingHead`).

The second is MaskCLIP's (Zhou et al. 2022, "Extract Free Dense Labels from CLIP", section 3.2): in
the last attention each token keeps its own value instead of a mixture of all, and then goes the
way of the pooled one. In a ViT that is the value and output matrices of the last block, then, as in
the released code (`maskclip_vit.py`, whose layers return v), the block's residual and MLP, the last
norm and the projection. The paper has no SigLIP; there the last attention is that of the pooling,
and its residual MLP follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.export.models.attention import scaled_attention
from samclip.export.models.text_tower import QuickGELU

LAST = "transformer.resblocks.{}.attn"
Activation = Literal["gelu", "quick_gelu", "gelu_tanh"]
ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "quick_gelu": QuickGELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
}


@dataclass(frozen=True)
class ClipVitConfig:
    """Sizes of a transformer that sees `image_size` pixels a side in patches of `patch`.

    `pool`: "token" is CLIP's class token and projection to `embed_dim`, "attention" SigLIP's
    pooling head, whose embedding is as wide as the tokens. `mlp_width` is that of the hidden
    layers; `eps` is added to the variance in all norms.
    """

    width: int
    heads: int
    layers: int
    mlp_width: int
    embed_dim: int
    image_size: int
    patch: int
    activation: Activation = "gelu"
    pool: Literal["token", "attention"] = "token"
    eps: float = 1e-5

    @property
    def grid(self) -> int:
        """Tokens along a side; pixels of an incomplete patch are not seen."""
        return self.image_size // self.patch

    @property
    def model(self) -> str:
        """A short description for people."""
        kind = "CLIP" if self.pool == "token" else "SigLIP"
        gelu = ", QuickGELU" if self.activation == "quick_gelu" else ""
        size = f"{self.width}x{self.layers}, patch {self.patch}, {self.image_size} px"
        return f"{kind} image transformer {size} -> {self.embed_dim}{gelu}"


class VisionAttention(nn.Module):
    """Multi-head self-attention with the parameter names of `nn.MultiheadAttention`."""

    def __init__(self, config: ClipVitConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.in_proj_weight = nn.Parameter(torch.randn(3 * width, width) * width**-0.5)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each image: NxLxW -> NxLxW."""
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        q, k, v = (_by_head(part, self.heads) for part in qkv)
        out: Tensor = self.out_proj(_join_heads(scaled_attention(q, k, v)))
        return out


class PoolingAttention(nn.Module):
    """The last attention: one query pools all tokens, and each token keeps its own value.

    Queries, keys and values have separate matrices, because they are of different tokens.
    """

    def __init__(self, config: ClipVitConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_proj = nn.Linear(config.width, config.width)
        self.k_proj = nn.Linear(config.width, config.width)
        self.v_proj = nn.Linear(config.width, config.width)
        self.out_proj = nn.Linear(config.width, config.width)

    def forward(self, query: Tensor, tokens: Tensor, skipped: int = 0) -> Tensor:
        """Pool `tokens`, NxLxW, by `query`, Nx1xW: Nx(1 + L - skipped)xW.

        First comes the pooled vector, then the values of all tokens but the first `skipped`.
        """
        value = self.v_proj(tokens)
        parts = (self.q_proj(query), self.k_proj(tokens), value)
        q, k, v = (_by_head(part, self.heads) for part in parts)
        pooled = _join_heads(scaled_attention(q, k, v))  # N, 1, W
        out: Tensor = self.out_proj(torch.cat([pooled, value[:, skipped:]], dim=1))
        return out


def _by_head(x: Tensor, heads: int) -> Tensor:
    split = x.reshape(-1, x.shape[1], heads, x.shape[2] // heads)  # N, L, H, W/H
    return split.transpose(1, 2)


def _join_heads(x: Tensor) -> Tensor:
    joined = x.transpose(1, 2)  # N, H, L, W/H -> N, L, H, W/H
    return joined.reshape(-1, joined.shape[1], joined.shape[2] * joined.shape[3])


def split_projections(state: Mapping[str, Tensor], config: ClipVitConfig) -> dict[str, Tensor]:
    """Return a state dict whose last attention has separate matrices for q, k and v."""
    last = "pool.attn." if config.pool == "attention" else f"{LAST.format(config.layers - 1)}."
    found = dict(state)
    for kind in ("weight", "bias"):
        if (stacked := found.pop(f"{last}in_proj_{kind}", None)) is not None:
            names = [f"{last}{name}_proj.{kind}" for name in "qkv"]
            found |= dict(zip(names, stacked.chunk(3), strict=True))
    return found


class VisionMlp(nn.Module):
    """Two linear layers with the activation between them."""

    def __init__(self, config: ClipVitConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.width, config.mlp_width)
        self.gelu = ACTIVATIONS[config.activation]()
        self.c_proj = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Map NxLxW -> NxLxW."""
        out: Tensor = self.c_proj(self.gelu(self.c_fc(x)))
        return out


class VisionBlock(nn.Module):
    """One pre-norm residual block."""

    def __init__(self, config: ClipVitConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width, eps=config.eps)
        self.attn = VisionAttention(config)
        self.ln_2 = nn.LayerNorm(config.width, eps=config.eps)
        self.mlp = VisionMlp(config)

    def forward(self, x: Tensor) -> Tensor:
        """Map NxLxW -> NxLxW."""
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class LastBlock(nn.Module):
    """The last block of a CLIP: the class token, which comes first, attends, the others do not.

    Nothing but the class token's result is read of a last block; so this is exact for it.
    """

    def __init__(self, config: ClipVitConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width, eps=config.eps)
        self.attn = PoolingAttention(config)
        self.ln_2 = nn.LayerNorm(config.width, eps=config.eps)
        self.mlp = VisionMlp(config)

    def forward(self, x: Tensor) -> Tensor:
        """Map NxLxW -> NxLxW."""
        normed = self.ln_1(x)
        x = x + self.attn(normed[:, :1], normed, skipped=1)
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class VisionBlocks(nn.Module):
    """The stack of blocks, called `resblocks` as in open_clip."""

    def __init__(self, config: ClipVitConfig) -> None:
        super().__init__()
        blocks: list[nn.Module] = [VisionBlock(config) for _ in range(config.layers)]
        if config.pool == "token":
            blocks[-1] = LastBlock(config)
        self.resblocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Map NxLxW -> NxLxW."""
        for block in self.resblocks:
            x = block(x)
        return x


class ClipVit(nn.Module):
    """Images in, embeddings of images and of their tokens out."""

    def __init__(self, config: ClipVitConfig) -> None:
        super().__init__()
        self.config = config
        width, has_class = config.width, config.pool == "token"
        self.conv1 = nn.Conv2d(3, width, config.patch, config.patch, bias=not has_class)
        count = config.grid**2 + has_class
        self.positional_embedding = nn.Parameter(torch.randn(count, width) * width**-0.5)
        self.transformer = VisionBlocks(config)
        self.ln_post = nn.LayerNorm(width, eps=config.eps)
        if has_class:
            self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
            self.ln_pre = nn.LayerNorm(width, eps=config.eps)
            self.proj = nn.Parameter(torch.randn(width, config.embed_dim) * width**-0.5)
        else:
            self.pool = AttentionPoolHead(config)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embed N images, Nx3xSxS normalised: NxD and NxDxgxg, neither of unit length."""
        x = self.conv1(images).flatten(2).transpose(1, 2)  # N, gg, W
        if self.config.pool == "token":
            first = self.class_embedding.expand(x.shape[0], 1, -1)  # N, 1, W
            x = self.ln_pre(torch.cat([first, x], dim=1) + self.positional_embedding)
            x = self.ln_post(self.transformer(x)) @ self.proj  # N, 1 + gg, D
            return x[:, 0], self._as_map(x[:, 1:])
        x = self.transformer(x + self.positional_embedding)
        pooled, tokens = self.pool(self.ln_post(x))
        return pooled, self._as_map(tokens)

    def _as_map(self, tokens: Tensor) -> Tensor:
        """Turn NxggxD into NxDxgxg."""
        grid = self.config.grid
        return tokens.transpose(1, 2).reshape(-1, tokens.shape[-1], grid, grid)


class AttentionPoolHead(nn.Module):
    """SigLIP's pooling: a learnt query attends to all tokens, then a residual MLP."""

    def __init__(self, config: ClipVitConfig) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.randn(1, 1, config.width))
        self.attn = PoolingAttention(config)
        self.ln = nn.LayerNorm(config.width, eps=config.eps)
        self.mlp = VisionMlp(config)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Pool NxLxW: NxW of the images, and NxLxW of the tokens alone."""
        probe = self.probe.expand(tokens.shape[0], -1, -1)  # N, 1, W
        x = self.attn(probe, tokens)  # N, 1 + L, W
        x = x + self.mlp(self.ln(x))
        return x[:, 0], x[:, 1:]
