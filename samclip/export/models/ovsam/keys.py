"""The published names of Open-Vocabulary SAM's tensors, and the names in `Ovsam`.

Four files make the model; each is known by its prefixes:

- CLIP, as open_clip names it: `visual.*` and the text tower (OpenAI's RN50x16 or RN50, whose own
  files are TorchScript archives, not read here; or LAION's convnext_large_d_320);
- `sam2clip_vith_rn50x16.pth`: `neck_student.*`;
- `clip2sam_coco_rn50x16.pth` or `clip2sam_lvis_rn50x16.pth`: `fpn_neck.*` and `mask_decoder.*`;
- SAM-H: `prompt_encoder.*`.

Where the names come from: `neck_student`, `fpn_neck` and `mask_decoder` are attributes of
`BackboneDistillation` and `CLIP2SAM` in the repository HarborYuan/ovsam, and the prefixes that its
configurations of `seg/configs/ovsam/` load from these files; what is below them are the modules of
`seg/models/necks/transformer_neck.py` and `seg/models/heads/ovsam_head.py`, with `projection` of
mmdet's `PatchEmbed` (`mmdet/models/layers/transformer/utils.py`) and `conv` of mmcv's `ConvModule`
(`mmcv/cnn/bricks/conv_module.py`), which mmdet's `FPN` (`mmdet/models/necks/fpn.py`) consists of.
The sizes of the published files agree: their tensors as float32 are 536 MB and 31.5 MB.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import Rules, StateDict, rename_key, some_keys

SAM2CLIP_RULES: Rules = (
    (r"neck_student\.patch_embeds\.(\d)\.projection\.", r"neck.patch_embeds.\1."),
    (r"neck_student\.", "neck."),
)
CLIP2SAM_RULES: Rules = (
    (r"fpn_neck\.(lateral|fpn)_convs\.(\d)\.conv\.", r"fpn.\1_convs.\2."),
    (r"mask_decoder\.roi_conv\.0\.conv\.", "roi_classifier.conv."),
    (r"mask_decoder\.mask_decoder\.", "mask_decoder."),
    (r"mask_decoder\.label_", "mask_decoder.label_"),
)
SAM_RULES: Rules = ((r"prompt_encoder\.", "prompt_encoder."),)
RESNET_RULES: Rules = (
    (r"visual\.attnpool\.positional_", "clip_roi.pool.positional_"),
    (r"visual\.attnpool\.c_proj\.", "clip_roi.pool.attention.out_proj."),
    (r"visual\.attnpool\.", "clip_roi.pool.attention."),
    (r"visual\.(layer\d\.\d+\.)?conv(\d)\.", r"backbone.\1conv\2.c."),
    (r"visual\.(layer\d\.\d+\.)?bn(\d)\.", r"backbone.\1conv\2.bn."),
    (r"visual\.(layer\d\.\d+)\.downsample\.0\.", r"backbone.\1.downsample.c."),
    (r"visual\.(layer\d\.\d+)\.downsample\.1\.", r"backbone.\1.downsample.bn."),
)
CONVNEXT_RULES: Rules = (
    (r"visual\.trunk\.head\.norm\.", "clip_roi.norm."),
    (r"visual\.head\.mlp\.", "clip_roi.mlp."),
    (r"visual\.trunk\.", "backbone."),
)


def sam2clip_state(state: Mapping[str, Tensor]) -> StateDict:
    """Take the neck out of a `sam2clip_*.pth`, under the names of `Ovsam`.

    Raises CheckpointError when there is none.
    """
    return _renamed(state, SAM2CLIP_RULES, "neck_student.", "sam2clip_vith_rn50x16.pth")


def clip2sam_state(state: Mapping[str, Tensor]) -> StateDict:
    """Take pyramid, classifier and decoder out of a `clip2sam_*.pth`, under the names of `Ovsam`.

    Raises CheckpointError when there are none.
    """
    published = {k: v for k, v in state.items() if k.startswith(("fpn_neck.", "mask_decoder."))}
    return _renamed(published, CLIP2SAM_RULES, "", "clip2sam_coco_rn50x16.pth")


def prompt_encoder_state(state: Mapping[str, Tensor]) -> StateDict:
    """Take the prompt encoder out of a SAM checkpoint, under the names of `Ovsam`.

    It is the same whatever SAM's size; Open-Vocabulary SAM was trained with that of SAM-H. Raises
    CheckpointError when there is none.
    """
    return _renamed(state, SAM_RULES, "prompt_encoder.", "sam_vit_h_4b8939.pth")


def clip_resnet_state(state: Mapping[str, Tensor]) -> StateDict:
    """Take the visual side out of a CLIP ResNet's checkpoint, under the names of `Ovsam`.

    Batch norms count the batches they have seen, which nothing reads; missing counts become 0.
    Raises CheckpointError when there is no visual side.
    """
    renamed = _renamed(state, RESNET_RULES, "visual.", "OpenAI's RN50x16")
    counts = {
        key.replace("running_mean", "num_batches_tracked"): torch.zeros((), dtype=torch.int64)
        for key in renamed
        if key.endswith("running_mean")
    }
    return counts | renamed


def clip_convnext_state(state: Mapping[str, Tensor]) -> StateDict:
    """Take the visual side out of a CLIP ConvNeXt's checkpoint, under the names of `Ovsam`.

    Raises CheckpointError when there is none.
    """
    return _renamed(state, CONVNEXT_RULES, "visual.", "open_clip's convnext_large_d_320")


def _renamed(state: Mapping[str, Tensor], rules: Rules, prefix: str, example: str) -> StateDict:
    """Rename the tensors below `prefix` by the first rule that fits each.

    Raises CheckpointError when there are none, or when no rule fits one of them; `example` is a
    file that has them.
    """
    wanted = [key for key in state if key.startswith(prefix)]
    named = {key: rename_key(key, rules) for key in wanted}
    unknown = [key for key, ours in named.items() if ours is None]
    if unknown or not wanted:
        raise CheckpointError(
            f"expected the tensors of {example}, such as {_sample(rules)}; "
            f"found {some_keys(unknown or state) or 'none'}"
        )
    return {ours: state[key] for key, ours in named.items() if ours is not None}


def _sample(rules: Rules) -> str:
    """Return an example of the first rule's keys."""
    pattern = rules[0][0].replace("\\.", ".").replace("(\\d)", "0")
    return re.sub(r"\(([a-z]+)\|[a-z|]+\)", r"\1", pattern) + "*"
