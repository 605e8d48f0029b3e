"""The published tensors, key by key and shape by shape, at full size.

No published file can be had here; the list is derived from the public code that writes them, which
`samclip.export.models.ovsam.keys` names, and agrees with the sizes of the files to three digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import StateDict
from samclip.export.models.ovsam.keys import (
    clip2sam_state,
    clip_resnet_state,
    prompt_encoder_state,
    sam2clip_state,
)
from samclip.export.models.ovsam.model import OVSAM_CONFIGS, Ovsam

Shapes = dict[str, tuple[int, ...]]
CHANNELS = (384, 768, 1536, 3072)
WIDTH, HEAD = 1280, 80
DIM = 256


def layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    """A weight, and the bias as long as the first axis."""
    return {f"{name}.weight": shape} | ({f"{name}.bias": (shape[0],)} if bias else {})


def norm(name: str, channels: int) -> Shapes:
    return layer(name, channels)


def sam2clip_shapes() -> Shapes:
    """`sam2clip_vith_rn50x16.pth`."""
    shapes: Shapes = {"pos_embed": (1, 64, 64, WIDTH), "level_encoding.weight": (4, WIDTH)}
    for level, side in enumerate((4, 2, 1)):
        shapes |= layer(f"patch_embeds.{level}.projection", WIDTH, CHANNELS[level], side, side)
    shapes |= {
        "patch_embeds.3.projection.weight": (CHANNELS[3], WIDTH, 2, 2),  # transposed
        "patch_embeds.3.projection.bias": (WIDTH,),
    }
    for block in range(5):
        span = 64 if block == 4 else 14
        name = f"blocks.{block}"
        shapes |= norm(f"{name}.norm1", WIDTH) | norm(f"{name}.norm2", WIDTH)
        shapes |= layer(f"{name}.attn.qkv", 3 * WIDTH, WIDTH)
        shapes |= layer(f"{name}.attn.proj", WIDTH, WIDTH)
        shapes |= {f"{name}.attn.rel_pos_{a}": (2 * span - 1, HEAD) for a in "hw"}
        shapes |= layer(f"{name}.mlp.lin1", 4 * WIDTH, WIDTH)
        shapes |= layer(f"{name}.mlp.lin2", WIDTH, 4 * WIDTH)
    shapes |= layer("neck.0", DIM, WIDTH, 1, 1, bias=False) | norm("neck.1", DIM)
    shapes |= layer("neck.2", DIM, DIM, 3, 3, bias=False) | norm("neck.3", DIM)
    return {f"neck_student.{key}": shape for key, shape in shapes.items()}


def attention(name: str, inner: int) -> Shapes:
    parts = (layer(f"{name}.{part}_proj", inner, DIM) for part in "qkv")
    q, k, v = parts
    return q | k | v | layer(f"{name}.out_proj", DIM, inner)


def transformer_shapes(name: str) -> Shapes:
    shapes: Shapes = {}
    for block in range(2):
        inner = f"{name}.layers.{block}"
        shapes |= attention(f"{inner}.self_attn", DIM)
        shapes |= attention(f"{inner}.cross_attn_token_to_image", DIM // 2)
        shapes |= attention(f"{inner}.cross_attn_image_to_token", DIM // 2)
        shapes |= layer(f"{inner}.mlp.lin1", 2048, DIM) | layer(f"{inner}.mlp.lin2", DIM, 2048)
        for place in range(1, 5):
            shapes |= norm(f"{inner}.norm{place}", DIM)
    shapes |= attention(f"{name}.final_attn_token_to_image", DIM // 2)
    return shapes | norm(f"{name}.norm_final_attn", DIM)


def mlp(name: str, outputs: int) -> Shapes:
    first, second = layer(f"{name}.layers.0", DIM, DIM), layer(f"{name}.layers.1", DIM, DIM)
    return first | second | layer(f"{name}.layers.2", outputs, DIM)


def clip2sam_shapes() -> Shapes:
    """`clip2sam_coco_rn50x16.pth` and `clip2sam_lvis_rn50x16.pth`."""
    shapes: Shapes = {}
    for level, channels in enumerate(CHANNELS):
        shapes |= layer(f"fpn_neck.lateral_convs.{level}.conv", DIM, channels, 1, 1)
        shapes |= layer(f"fpn_neck.fpn_convs.{level}.conv", DIM, DIM, 3, 3)
    inner = "mask_decoder.mask_decoder"
    shapes |= transformer_shapes(f"{inner}.transformer")
    shapes |= {f"{inner}.mask_tokens.weight": (1, DIM), "mask_decoder.label_token.weight": (1, DIM)}
    shapes |= {
        f"{inner}.output_upscaling.0.weight": (DIM, 64, 2, 2),
        f"{inner}.output_upscaling.0.bias": (64,),
        f"{inner}.output_upscaling.3.weight": (64, 32, 2, 2),
        f"{inner}.output_upscaling.3.bias": (32,),
    } | norm(f"{inner}.output_upscaling.1", 64)
    shapes |= mlp(f"{inner}.output_hypernetworks_mlps.0", 32) | mlp("mask_decoder.label_mlp", 768)
    return shapes | {"mask_decoder.roi_conv.0.conv.weight": (768, DIM, 1, 1)}


def prompt_encoder_shapes() -> Shapes:
    """The prompt encoder's part of `sam_vit_h_4b8939.pth`."""
    shapes: Shapes = {"pe_layer.positional_encoding_gaussian_matrix": (2, 128)}
    shapes |= {f"point_embeddings.{place}.weight": (1, DIM) for place in range(4)}
    shapes |= {"not_a_point_embed.weight": (1, DIM), "no_mask_embed.weight": (1, DIM)}
    shapes |= layer("mask_downscaling.0", 4, 1, 2, 2) | norm("mask_downscaling.1", 4)
    shapes |= layer("mask_downscaling.3", 16, 4, 2, 2) | norm("mask_downscaling.4", 16)
    shapes |= layer("mask_downscaling.6", DIM, 16, 1, 1)
    return {f"prompt_encoder.{key}": shape for key, shape in shapes.items()}


