"""The merged model: one image encoder, a CLIP head and SAM's prompted mask decoder on top of it.

SAM-CLIP (Wang et al., 2023), section 3: the CLIP head branches off the encoder before SAM's neck,
the mask decoder after it; the text tower is the CLIP teacher's own, frozen. Model type `lite2`
turns this around: its encoder is a recogniser, to which SAM's later stages are stitched, and its
head maps the recogniser's classes into the text space.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from samclip.errors import CheckpointError
from samclip.export.models.bert_tower import BertTower, BertTowerConfig
from samclip.export.models.clip_head import SamClipHead, clip_head_config, initialise_from_encoder
from samclip.export.models.conse_head import ConseHead, ConseHeadConfig
from samclip.export.models.efficientnet_lite import LITE2
from samclip.export.models.mask_decoder import SamMaskDecoder
from samclip.export.models.prompt_encoder import PromptEncoder, padding_last
from samclip.export.models.sam_vit import SAM_VIT_CONFIGS, SamVit
from samclip.export.models.siglip_tower import SiglipTower, SiglipTowerConfig
from samclip.export.models.stitched_encoder import StitchedEncoder
from samclip.export.models.taught_names import JointText, TaughtConfig, TaughtTexts
from samclip.export.models.text_tower import TextTower, TextTowerConfig
from samclip.export.models.tiny_vit import TinyVit

STITCHED_TYPE = "lite2"
MODEL_TYPES = (*SAM_VIT_CONFIGS, "vit_t", STITCHED_TYPE)
PATCH = 16

TextConfig = TextTowerConfig | BertTowerConfig | SiglipTowerConfig
AnyTextTower = TextTower | BertTower | SiglipTower
ImageEncoder = SamVit | TinyVit | StitchedEncoder


@dataclass(frozen=True)
class MergedConfig:
    """The architecture: encoder `model_type`, square `image_size` in pixels (a multiple of 16).

    `embed_dim` is the text space's; `head_pool` 2 halves the CLIP head's token grid. `pyramid` is a
    stitched encoder's: the divisors of the image size at which its backbone looks at the image.
    `taught`: the names that labels taught its head.
    """

    model_type: str
    image_size: int = 1024
    embed_dim: int = 512
    head_pool: int = 1
    text_tower: TextConfig | None = None
    pyramid: tuple[int, ...] = (1,)
    taught: TaughtConfig | None = None

    @property
    def grid(self) -> int:
        """Tokens along a side of the image embeddings."""
        return self.image_size // PATCH


class MergedModel(nn.Module):
    """The parts of a merged model, each with the state-dict keys of its origin."""

    def __init__(self, config: MergedConfig) -> None:
        super().__init__()
        self.config = config
        self.canvas = (config.image_size, config.image_size)  # (h, w) of the input
        self.padding: Tensor | None = None  # what the decoder sees around it, see `embed_padding`
        self.image_encoder = build_encoder(config.model_type, config.image_size, config.pyramid)
        self.prompt_encoder = PromptEncoder(image_size=config.image_size)
        self.mask_decoder = SamMaskDecoder()
        self.clip_head = _build_head(config, self.image_encoder)
        self.text = None if config.text_tower is None else build_text_tower(config.text_tower)
        self.taught = None if config.taught is None else TaughtTexts(config.taught)

    @property
    def naming_tower(self) -> AnyTextTower | JointText | None:
        """The text tower as names go through it: joined with the taught names, if there are any."""
        if self.text is None or self.taught is None:
            return self.text
        return JointText(self.text, self.taught)

    @property
    def step(self) -> int:
        """The pixels of which both sides of an input must be multiples: those of a name's token."""
        return self.config.image_size // self.clip_head.config.tokens

    def at_canvas(self, canvas: tuple[int, int]) -> MergedModel:
        """Return the same model for images of `canvas` (h, w) pixels, with the same weights.

        The canvas is the upper left part of the square; its sides are multiples of `step`. The
        decoder sees the rest as padding: the encoder's embeddings of an image that is nothing else.
        Raises CheckpointError for any other.
        """
        side = self.config.image_size
        check_canvas(canvas, side, self.step)
        model = share_weights(self)
        model.canvas = canvas
        with torch.no_grad():
            _, nothing = share_weights(self.image_encoder).eval()(torch.zeros(1, 3, side, side))[:2]
        model.padding = embed_padding(nothing, canvas)
        model.image_encoder.crop(canvas)
        model.clip_head.crop(canvas, side)
        model.prompt_encoder.crop(canvas)
        return model

    def initialise_head(self) -> None:
        """Start the CLIP head from the encoder's last block (appendix A), where shapes allow.

        Raises CheckpointError for a stitched encoder, whose head is the recogniser's.
        """
        head, encoder = self.clip_head, self.image_encoder
        if isinstance(head, ConseHead) or isinstance(encoder, StitchedEncoder):
            raise CheckpointError(
                f"a {self.config.model_type} head starts from its recogniser's classifier, not "
                "from the encoder; use samclip.export.families.stitched.assemble_stitched"
            )
        initialise_from_encoder(head, encoder)


