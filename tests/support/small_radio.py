"""A small C-RADIO of random weights, without a checkpoint."""

from __future__ import annotations

from reference_segment_anything import randomise

from samclip.export.models.radio.heads import HeadV1, HeadV2
from samclip.export.models.radio.model import Radio, RadioEncoder
from samclip.export.models.radio.sizes import TrunkConfig


def random_radio(image_size: int, window_size: int = 0) -> Radio:
    """All parts of a model with four blocks, LayerScale and a normaliser."""
    config = TrunkConfig(
        width=64,
        depth=4,
        num_heads=4,
        hidden=128,
        prefix=8,
        image_size=(image_size, image_size),
        layer_scale=True,
        window_size=window_size,
    )
    encoder = RadioEncoder(config, 1, HeadV2(64, 48, 1280, 1), normalised=True)
    model = Radio(encoder, HeadV1(64, 48, 32), image_size)
    randomise(model)
    return model.eval()
