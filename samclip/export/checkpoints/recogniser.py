"""Published EfficientNet-Lite weights, renamed for our recogniser.

Their keys are those of another PyTorch port, whose layers have other names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import StateDict, fit_state, some_keys
from samclip.export.models.efficientnet_lite import LITE2, EfficientNetLite, EfficientNetLiteConfig

BLOCK_NAMES = {
    "_expand_conv": "expand.c",
    "_bn0": "expand.bn",
    "_depthwise_conv": "depthwise.c",
    "_bn1": "depthwise.bn",
    "_project_conv": "project.c",
    "_bn2": "project.bn",
}
OUTER_NAMES = {
    "_conv_stem": "stem.c",
    "_bn0": "stem.bn",
    "_conv_head": "head.conv.c",
    "_bn1": "head.conv.bn",
    "_fc": "head.classifier",
}
KEY = re.compile(r"(?:_blocks\.(?P<block>\d+)\.)?(?P<layer>_\w+?)\.(?P<tensor>\w+)")


def recogniser_state(state: Mapping[str, Tensor]) -> StateDict:
    """Rename the tensors of a published EfficientNet-Lite to those of `EfficientNetLite`.

    Keys such as `_conv_stem.weight` and `_blocks.3._bn1.running_mean` are known. Raises
    CheckpointError for any other.
    """
    renamed = {key: _rename(key) for key in state}
    unknown = [key for key, ours in renamed.items() if ours is None]
    if unknown or not state:
        raise CheckpointError(
            "this is not an EfficientNet-Lite checkpoint: expected keys such as "
            f"_conv_stem.weight and _blocks.0._bn1.weight, found {some_keys(unknown) or 'none'}; "
            "give the weights of the packaged checkpoint efficientnet_lite2"
        )
    return {ours: state[key] for key, ours in renamed.items() if ours is not None}


def load_recogniser(
    state: Mapping[str, Tensor], config: EfficientNetLiteConfig = LITE2
) -> EfficientNetLite:
    """Build a recogniser with its classifier, in eval mode, from a published checkpoint's tensors.

    Raises CheckpointError when they belong to another network or another scaling.
    """
    model = EfficientNetLite(config, head=True)
    fit_state(model, recogniser_state(state), "EfficientNet-Lite recogniser")
    return model.eval()


def _rename(key: str) -> str | None:
    """Return our name for a published tensor; None for an unknown one."""
    match = KEY.fullmatch(key)
    if match is None:
        return None
    block, layer, tensor = match["block"], match["layer"], match["tensor"]
    if block is None:
        name = OUTER_NAMES.get(layer)
    else:
        name = BLOCK_NAMES.get(layer)
        name = None if name is None else f"blocks.{block}.{name}"
    return None if name is None else f"{name}.{tensor}"