def check_canvas(canvas: tuple[int, int], image_size: int, step: int) -> None:
    """Raise CheckpointError unless a model of `image_size` px can take `canvas` (h, w) pixels."""
    if max(canvas) != image_size or min(canvas) < step or any(side % step for side in canvas):
        raise CheckpointError(
            f"an input of {canvas[0]} x {canvas[1]} pixels (h, w) was asked for; this model of "
            f"{image_size} px takes multiples of {step}, the longer side {image_size}"
        )


def embed_padding(nothing: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Return what SAM's decoder sees around a photo of `canvas` (h, w) pixels: 1xPxC.

    SAM is trained on squares, and its decoder answers boxes worse when padding is out of its sight:
    docs/export/shapes.md has the figures. What a square holds there depends little on the photo, so
    it is a constant: `nothing`, 1xCxGxG, are the image embeddings of a square of padding. The P
    cells are those of the square beyond the canvas, as `padding_last` puts them.
    """
    rows, columns = (side // PATCH for side in canvas)
    return padding_last(nothing.permute(0, 2, 3, 1), (rows, columns))[:, rows * columns :]


ModuleT = TypeVar("ModuleT", bound=nn.Module)


def share_weights(module: ModuleT) -> ModuleT:
    """Return a copy of a module that has the same parameters and buffers, not copies of them."""
    tensors = (*module.parameters(), *module.buffers())
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def build_encoder(
    model_type: str, image_size: int, pyramid: tuple[int, ...] = (1,)
) -> ImageEncoder:
    """Make an image encoder with random weights.

    Raises CheckpointError for an unknown type, an unsupported size, or a pyramid for an encoder
    that has none.
    """
    if image_size % PATCH or not 64 <= image_size <= 4096:
        raise CheckpointError(
            f"image size {image_size} was asked for; a multiple of {PATCH} from 64 to 4096 works"
        )
    if model_type == STITCHED_TYPE:
        return StitchedEncoder(image_size, pyramid, LITE2)
    if pyramid != (1,):
        raise CheckpointError(
            f"pyramid={pyramid} was asked of a {model_type} encoder, which looks at the image "
            f"once; only {STITCHED_TYPE} has a pyramid"
        )
    if model_type == "vit_t":
        return TinyVit(image_size)
    if model_type not in SAM_VIT_CONFIGS:
        raise CheckpointError(
            f"unknown model type {model_type!r}; there are {', '.join(MODEL_TYPES)}"
        )
    return SamVit(SAM_VIT_CONFIGS[model_type], image_size)


def _build_head(config: MergedConfig, encoder: ImageEncoder) -> SamClipHead | ConseHead:
    """Make the CLIP head that belongs to an encoder, with random weights."""
    if not isinstance(encoder, StitchedEncoder):
        if config.taught is not None:
            raise CheckpointError(
                f"taught names were asked of a {config.model_type} head; only {STITCHED_TYPE} "
                "heads have them"
            )
        return SamClipHead(
            clip_head_config(
                config.model_type, config.image_size, config.embed_dim, pool=config.head_pool
            )
        )
    if config.head_pool != 1:
        raise CheckpointError(
            f"head_pool={config.head_pool} was asked of a {config.model_type} head, whose tokens "
            "are as coarse as its recogniser's map already; leave it at 1"
        )
    levels = len(encoder.pyramid)
    width = encoder.backbone_channels // levels
    sizes = ConseHeadConfig(
        width, config.embed_dim, encoder.backbone_grid, levels, taught=config.taught
    )
    return ConseHead(sizes)


def build_text_tower(config: TextConfig) -> AnyTextTower:
    """Make a text tower with random weights."""
    if isinstance(config, BertTowerConfig):
        return BertTower(config)
    return SiglipTower(config) if isinstance(config, SiglipTowerConfig) else TextTower(config)
