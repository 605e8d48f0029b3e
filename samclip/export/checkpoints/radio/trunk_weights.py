"""The trunk of a C-RADIO read from its checkpoint: size, weights, positions, pixel statistics."""

from __future__ import annotations

import re

from torch import Tensor

from samclip.errors import CheckpointError, did_you_mean
from samclip.export.checkpoints.checkpoint import StateDict, fit_state
from samclip.export.checkpoints.declared_sizes import check_numbers
from samclip.export.checkpoints.radio.radio_file import RadioFile
from samclip.export.models.radio.model import FeatureNormaliser, RadioEncoder
from samclip.export.models.radio.sizes import (
    MAX_IMAGE_SIZE,
    PATCH,
    RADIO_SIZES,
    TABLE_SIDE,
    TrunkConfig,
)
from samclip.export.models.radio.trunk import resize_positions
from samclip.runtime.bundles.manifest import Triple

TRUNK = "base_model."
EMBEDDER = "base_model.patch_generator.embedder.weight"
POSITIONS = "base_model.patch_generator.pos_embed"
PREFIX = "base_model.patch_generator.cls_token.token"
MEAN, STD = "input_conditioner.norm_mean", "input_conditioner.norm_std"
NORMALISER = "_feature_normalizer."
LAYER_SCALE = re.compile(r"\.ls[12]\.gamma$")
LATER_PREFIX = 10  # tokens in front of the patches in v4; v3 has 8


def read_trunk_config(
    file: RadioFile, asked: str | None, image_size: int, window_size: int
) -> tuple[str, TrunkConfig]:
    """Return the model type, and the trunk's sizes, read off the weights and checked.

    `asked` is the model type to expect. Raises CheckpointError for weights of another, and for an
    image that the trunk or its windows do not fit.
    """
    prefix = file.read([PREFIX])[PREFIX]
    if prefix.dim() != 2:
        raise file.refusal(f"wrong shape: {PREFIX} {tuple(prefix.shape)}, expected (tokens, width)")
    expected = file.teachers.cls_tokens + file.teachers.registers
    if len(prefix) != expected:
        raise file.refusal(
            f"{PREFIX} has {len(prefix)} rows, and args make {file.teachers.cls_tokens} tokens of "
            f"teachers and {file.teachers.registers} registers"
        )
    model_type = _model_type(file, asked, prefix)
    size = RADIO_SIZES[model_type]
    if not 4 * PATCH <= image_size <= MAX_IMAGE_SIZE or image_size % PATCH:
        raise CheckpointError(
            f"image size {image_size} was asked for; C-RADIO takes a multiple of {PATCH} from "
            f"{4 * PATCH} to {MAX_IMAGE_SIZE}"
        )
    if window_size < 0 or (window_size and image_size % (PATCH * window_size)):
        raise CheckpointError(
            f"windows of {window_size} tokens a side were asked for, which do not divide an image "
            f"of {image_size} px; it has {image_size // PATCH} tokens a side"
        )
    scales = [name for name in file.below(f"{TRUNK}blocks.") if LAYER_SCALE.search(name)]
    return model_type, TrunkConfig(
        width=size.width,
        depth=size.depth,
        num_heads=size.num_heads,
        hidden=size.hidden or _hidden(file),
        prefix=len(prefix),
        image_size=(image_size, image_size),
        layer_scale=bool(size.layer_scale or scales),
        window_size=window_size,
    )


def _model_type(file: RadioFile, asked: str | None, prefix: Tensor) -> str:
    """Return the size whose width and number of tokens the file has, checked against `asked`."""
    if asked is not None and asked not in RADIO_SIZES:
        raise CheckpointError(
            f"unknown model type {asked!r}{did_you_mean(asked, RADIO_SIZES)}; "
            f"{file.path.name} is a C-RADIO: {', '.join(RADIO_SIZES)}"
        )
    width = prefix.shape[1]
    fitting = [name for name, size in RADIO_SIZES.items() if size.width == width]
    if not fitting:
        widths = ", ".join(f"{name} {size.width}" for name, size in RADIO_SIZES.items())
        raise file.refusal(f"its trunk is {width} wide; known are {widths}")
    if asked is None:
        later = [name for name in fitting if ("-v4-" in name) == (len(prefix) == LATER_PREFIX)]
        return (later or fitting)[0]
    if asked not in fitting:
        raise CheckpointError(
            f"{file.path.name} does not fit --model-type {asked}: its trunk is {width} wide, as "
            f"that of {' and '.join(fitting)}. Leave the option out."
        )
    return asked


def _hidden(file: RadioFile) -> int:
    name = f"{TRUNK}blocks.0.mlp.fc1.weight"
    return len(file.read([name])[name])


def load_trunk(encoder: RadioEncoder, file: RadioFile, align_corners: bool) -> str:
    """Load the trunk and the normaliser; return a note on how positions were resized.

    Raises CheckpointError for weights that are missing or have another shape.
    """
    trunk = encoder.trunk
    own = {key: TRUNK + key for key in trunk.state_dict() if key.startswith("blocks.")}
    state = dict(zip(own, file.read(own.values()).values(), strict=True))
    table = file.read([POSITIONS])[POSITIONS]
    width = trunk.config.width
    if tuple(table.shape) != (1, TABLE_SIDE**2, width):
        raise file.refusal(
            f"wrong shape: {POSITIONS} {tuple(table.shape)}, expected {(1, TABLE_SIDE**2, width)}"
        )
    patches = file.read([EMBEDDER])[EMBEDDER]
    if tuple(patches.shape) != (width, 3 * PATCH**2):
        raise file.refusal(
            f"wrong shape: {EMBEDDER} {tuple(patches.shape)}, expected {(width, 3 * PATCH**2)}"
        )
    grid = trunk.config.grid
    state["positions"] = resize_positions(table, grid, align_corners)
    state["embedder.weight"] = patches.reshape(width, 3, PATCH, PATCH)
    state["prefix"] = file.read([PREFIX])[PREFIX]
    fit_state(trunk, state, f"trunk of {file.path.name}")
    if encoder.normaliser is not None:
        _load_normaliser(encoder.normaliser, file)
    other = resize_positions(table, grid, not align_corners) - state["positions"]
    share = float(other.norm() / state["positions"].norm().clamp_min(1e-12))
    return (
        f"Positions are resized with align_corners={align_corners}; the other convention would "
        f"change them by {share:.2%}."
    )


def _load_normaliser(normaliser: FeatureNormaliser, file: RadioFile) -> None:
    names = [NORMALISER + key for key in normaliser.state_dict()]
    state = file.read(names)
    shaped: StateDict = {key.removeprefix(NORMALISER): value for key, value in state.items()}
    shaped["mean"] = shaped["mean"].flatten()
    fit_state(normaliser, shaped, f"{NORMALISER}* of {file.path.name}")


def read_pixels(file: RadioFile) -> tuple[Triple, Triple]:
    """Return mean and deviation of pixels in [0, 255].

    Raises CheckpointError for those of no model, and for means by which a black or grey patch of a
    photo could be taken for padding, which is zero in all channels.
    """
    mean, std = (
        (each.double().flatten() * 255).tolist() for each in file.read([MEAN, STD]).values()
    )
    if len(mean) != 3 or len(std) != 3:
        raise file.refusal(f"{MEAN} and {STD} have {len(mean)} and {len(std)} numbers, expected 3")
    check_numbers(file.path.name, tuple(mean), tuple(std), None)
    if all(abs(value - round(value)) < 1e-3 for value in mean):
        raise file.refusal(f"{MEAN} is a colour of 8 bits, {mean}, so padding cannot be known")
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
