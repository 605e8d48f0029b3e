"""The head that keeps a recogniser's classes: its classifier at every position, in a text space.

ConSE (Norouzi et al., arXiv 1312.5650): an image's place in a text space is the mean of its class
names' embeddings, weighted by the classifier's probabilities. Here that mean is also taken patch by
patch, so that one pass over a whole scene names every part of it. Differences from the paper:

- all classes count, not the few best; the mean of all names is subtracted from each (`set_names`),
  which removes their common part. Where a classifier is unsure, the paper's form ends near that
  common part, and so at whichever prompt happens to lie there;
- the recogniser's maps come at several scales (`StitchedEncoder.pyramid`). Patches weigh them by
  their content (`gate`), the image as a whole by fixed shares (`level_bias`);
- two temperatures, for patches and for images: the classifier is not equally sure of pooled and of
  unpooled features.

The pooling over the image is a mean, as the classifier's own, where SAM-CLIP's head takes a
maximum. With labels, a branch of scores for taught names joins the embedding (`taught_names`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from samclip.errors import InputError
from samclip.export.models.efficientnet_lite import CLASSES, HEAD_CHANNELS, RecogniserHead
from samclip.export.models.taught_names import TaughtConfig, TaughtScores


@dataclass(frozen=True)
class ConseHeadConfig:
    """`levels` maps of `width` channels on a `grid` x `grid`, to an `embed_dim`-d text space.

    `taught`: the names that labels taught, None for a head that has ConSE alone. Raises InputError
    for numbers below 1.
    """

    width: int
    embed_dim: int
    grid: int
    levels: int = 1
    classes: int = CLASSES
    taught: TaughtConfig | None = None

    def __post_init__(self) -> None:
        if min(self.width, self.embed_dim, self.grid, self.levels, self.classes) < 1:
            raise InputError(f"{self}: every number must be at least 1.")

    @property
    def tokens(self) -> int:
        """Tokens along a side: the side g of `token_mask` and `patch_embeds`."""
        return self.grid


class ConseHead(nn.Module):
    """The ConSE head; weights are random and names are 0 until loaded or set."""

    names: Tensor

    def __init__(self, config: ConseHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.recogniser = RecogniserHead(config.width, config.classes)
        self.gate = nn.Linear(HEAD_CHANNELS, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        self.patch_level_bias = nn.Parameter(torch.zeros(config.levels))
        self.level_bias = nn.Parameter(torch.zeros(config.levels))
        self.log_temperatures = nn.Parameter(torch.zeros(2))  # of images, of patches
        self.register_buffer("names", torch.zeros(config.classes, config.embed_dim))
        self.taught: TaughtScores | None = None
        if config.taught is not None:
            self.teach(config.taught)

    def teach(self, taught: TaughtConfig) -> TaughtScores:
        """Add a branch for taught names, with zeros as weights, and return it."""
        self.config = replace(self.config, taught=taught)
        self.taught = TaughtScores(HEAD_CHANNELS * self.config.levels, taught)
        return self.taught

    def forward(self, backbone_features: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embed an image as a whole and patch by patch; neither result is normalised.

        `backbone_features` is Bx(C levels)xGxG, `token_mask` BxGxG float32, 1 for tokens of the
        image and 0 for padding. Returns `image_embed` BxD and `patch_embeds` BxDxGxG; with taught
        names D is that of joint embeddings.
        """
        features = self.features(backbone_features)  # B, L, G, G, H
        pooled = masked_mean(features, token_mask)  # B, L, H
        image_logits, patch_logits = self._classify(features, pooled)
        image = image_logits.softmax(dim=1) @ self.names  # B, D
        patches = patch_logits.softmax(dim=-1) @ self.names  # B, G, G, D
        if self.taught is not None:
            tokens = features.permute(0, 2, 3, 1, 4).flatten(3)  # B, G, G, L H
            image_scores, token_scores = self.taught(tokens, pooled.flatten(1))
            image = self.taught.join(image, image_scores)
            patches = self.taught.join(patches, token_scores)
        return image, patches.permute(0, 3, 1, 2)

    def crop(self, canvas: tuple[int, int], image_size: int) -> None:
        """Take maps of images of `canvas` pixels: nothing in this head depends on their size."""

    def logits(self, backbone_features: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the classifier's logits of the image, BxK, and of its patches, BxGxGxK.

        Arguments as for `forward`.
        """
        features = self.features(backbone_features)  # B, L, G, G, H
        return self._classify(features, masked_mean(features, token_mask))

    def _classify(self, features: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Classify the image and its patches by features BxLxGxGxH and their means BxLxH."""
        image_scale, patch_scale = torch.exp(-self.log_temperatures).unbind()
        scores = self.gate(features).squeeze(-1) + self.patch_level_bias[:, None, None]
        weights = scores.softmax(1)  # B, L, G, G
        patches = (features * weights.unsqueeze(-1)).sum(dim=1)  # B, G, G, H
        image = (pooled * self.level_bias.softmax(0)[:, None]).sum(dim=1)  # B, H
        classify = self.recogniser.classifier
        return classify(image) * image_scale, classify(patches) * patch_scale

    def set_names(self, embeddings: Tensor) -> None:
        """Set the embeddings of the class names, KxD of unit length, less their mean.

        Raises InputError when the shape is not that of the head.
        """
        if embeddings.shape != self.names.shape:
            raise InputError(
                f"names of shape {tuple(embeddings.shape)} were given; this head takes "
                f"{tuple(self.names.shape)}: a text embedding for each class, in class order"
            )
        self.names.copy_(embeddings - embeddings.mean(dim=0))

    def features(self, backbone_features: Tensor) -> Tensor:
        """Widen every level by the recogniser's own layer: Bx(C levels)xGxG -> BxLxGxGxH."""
        batch, _, *grid = backbone_features.shape
        levels, width = self.config.levels, self.config.width
        maps = backbone_features.reshape(batch * levels, width, *grid)  # BL, C, G, G
        wide = self.recogniser.features(maps).reshape(batch, levels, HEAD_CHANNELS, *grid)
        return wide.permute(0, 1, 3, 4, 2)  # B, L, G, G, H


def masked_mean(features: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the positions whose mask is 1: BxLxGxGxH and BxGxG -> BxLxH."""
    weights = mask / mask.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    row = weights.flatten(1)[:, None, None]  # Bx1x1x(GG): a product, which no backend transposes
    return (row @ features.flatten(2, 3)).squeeze(2)
