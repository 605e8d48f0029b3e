from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from samclip.errors import CheckpointError
from samclip.export.checkpoints.recogniser import load_recogniser, recogniser_state
from samclip.export.models.efficientnet_lite import LITE0, EfficientNetLite


@pytest.fixture(scope="module")
def published(recogniser_checkpoint: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(recogniser_checkpoint, weights_only=True)
    return state


def test_every_published_tensor_has_its_place(published: dict[str, Tensor]) -> None:
    ours = recogniser_state(published)
    assert ours.keys() == EfficientNetLite(head=True).state_dict().keys()
    assert len(ours) == len(published)
    assert torch.equal(ours["stem.c.weight"], published["_conv_stem.weight"])
    assert torch.equal(
        ours["blocks.3.depthwise.bn.running_var"], published["_blocks.3._bn1.running_var"]
    )
    assert torch.equal(ours["head.classifier.bias"], published["_fc.bias"])


def test_a_loaded_recogniser_is_ready(published: dict[str, Tensor]) -> None:
    model = load_recogniser(published)
    assert not model.training
    assert torch.equal(model.blocks[1].expand.bn.weight, published["_blocks.1._bn0.weight"])


def test_other_networks_are_refused(published: dict[str, Tensor]) -> None:
    other = {"conv_stem.weight": torch.zeros(1), "blocks.0.0.bn1.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"not an EfficientNet-Lite.*found conv_stem\.weight"):
        recogniser_state(other)
    with pytest.raises(CheckpointError, match="found none"):
        recogniser_state({})
    squeezed = {**published, "_blocks.0._se_reduce.weight": torch.zeros(1)}  # EfficientNet-B2
    with pytest.raises(CheckpointError, match="_se_reduce"):
        recogniser_state(squeezed)


def test_other_scalings_and_halves_are_refused(published: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match="do not fit the EfficientNet-Lite recogniser"):
        load_recogniser(published, LITE0)
    trunk = {key: value for key, value in published.items() if not key.startswith("_fc")}
    with pytest.raises(CheckpointError, match=r"missing: head\.classifier\.bias"):
        load_recogniser(trunk)
