"""HeadCLIP: the head that maps a SAM encoder's features into CLIP's text space.

SAM-CLIP (Wang et al., arXiv 2310.15308, section 3 and appendix A) states: three transformer layers
on the patch tokens, each initialised from the encoder's last layer, then a spatial max pooling, a
LayerNorm, and an MLP with two hidden layers into the text space; about 25 % more parameters than
one ViT-B. The paper leaves these points open, and this module decides them:

- the place of the branch: after the encoder's last block, before SAM's neck, at its width;
- the layers: blocks of SAM's ViT with global attention and relative positions, as the last one is;
- MLP: hidden layers as wide as the tokens, GELU. With ViT-B that makes 23.1 M parameters;
- embeddings of patches: the same LayerNorm and MLP on every token instead of the pooled one;
- the 32x32 class masks at 1024 px: `pool=2` averages 2x2 tokens before the layers;
- padding of non-square images: left out of the pooling, but attended to, as in SAM's encoder;
- initialisation (section 3 says random, appendix A the last layer): `initialise_from_encoder`;
- encoders without such a layer: the nearest of their tensors. A block of MobileSAM's TinyViT is
  close to SAM's: its attention reads q, k and v from one projection, laid out head by head instead
  of [q | k | v], and its LayerNorms sit inside attention and MLP. Its depthwise convolution and its
  attention biases (which depend on the offset alone, not on the query) have no counterpart; the
  LayerNorms' epsilons differ (1e-5, here 1e-6) and are left as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.errors import InputError
from samclip.export.models.block import SamVitBlock
from samclip.export.models.pos_embed import resize_relative
from samclip.export.models.sam_vit import SAM_VIT_CONFIGS, SamVit
from samclip.export.models.tiny_vit import PATCH_SIZE, TINY_VIT_5M, TinyVit, TinyVitBlock

# Names in `SamVitBlock` <- names in `TinyVitBlock`; `attn.qkv` is permuted as well.
TINY_VIT_NAMES = {
    "norm1": "attn.norm",
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
    "norm2": "mlp.norm",
    "mlp.lin1": "mlp.fc1",
    "mlp.lin2": "mlp.fc2",
}


@dataclass(frozen=True)
class ClipHeadConfig:
    """`width` channels on a `grid` x `grid` of tokens, averaged `pool` x `pool`, to `embed_dim`.

    `depth` layers of `num_heads` heads; `hidden` is the width of the MLP's two hidden layers, None
    for `width`. Raises InputError when the heads do not divide the width, or `pool` the grid.
    """

    width: int
    num_heads: int
    embed_dim: int
    grid: int
    depth: int = 3
    pool: int = 1
    hidden: int | None = None

    def __post_init__(self) -> None:
        if min(self.width, self.num_heads, self.embed_dim, self.grid, self.depth, self.pool) < 1:
            raise InputError(f"{self}: every number must be at least 1.")
        if self.width % self.num_heads:
            raise InputError(
                f"{self.num_heads} heads do not divide a width of {self.width}; "
                "take the encoder's own width and number of heads."
            )
        if self.grid % self.pool:
            raise InputError(
                f"pool={self.pool} does not divide a grid of {self.grid} tokens; take 1, or an "
                f"image size that is a multiple of {PATCH_SIZE * self.pool}."
            )

    @property
    def tokens(self) -> int:
        """Tokens along a side after pooling: the side g of `token_mask` and `patch_embeds`."""
        return self.grid // self.pool


def clip_head_config(
    model_type: str, image_size: int, embed_dim: int, pool: int = 1
) -> ClipHeadConfig:
    """Return the sizes of a head for `vit_t`, `vit_b`, `vit_l` or `vit_h` at `image_size` pixels.

    Raises InputError for an unknown encoder, or a size that is not a multiple of 16 * `pool`.
    """
    if image_size % PATCH_SIZE:
        raise InputError(f"image_size={image_size} is not a multiple of {PATCH_SIZE}.")
    grid = image_size // PATCH_SIZE
    if model_type == "vit_t":
        width, num_heads = TINY_VIT_5M.widths[-1], TINY_VIT_5M.num_heads[-1]
    elif model_type in SAM_VIT_CONFIGS:
        vit = SAM_VIT_CONFIGS[model_type]
        width, num_heads = vit.width, vit.num_heads
    else:
        known = ", ".join(("vit_t", *SAM_VIT_CONFIGS))
        raise InputError(f"unknown model type {model_type!r}; there are {known}.")
    return ClipHeadConfig(width, num_heads, embed_dim, grid, pool=pool)


class SamClipHead(nn.Module):
    """HeadCLIP; weights are random until loaded or initialised."""

    def __init__(self, config: ClipHeadConfig) -> None:
        super().__init__()
        self.config = config
        size = (config.tokens, config.tokens)
        self.layers = nn.ModuleList(
            SamVitBlock(config.width, config.num_heads, size) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = ProjectionMlp(config.width, config.hidden or config.width, config.embed_dim)

    def crop(self, canvas: tuple[int, int], image_size: int) -> None:
        """Take features of images of `canvas` (h, w) pixels in place of `image_size` squares."""
        rows, columns = (side * self.config.tokens // image_size for side in canvas)
        for layer in self.layers:
            if isinstance(layer, SamVitBlock):
                layer.crop((rows, columns))

    def forward(self, backbone_features: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embed an image as a whole and patch by patch; neither result is normalised.

        `backbone_features` is BxCxGxG, from before SAM's neck; `token_mask` Bxgxg float32 is 1 for
        tokens of the image and 0 for padding, with g = G / pool. Returns `image_embed` BxD and
        `patch_embeds` BxDxgxg.
        """
        x = backbone_features
        if self.config.pool > 1:
            x = F.avg_pool2d(x, self.config.pool)  # B, C, g, g
        x = x.permute(0, 2, 3, 1)  # B, g, g, C
        for layer in self.layers:
            x = layer(x)
        pooled = masked_max(x.flatten(1, 2), token_mask.flatten(1))  # B, C
        return self.project(pooled), self.project(x).permute(0, 3, 1, 2)

    def project(self, x: Tensor) -> Tensor:
        """Map tokens or pooled tokens, ...xC, into the text space, ...xD."""
        out: Tensor = self.mlp(self.norm(x))
        return out


