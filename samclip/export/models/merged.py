"""The merged model: one image encoder, a CLIP head and SAM's prompted mask decoder on top of it.

SAM-CLIP (Wang et al., 2023), section 3: the CLIP head branches off the encoder before SAM's neck,
the mask decoder after it; the text tower is the CLIP teacher's own, frozen.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from samclip.errors import CheckpointError
from samclip.export.models.bert_tower import BertTower, BertTowerConfig
from samclip.export.models.clip_head import ClipHead, clip_head_config, initialise_from_encoder
from samclip.export.models.mask_decoder import MaskDecoder
from samclip.export.models.prompt_encoder import PromptEncoder
from samclip.export.models.sam_vit import SAM_VIT_CONFIGS, SamVit
from samclip.export.models.text_tower import TextTower, TextTowerConfig
from samclip.export.models.tiny_vit import TinyVit

MODEL_TYPES = (*SAM_VIT_CONFIGS, "vit_t")
PATCH = 16

TextConfig = TextTowerConfig | BertTowerConfig


@dataclass(frozen=True)
class MergedConfig:
    """The architecture: encoder `model_type`, square `image_size` in pixels (a multiple of 16).

    `embed_dim` is the text space's; `head_pool` 2 halves the CLIP head's token grid.
    """

    model_type: str
    image_size: int = 1024
    embed_dim: int = 512
    head_pool: int = 1
    text_tower: TextConfig | None = None

    @property
    def grid(self) -> int:
        """Tokens along a side of the encoder's output."""
        return self.image_size // PATCH


class MergedModel(nn.Module):
    """The parts of a merged model, each with the state-dict keys of its origin."""

    def __init__(self, config: MergedConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = build_encoder(config.model_type, config.image_size)
        self.prompt_encoder = PromptEncoder(image_size=config.image_size)
        self.mask_decoder = MaskDecoder()
        self.clip_head = ClipHead(
            clip_head_config(
                config.model_type, config.image_size, config.embed_dim, pool=config.head_pool
            )
        )
        self.text = None if config.text_tower is None else build_text_tower(config.text_tower)

    def initialise_head(self) -> None:
        """Start the CLIP head from the encoder's last block (appendix A), where shapes allow."""
        initialise_from_encoder(self.clip_head, self.image_encoder)


def build_encoder(model_type: str, image_size: int) -> SamVit | TinyVit:
    """Make an image encoder with random weights; raises CheckpointError for an unknown type."""
    if image_size % PATCH or not 64 <= image_size <= 4096:
        raise CheckpointError(
            f"image size {image_size} was asked for; a multiple of {PATCH} from 64 to 4096 works"
        )
    if model_type == "vit_t":
        return TinyVit(image_size)
    if model_type not in SAM_VIT_CONFIGS:
        raise CheckpointError(
            f"unknown model type {model_type!r}; there are {', '.join(MODEL_TYPES)}"
        )
    return SamVit(SAM_VIT_CONFIGS[model_type], image_size)


def build_text_tower(config: TextConfig) -> TextTower | BertTower:
    """Make a text tower with random weights."""
    return BertTower(config) if isinstance(config, BertTowerConfig) else TextTower(config)
