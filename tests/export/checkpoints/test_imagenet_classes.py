from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from samclip.export.checkpoints.imagenet_classes import imagenet_classes, imagenet_names
from samclip.export.checkpoints.recogniser import load_recogniser
from samclip.export.models.efficientnet_lite import CLASSES, RECOGNISER_MEAN, RECOGNISER_STD


def test_the_order_is_that_of_the_identifiers() -> None:
    classes = imagenet_classes()
    assert len(classes) == CLASSES
    assert all(re.fullmatch(r"n\d{8}", entry.wnid) for entry in classes)
    assert [c.wnid for c in classes] == sorted({c.wnid for c in classes})
    assert (classes[0].name, classes[281].name, classes[999].name) == (
        "tench",
        "tabby cat",
        "toilet paper",
    )


def test_every_name_is_another() -> None:
    names = imagenet_names()
    assert len({name.lower() for name in names}) == CLASSES
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z' -]*[A-Za-z]", name) for name in names)


@pytest.mark.parametrize(
    ("wnid", "name"),
    [
        ("n02012849", "crane bird"),
        ("n03126707", "construction crane"),
        ("n02113186", "Cardigan Welsh corgi"),
        ("n02963159", "person wearing a cardigan sweater"),
        ("n03710637", "person wearing a maillot swimsuit"),
        ("n03710721", "person wearing a one-piece swimsuit"),
    ],
)
def test_names_that_two_classes_share_are_told_apart(wnid: str, name: str) -> None:
    assert {entry.wnid: entry.name for entry in imagenet_classes()}[wnid] == name


@torch.inference_mode()
def test_the_recogniser_means_these_names(
    recogniser_checkpoint: Path, photo: NDArray[np.uint8]
) -> None:
    """A shifted list would name other things: the best five for a cup of coffee hold the cup."""
    model = load_recogniser(torch.load(recogniser_checkpoint, weights_only=True))
    pixels = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float()
    square = F.interpolate(pixels, (260, 260), mode="bicubic", antialias=True)
    logits = model.classify((square - RECOGNISER_MEAN[0]) / RECOGNISER_STD[0])[0]
    found = [imagenet_names()[index] for index in logits.topk(5).indices]
    assert "cup" in found
    assert {"espresso", "coffee mug"} & {*found}
