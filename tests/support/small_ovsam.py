"""A small Open-Vocabulary SAM with random weights, every part of it in its place."""

from __future__ import annotations

import torch
from reference_segment_anything import randomise
from torch import nn

from samclip.export.checkpoints.metadata import TextMetadata
from samclip.export.checkpoints.text_source import clip_tokenizer_json
from samclip.export.families.ovsam_assembly import OvsamAssembly, OvsamMetadata
from samclip.export.models.ovsam.clip_resnet import ResNetConfig
from samclip.export.models.ovsam.model import Ovsam, OvsamConfig
from samclip.export.models.ovsam.sam2clip import NeckConfig
from samclip.export.models.text_tower import TextTowerConfig

SMALL_OVSAM = OvsamConfig(
    backbone=ResNetConfig(width=8, depths=(2, 1, 1, 1), embed_dim=24, pool_grid=4),
    text_tower=TextTowerConfig(width=32, heads=2, layers=1, embed_dim=24, quick_gelu=True),
    neck=NeckConfig(width=32, depth=2, num_heads=2, window_size=3, out_channels=64),
    image_size=128,
    fpn_channels=16,
)


def random_ovsam(
    config: OvsamConfig = SMALL_OVSAM, seed: int = 0, with_text: bool = False
) -> Ovsam:
    """The model in eval mode; its batch norms have statistics that are neither 0 nor 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # of the positions' random directions
        model = Ovsam(config, with_text)
    randomise(model, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    model.neck.pos_embed.normal_(generator=generator)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def small_assembly(model: Ovsam, trained: bool = True) -> OvsamAssembly:
    """A model as `samclip-merge` describes it."""
    config = model.config
    tower, backbone = config.text_tower, config.backbone
    assert isinstance(tower, TextTowerConfig)
    metadata = OvsamMetadata(
        model_type="ovsam",
        image_size=config.image_size,
        backbone=backbone if isinstance(backbone, ResNetConfig) else None,
        convnext=None if isinstance(backbone, ResNetConfig) else backbone,
        neck=config.neck,
        fpn_channels=config.fpn_channels,
        head_trained=trained,
        text=TextMetadata(model="random", logit_scale=1.0, space="0" * 64, clip=tower),
        license="Apache-2.0",
    )
    return OvsamAssembly(model, metadata, clip_tokenizer_json())