def batch_norm(name: str, channels: int) -> Shapes:
    running = {f"{name}.running_{what}": (channels,) for what in ("mean", "var")}
    return norm(name, channels) | running | {f"{name}.num_batches_tracked": ()}


def bottleneck(name: str, inputs: int, width: int) -> Shapes:
    sizes = ((width, inputs, 1), (width, width, 3), (4 * width, width, 1))
    shapes: Shapes = {}
    for place, (outputs, into, side) in enumerate(sizes, 1):
        shapes |= layer(f"{name}.conv{place}", outputs, into, side, side, bias=False)
        shapes |= batch_norm(f"{name}.bn{place}", outputs)
    if inputs != 4 * width:
        shapes |= layer(f"{name}.downsample.0", 4 * width, inputs, 1, 1, bias=False)
        shapes |= batch_norm(f"{name}.downsample.1", 4 * width)
    return shapes


def clip_resnet_shapes(width: int, depths: tuple[int, ...], grid: int, embed: int) -> Shapes:
    """The visual side of OpenAI's CLIP ResNets, by open_clip's names."""
    half, inputs, last = width // 2, width, 32 * width
    shapes: Shapes = {}
    for place, (outputs, into) in enumerate(((half, 3), (half, half), (width, half)), 1):
        shapes |= layer(f"conv{place}", outputs, into, 3, 3, bias=False)
        shapes |= batch_norm(f"bn{place}", outputs)
    for stage, depth in enumerate(depths):
        for block in range(depth):
            shapes |= bottleneck(f"layer{stage + 1}.{block}", inputs, width << stage)
            inputs = 4 * (width << stage)
    shapes |= {"attnpool.positional_embedding": (grid**2 + 1, last)}
    for part in "qkv":
        shapes |= layer(f"attnpool.{part}_proj", last, last)
    shapes |= layer("attnpool.c_proj", embed, last)
    return {f"visual.{key}": shape for key, shape in shapes.items()}


