"""The tensors of an Open-Vocabulary SAM under the names of the files it is published in."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

NAMES = (
    (r"backbone\.(.*)downsample\.c\.", r"visual.\1downsample.0."),
    (r"backbone\.(.*)downsample\.bn\.", r"visual.\1downsample.1."),
    (r"backbone\.(.*)conv(\d)\.c\.", r"visual.\1conv\2."),
    (r"backbone\.(.*)conv(\d)\.bn\.", r"visual.\1bn\2."),
    (r"clip_roi\.pool\.attention\.out_proj\.", "visual.attnpool.c_proj."),
    (r"clip_roi\.pool\.attention\.", "visual.attnpool."),
    (r"clip_roi\.pool\.", "visual.attnpool."),
    (r"backbone\.", "visual.trunk."),  # what is left of them is a ConvNeXt's
    (r"clip_roi\.norm\.", "visual.trunk.head.norm."),
    (r"clip_roi\.mlp\.", "visual.head.mlp."),
    (r"neck\.patch_embeds\.(\d)\.", r"neck_student.patch_embeds.\1.projection."),
    (r"neck\.", "neck_student."),
    (r"fpn\.(.*)_convs\.(\d)\.", r"fpn_neck.\1_convs.\2.conv."),
    (r"roi_classifier\.conv\.", "mask_decoder.roi_conv.0.conv."),
    (r"mask_decoder\.label_", "mask_decoder.label_"),
    (r"mask_decoder\.", "mask_decoder.mask_decoder."),
    (r"text\.", ""),
)


def published_name(key: str) -> str:
    """Our name of a tensor to its published one."""
    for pattern, replacement in NAMES:
        if re.match(pattern, key):
            return re.sub(pattern, replacement, key, count=1)
    return key


def published_files(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Sort tensors into `clip`, `sam2clip` and `clip2sam`; SAM's prompt encoder is left out."""
    files: dict[str, dict[str, Tensor]] = {"clip": {}, "sam2clip": {}, "clip2sam": {}}
    for key, value in state.items():
        part = key.partition(".")[0]
        if part == "prompt_encoder":
            continue
        kind = {"neck": "sam2clip", "backbone": "clip", "clip_roi": "clip", "text": "clip"}
        files[kind.get(part, "clip2sam")][published_name(key)] = value.clone()
    return files
