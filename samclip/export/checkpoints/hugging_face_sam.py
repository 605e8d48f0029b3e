"""SAM as Hugging Face's transformers saves it (`SamModel`), under segment-anything's names.

The tensors are the same. Sizes that leave no trace in them are in the `config.json` next to the
weights, and the statistics of pixels in `preprocessor_config.json`; what differs from
segment-anything's is refused.
"""

from __future__ import annotations

from dataclasses import replace

from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import Checkpoint, Rules, StateDict, rename_key
from samclip.export.checkpoints.model_files import Json, read_json, require_settings, table
from samclip.export.models.sam_vit import SAM_VIT_CONFIGS, SamVitConfig

ENCODER = "vision_encoder."
POSITIONS = "vision_encoder.pos_embed"
SHARED = "shared_image_embedding.positional_embedding"
GAUSSIAN = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
COPY = "prompt_encoder.shared_embedding.positional_embedding"  # of the same matrix

RULES: Rules = (
    (r"vision_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
    (r"vision_encoder\.layers\.(\d+)\.layer_norm(\d)\.", r"image_encoder.blocks.\1.norm\2."),
    (r"vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"vision_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
    (r"vision_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
    (r"vision_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
    (r"vision_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
    (r"vision_encoder\.", "image_encoder."),
    (r"prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"(mask_decoder\.transformer\..*)\.layer_norm(\d)\.", r"\1.norm\2."),
    (r"(mask_decoder\.transformer)\.layer_norm_final_attn\.", r"\1.norm_final_attn."),
    (r"mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"(mask_decoder\..*(?:mlps\.\d|head))\.proj_in\.", r"\1.layers.0."),
    (r"(mask_decoder\..*(?:mlps\.\d|head))\.layers\.0\.", r"\1.layers.1."),
    (r"(mask_decoder\..*(?:mlps\.\d|head))\.proj_out\.", r"\1.layers.2."),
)

VISION: Json = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
    "use_abs_pos": True,
    "use_rel_pos": True,
    "num_channels": 3,
}
DECODER: Json = {"hidden_act": "relu", "num_attention_heads": 8}
PIXELS: Json = {
    "do_rescale": True,
    "rescale_factor": (1 / 255, 0.00392156862745098),
    "do_normalize": True,
    "image_mean": ([0.485, 0.456, 0.406],),
    "image_std": ([0.229, 0.224, 0.225],),
}
ADVICE = "Give a SamModel with SAM's own sizes, or segment-anything's checkpoint."


def is_hugging_face_sam(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint has the names of `SamModel`."""
    return checkpoint.has(ENCODER) and checkpoint.has("mask_decoder.")


def as_segment_anything(checkpoint: Checkpoint) -> Checkpoint:
    """Return a SAM under segment-anything's names, one that has them already unchanged.

    Raises CheckpointError for a `SamModel` of other sizes or settings than SAM's.
    """
    if not is_hugging_face_sam(checkpoint):
        return checkpoint
    _require_sam(checkpoint)
    state: StateDict = {}
    for key, value in checkpoint.state.items():
        if key == SHARED:
            state[GAUSSIAN] = value
        elif key != COPY:
            state[rename_key(key, RULES) or key] = value
    return replace(checkpoint, state=state)


def _require_sam(checkpoint: Checkpoint) -> None:
    """Check what the files next to the weights say against SAM's three sizes."""
    positions = checkpoint.state.get(POSITIONS)
    width = 0 if positions is None else positions.shape[-1]
    known = next((each for each in SAM_VIT_CONFIGS.values() if each.width == width), None)
    if known is None:
        sizes = ", ".join(f"{name} {each.width}" for name, each in SAM_VIT_CONFIGS.items())
        raise CheckpointError(
            f"{checkpoint.path} is a SamModel in Hugging Face's format, with an image encoder of "
            f"width {width}; SAM's have {sizes}. {ADVICE}"
        )
    content = read_json(checkpoint.path.parent, "config.json")
    where = f"config.json next to {checkpoint.path.name}, a SamModel in Hugging Face's format,"
    require_settings(content or {}, {"model_type": "sam"}, where, ADVICE)
    vision = table(content, "vision_config")
    require_settings(vision, VISION | _sizes(known), where, ADVICE)
    require_settings(table(content, "mask_decoder_config"), DECODER, where, ADVICE)
    pixels = read_json(checkpoint.path.parent, "preprocessor_config.json") or {}
    require_settings(
        pixels, PIXELS, f"preprocessor_config.json next to {checkpoint.path.name}", ADVICE
    )


def _sizes(config: SamVitConfig) -> Json:
    """Return what a size of SAM has in `config.json`, of what its tensors do not show."""
    return {
        "num_attention_heads": config.num_heads,
        "global_attn_indexes": (list(config.global_blocks),),
        "window_size": config.window_size,
        "patch_size": config.patch_size,
    }