class ProjectionMlp(nn.Module):
    """A perceptron with two hidden layers and GELU over the last axis."""

    def __init__(self, width: int, hidden: int, embed_dim: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, hidden)
        self.lin2 = nn.Linear(hidden, hidden)
        self.lin3 = nn.Linear(hidden, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ...xC to ...xD."""
        out: Tensor = self.lin3(F.gelu(self.lin2(F.gelu(self.lin1(x)))))
        return out


def masked_max(tokens: Tensor, mask: Tensor) -> Tensor:
    """Return the maximum over those of N tokens whose mask is 1: BxNxC and BxN -> BxC.

    Padding is set to each channel's smallest value, which cannot change a maximum. So the result is
    exact, and finite in every precision, where an infinity or a large constant would not be. If all
    tokens are padding, the result is the smallest value.
    """
    smallest = tokens.amin(dim=1, keepdim=True)
    return torch.where(mask.unsqueeze(-1) > 0.5, tokens, smallest).amax(dim=1)


@dataclass(frozen=True)
class Initialisation:
    """Names of the head's tensors: copied as they were, resized to its grid, or left alone."""

    copied: tuple[str, ...]
    resized: tuple[str, ...]
    untouched: tuple[str, ...]


def initialise_from_encoder(head: SamClipHead, encoder: SamVit | TinyVit) -> Initialisation:
    """Start each of the head's layers from the encoder's last block (appendix A).

    Relative positions are resized to the head's grid. Tensors without a counterpart, the LayerNorm
    and the MLP keep their values. Raises InputError when encoder and head differ in width or heads.
    """
    block = last_block(encoder)
    shape = (encoder.backbone_channels, block.attn.num_heads)
    if shape != (head.config.width, head.config.num_heads):
        raise InputError(
            f"the head has width and heads {(head.config.width, head.config.num_heads)}, the "
            f"encoder {shape}; make the head with clip_head_config."
        )
    copied: list[str] = []
    resized: list[str] = []
    for name, source in block_state(block).items():
        for index, layer in enumerate(head.layers):
            target = layer.get_parameter(name)
            fitted = resize_relative(source, len(target)) if "rel_pos" in name else source
            target.data.copy_(fitted)
            (copied if target.shape == source.shape else resized).append(f"layers.{index}.{name}")
    untouched = head.state_dict().keys() - {*copied, *resized}
    return Initialisation(tuple(sorted(copied)), tuple(sorted(resized)), tuple(sorted(untouched)))


def last_block(encoder: SamVit | TinyVit) -> SamVitBlock | TinyVitBlock:
    """Return the encoder's last transformer block itself, not a copy."""
    return [part for part in encoder.modules() if isinstance(part, (SamVitBlock, TinyVitBlock))][-1]


def block_state(block: SamVitBlock | TinyVitBlock) -> dict[str, Tensor]:
    """Return copies of a block's weights under the names, and in the layout, of `SamVitBlock`.

    From a TinyViT block `attn.rel_pos_h` and `attn.rel_pos_w` are missing.
    """
    state = {name: tensor.detach().clone() for name, tensor in block.state_dict().items()}
    if isinstance(block, SamVitBlock):
        return state
    state = {
        f"{ours}.{kind}": state[f"{theirs}.{kind}"]
        for ours, theirs in TINY_VIT_NAMES.items()
        for kind in ("weight", "bias")
    }
    for name in ("attn.qkv.weight", "attn.qkv.bias"):
        state[name] = join_heads(state[name], block.attn.num_heads)
    return state


def join_heads(qkv: Tensor, num_heads: int) -> Tensor:
    """Reorder rows [q k v] of head 0, [q k v] of head 1 ... to [q of all heads | k | v].

    `qkv` is the weight 3CxC or the bias 3C of a projection.
    """
    split = qkv.reshape(num_heads, 3, -1, *qkv.shape[1:])  # heads, 3, d, ...
    return split.transpose(0, 1).reshape(qkv.shape)  # 3C, ...
