"""Settings of CLIP's image towers that leave no trace in their weights, and their preprocessing.

They are read from the files that publishers put next to the weights: `open_clip_config.json` of
open_clip, `config.json` and `preprocessor_config.json` of Hugging Face. Without these, the heads
are the released models' of that width, and the preprocessing is that of OpenAI's CLIP, or of
SigLIP; the activation is asked for, as for text towers (`clip_settings`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import Checkpoint
from samclip.export.checkpoints.clip_settings import (
    HF_DEFAULT_ACTIVATION,
    HF_FILE,
    OPEN_CLIP_BLOCKS,
    OPEN_CLIP_FILE,
    choose_activation,
    read_descriptions,
)
from samclip.export.checkpoints.model_files import Json, read_json, require_settings, table
from samclip.export.models.clip_vision import Activation

PREPROCESSOR_FILE = "preprocessor_config.json"
HEAD_WIDTH = 64  # of most released image towers
WIDE_HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}  # SigLIP So400m; LAION's ViT-H, g and bigG
# Pixel statistics in [0, 1]: those of OpenAI's CLIP, and SigLIP's.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
SIGLIP_TYPES = ("siglip", "siglip_vision_model")
ONLY_CLIP = "Give a CLIP of OpenAI's architecture, or a SigLIP in Hugging Face's layout."

# Settings with the only values that our towers have. Those that weights show are not listed.
OPEN_CLIP_VISION: Json = {
    "timm_model_name": "",
    "attentional_pool": False,
    "no_ln_pre": False,
    "pool_type": "tok",
    **OPEN_CLIP_BLOCKS,
}
HF_CLIP: Json = {
    "model_type": ("clip", "clip_vision_model"),
    "hidden_act": ("quick_gelu", "gelu"),
    "layer_norm_eps": 1e-5,
    "num_channels": 3,
}
HF_SIGLIP: Json = {
    "model_type": SIGLIP_TYPES,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "num_channels": 3,
    "vision_use_head": True,
}
INTERPOLATIONS: Mapping[object, Literal["pillow_bicubic", "pillow_bilinear"]] = {
    "bicubic": "pillow_bicubic",
    "bilinear": "pillow_bilinear",
    3: "pillow_bicubic",  # Pillow's numbers, in which Hugging Face's files have them
    2: "pillow_bilinear",
}
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class VisionSettings:
    """What files say of an image tower; `image_size` None where they do not say it.

    `mean` and `std` are in [0, 1]; `heads` None means the usual number.
    """

    activation: Activation
    heads: int | None
    image_size: int | None
    mean: Triple
    std: Triple
    resize: Literal["shortest_side", "squash"]
    interpolation: Literal["pillow_bicubic", "pillow_bilinear"]

    def heads_of(self, width: int) -> int:
        """Return the number of heads of a tower of `width` channels."""
        return self.heads or WIDE_HEADS.get(width) or max(1, width // HEAD_WIDTH)


def read_vision_settings(
    checkpoint: Checkpoint, *, siglip: bool, is_vit: bool = True, quick_gelu: bool | None = None
) -> VisionSettings:
    """Read the settings of an image tower from the files next to its weights.

    `siglip`: whether the weights are SigLIP's; `is_vit`: ResNets have no activation to choose.
    `quick_gelu` is what the caller knows, and wins. Raises CheckpointError for settings that are
    not supported, and where nothing says what the activation is.
    """
    folder, name = checkpoint.path.parent, checkpoint.path.name
    open_clip, hugging_face = read_descriptions(folder)
    stated: dict[str, bool] = {}
    heads = size = None
    if open_clip is not None:
        vision = table(open_clip, "vision_cfg")
        require_settings(vision, OPEN_CLIP_VISION, f"{OPEN_CLIP_FILE} next to {name}", ONLY_CLIP)
        stated[OPEN_CLIP_FILE] = bool(open_clip.get("quick_gelu", False))
        heads, size = _open_clip_heads(vision), vision.get("image_size")
    if hugging_face is not None:
        vision = _hugging_face_table(hugging_face)
        known = HF_SIGLIP if siglip else HF_CLIP
        require_settings(vision, known, f"{HF_FILE} next to {name}", ONLY_CLIP)
        stated[HF_FILE] = (vision.get("hidden_act") or HF_DEFAULT_ACTIVATION) == "quick_gelu"
        heads, size = vision.get("num_attention_heads", heads), vision.get("image_size", size)
    if "input_resolution" in checkpoint.state:  # of OpenAI's own archives
        stated["the weights"] = True
    activation: Activation = "gelu_tanh" if siglip else "gelu"
    if is_vit and not siglip and choose_activation(name, stated, quick_gelu):
        activation = "quick_gelu"
    own = read_descriptions_of_pixels(folder, siglip=siglip)
    return VisionSettings(
        activation=activation,
        heads=_whole(heads, f"the heads of {name}"),
        image_size=_whole(size, f"the image size of {name}"),
        mean=_triple(own, "mean", HALF if siglip else CLIP_MEAN),
        std=_triple(own, "std", HALF if siglip else CLIP_STD),
        resize=_resize(own, "squash" if siglip else "shortest", name),
        interpolation=_interpolation(own, name),
    )


def read_descriptions_of_pixels(folder: Path, *, siglip: bool) -> Json:
    """Return the preprocessing next to weights, in open_clip's words; empty where there is none."""
    for file in (OPEN_CLIP_FILE, HF_FILE):
        if found := table(read_json(folder, file), "preprocess_cfg"):
            return found
    theirs = read_json(folder, PREPROCESSOR_FILE)
    if theirs is None:
        return {}
    size, crop = theirs.get("size"), theirs.get("crop_size")
    is_short = isinstance(size, int) or (isinstance(size, dict) and "shortest_edge" in size)
    crops = bool(theirs.get("do_center_crop", not siglip))
    edge, cropped = _edge(size), _edge(crop)
    if (
        is_short != crops
        or (crops and None not in (edge, cropped) and edge != cropped)
        or theirs.get("do_resize") is False
    ):
        raise CheckpointError(
            f"{folder / PREPROCESSOR_FILE} asks for size {size!r:.60} and crop_size {crop!r:.60}; "
            "supported are the shorter side resized and as much cropped from the middle, or both "
            "sides resized and nothing cropped."
        )
    own = {"mean": theirs.get("image_mean"), "std": theirs.get("image_std")}
    own["interpolation"] = theirs.get("resample")
    own["resize_mode"] = "shortest" if is_short else "squash"
    return own