def tensors(shapes: Shapes) -> dict[str, Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def own_shapes(name: str) -> Shapes:
    with torch.device("meta"):
        model = Ovsam(OVSAM_CONFIGS[name])
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def test_every_published_tensor_has_its_place_and_every_place_its_tensor() -> None:
    renamed = {
        **sam2clip_state(tensors(sam2clip_shapes())),
        **clip2sam_state(tensors(clip2sam_shapes())),
        **prompt_encoder_state(tensors(prompt_encoder_shapes())),
        **clip_resnet_state(tensors(clip_resnet_shapes(96, (6, 8, 18, 8), 12, 768))),
    }
    own = own_shapes("ovsam-rn50x16")
    assert sorted(renamed) == sorted(own)
    assert {key: tuple(value.shape) for key, value in renamed.items()} == own


def test_rn50_is_openai_rn50() -> None:
    renamed = clip_resnet_state(tensors(clip_resnet_shapes(64, (3, 4, 6, 3), 7, 1024)))
    parts = ("backbone.", "clip_roi.")
    own = {k: s for k, s in own_shapes("ovsam-rn50").items() if k.startswith(parts)}
    assert {key: tuple(value.shape) for key, value in renamed.items()} == own


# Published sizes of the files, in MB, which hold little apart from float32 tensors.
@pytest.mark.parametrize(
    ("shapes", "megabytes"), [(sam2clip_shapes(), 536), (clip2sam_shapes(), 31.5)]
)
def test_the_files_have_their_published_sizes(shapes: Shapes, megabytes: float) -> None:
    held = sum(4 * value.numel() for value in tensors(shapes).values()) / 1e6
    assert held == pytest.approx(megabytes, rel=0.002)


def test_the_model_has_its_published_number_of_parameters() -> None:
    """304 M (Open-Vocabulary SAM, table 1): all but the text tower."""
    with torch.device("meta"):
        model = Ovsam(OVSAM_CONFIGS["ovsam-rn50x16"])
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == 304


def test_tensors_below_other_prefixes_are_left_alone() -> None:
    shapes = sam2clip_shapes() | {"backbone_student.conv1.weight": (1,)}
    assert sorted(sam2clip_state(tensors(shapes))) == sorted(
        sam2clip_state(tensors(sam2clip_shapes()))
    )


def test_batch_counts_may_be_missing() -> None:
    shapes = clip_resnet_shapes(64, (1, 1, 1, 1), 7, 1024)
    shorter = {k: s for k, s in shapes.items() if not k.endswith("num_batches_tracked")}
    assert sorted(clip_resnet_state(tensors(shorter))) == sorted(clip_resnet_state(tensors(shapes)))


Read = Callable[[Mapping[str, Tensor]], StateDict]
WRONG: list[tuple[Read, Shapes, str]] = [
    (sam2clip_state, {}, "found none"),
    (clip2sam_state, sam2clip_shapes(), "fpn_neck.lateral_convs.0.conv."),
    (clip2sam_state, {"mask_decoder.iou_token.weight": (1, DIM)}, "iou_token"),
    (prompt_encoder_state, {"image_encoder.pos_embed": (1,)}, "image_encoder.pos_embed"),
    (clip_resnet_state, {"visual.class_embedding": (768,)}, "visual.class_embedding"),
]


@pytest.mark.parametrize(("read", "shapes", "message"), WRONG)
def test_other_files_are_refused(read: Read, shapes: Shapes, message: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read(tensors(shapes))


def test_the_published_position_embedding_is_no_parameter() -> None:
    with torch.device("meta"):
        model = Ovsam(OVSAM_CONFIGS["ovsam-rn50x16"])
    assert "pos_embed" in dict(model.neck.named_buffers())
    assert "pos_embed" not in dict(model.neck.named_parameters())
