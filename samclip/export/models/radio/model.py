"""C-RADIO as one pass that serves all tasks: encoder, head for names, SAM's decoder.

The head of the teacher `sam` imitates the features of SAM ViT-H before its neck; that neck, the
prompt encoder and the mask decoder are SAM's own. Names come from the *summary* head of a teacher
with a text tower, applied to the summary token and to every patch: the same teacher's head for
patches leads into another space, which texts do not share.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from samclip.export.models.mask_decoder import SamMaskDecoder
from samclip.export.models.merged import (
    TextConfig,
    build_text_tower,
    check_canvas,
    embed_padding,
    share_weights,
)
from samclip.export.models.prompt_encoder import PromptEncoder
from samclip.export.models.radio.attention import PlainAttention
from samclip.export.models.radio.heads import Head
from samclip.export.models.radio.sizes import PATCH, TrunkConfig
from samclip.export.models.radio.trunk import RadioTrunk, padding_scores
from samclip.export.models.sam_vit import sam_neck


class FeatureNormaliser(nn.Module):
    """A shift and a rotation of the patches in front of every head; keys `mean`, `tx`."""

    mean: Tensor
    tx: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("tx", torch.eye(width))

    def forward(self, patches: Tensor) -> Tensor:
        """Return (patches - mean) times the transpose of `tx`: ...xC."""
        return (patches - self.mean) @ self.tx.mT


class RadioEncoder(nn.Module):
    """The trunk, and the way from its patches to SAM's image embeddings.

    `slot` is the place, among the prefix tokens, of the summary that names are read from.
    """

    def __init__(self, config: TrunkConfig, slot: int, sam_head: Head, normalised: bool) -> None:
        super().__init__()
        self.slot = slot
        self.trunk = RadioTrunk(config)
        self.normaliser = FeatureNormaliser(config.width) if normalised else None
        self.sam_head = sam_head
        self.neck = sam_neck(sam_head.out)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Encode `image`, Bx3xHxW float, normalised, zero where it is padding.

        Returns backbone_features, BxCx1x(1+L): the summary token, then the L = h * w patches row
        by row; and image_embeddings, Bx256xhxw. The features in front of SAM's neck are zero on
        padding, as SAM's decoder knows them from C-RADIO. Where the trunk has a `recursion`, the
        patches of backbone_features are those for names, and image_embeddings come from the others.
        """
        prefix, patches, names, mask = self.trunk.both(image)
        if self.normaliser is not None:
            patches = self.normaliser(patches)
            names = patches if self.trunk.recursion is None else self.normaliser(names)
        summary = prefix[:, self.slot : self.slot + 1]  # Bx1xC
        tokens = torch.cat([summary, names], dim=1)  # Bx(1+L)xC
        features = self.sam_head(patches, padding_scores(mask)) * mask.unsqueeze(-1)  # BxLxD
        maps = features.mT.unflatten(2, self.trunk.config.grid)  # BxDxhxw
        return tokens.mT.unsqueeze(2), self.neck(maps)


class RadioClipHead(nn.Module):
    """A teacher's summary head, for the image and for its patches on a grid of (h, w)."""

    def __init__(self, head: Head, grid: tuple[int, int]) -> None:
        super().__init__()
        self.head = head
        self.grid = grid

    def forward(self, backbone_features: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embed an image as a whole and patch by patch; neither result is normalised.

        `backbone_features` is the encoder's, BxCx1x(1+L); `token_mask` Bxhxw float32 is 1 for
        tokens of the image and 0 for padding, which takes the embedding of the whole image.
        Returns `image_embed` BxD and `patch_embeds` BxDxhxw.
        """
        tokens = backbone_features.squeeze(2).mT  # Bx(1+L)xC
        inside = token_mask.flatten(1).unsqueeze(-1) > 0.5  # BxLx1
        patches = torch.where(inside, tokens[:, 1:], tokens[:, :1])
        embedded = self.head(torch.cat([tokens[:, :1], patches], dim=1))  # Bx(1+L)xD
        return embedded[:, 0], embedded[:, 1:].mT.unflatten(2, self.grid)


class Radio(nn.Module):
    """All parts: `encoder`, `clip_head`, `prompt_encoder`, `mask_decoder` and perhaps `text`."""

    def __init__(
        self, encoder: RadioEncoder, names: Head, image_size: int, text: TextConfig | None = None
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.canvas: tuple[int, int] = (image_size, image_size)  # (h, w) of the input
        self.padding: Tensor | None = None  # what the decoder sees around it, see `embed_padding`
        self.encoder = encoder
        self.clip_head = RadioClipHead(names, encoder.trunk.config.grid)
        self.prompt_encoder = PromptEncoder(image_size=image_size)
        self.mask_decoder = SamMaskDecoder()
        self.text = None if text is None else build_text_tower(text)

    @property
    def step(self) -> int:
        """The pixels of which both sides of an input must be multiples."""
        return PATCH * max(1, self.encoder.trunk.config.window_size)

    def at_canvas(self, canvas: tuple[int, int]) -> Radio:
        """Return the same model for images of `canvas` (h, w) pixels, with the same weights.

        The decoder sees the rest of the square as padding, where features in front of SAM's neck
        are zero. Raises CheckpointError unless its sides are multiples of `step`, at most
        `image_size`.
        """
        check_canvas(canvas, self.image_size, self.step)
        before = math.prod(self.encoder.trunk.config.grid)
        model = share_weights(self)
        model.canvas = canvas
        cells = self.image_size // PATCH
        with torch.no_grad():
            nothing = self.encoder.neck(torch.zeros(1, self.encoder.sam_head.out, cells, cells))
        model.padding = embed_padding(nothing, canvas)
        model.encoder.trunk.crop(canvas)
        model.prompt_encoder.crop(canvas)
        model.clip_head.grid = model.encoder.trunk.config.grid
        fewer = before - math.prod(model.clip_head.grid)
        for part in model.modules():
            if isinstance(part, PlainAttention) and part.tokens >= before:  # of whole images
                part.tokens -= fewer
        return model