def _edge(size: object) -> int | None:
    """Return the side in pixels that one of Hugging Face's sizes names, in any of its forms."""
    if isinstance(size, dict):
        size = size.get("shortest_edge", size.get("height"))
    return size if isinstance(size, int) else None


def _hugging_face_table(content: Json) -> Json:
    """Return Hugging Face's description of an image tower, which is a part of a whole model's."""
    for key in ("vision_config_dict", "vision_config"):  # older files have both
        if found := table(content, key):
            return found
    return {} if "vision_config" in content else content


def _open_clip_heads(vision: Json) -> object:
    width, head_width = vision.get("width"), vision.get("head_width")
    if isinstance(width, int) and isinstance(head_width, int) and head_width > 0:
        return width // head_width
    return None


def _whole(value: object, what: str) -> int | None:
    if isinstance(value, list | tuple) and len(set(value)) == 1:  # (h, w) of a square
        value = value[0]
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= 4096:
        raise CheckpointError(
            f"{what} is {value!r:.40} in the file next to it; expected a whole number of at most "
            "4096. Download the file again."
        )
    return value


def _triple(own: Json, key: str, default: Triple) -> Triple:
    value = own.get(key)
    if value is None:
        return default
    numbers = cast("list[object]", value) if isinstance(value, list | tuple) else []
    if len(numbers) != 3 or not all(isinstance(x, int | float) and 0 <= x <= 1 for x in numbers):
        raise CheckpointError(
            f"the preprocessing next to the weights has {key} {value!r:.60}; expected three "
            "numbers in [0, 1]. Download the file again."
        )
    return cast("Triple", tuple(float(cast("float", x)) for x in numbers))


def _resize(own: Json, default: str, name: str) -> Literal["shortest_side", "squash"]:
    mode = own.get("resize_mode") or default
    if mode not in ("shortest", "squash"):
        raise CheckpointError(
            f"the preprocessing next to {name} has resize_mode {mode!r:.40}; supported are "
            "'shortest' (and a crop from the middle) and 'squash'."
        )
    return "squash" if mode == "squash" else "shortest_side"


def _interpolation(own: Json, name: str) -> Literal["pillow_bicubic", "pillow_bilinear"]:
    value = own.get("interpolation")
    known = INTERPOLATIONS.get("bicubic" if value is None else value)
    if known is None:
        raise CheckpointError(
            f"the preprocessing next to {name} has interpolation {value!r:.40}; supported are "
            "bicubic and bilinear."
        )
    return known
