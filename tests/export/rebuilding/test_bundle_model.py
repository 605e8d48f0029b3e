"""A bundle as a checkpoint: of every family, as it was stored, and through another export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_ovsam import random_ovsam, small_assembly

import samclip
from samclip.export.exporter import Export, export_bundle
from samclip.export.families.merged_assembly import Assembly, save_merged
from samclip.export.families.ovsam_assembly import save_ovsam
from samclip.export.options import ExportOptions, WeightsDtypes
from samclip.runtime.assets import packaged_bundles, packaged_photos
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.pixels.image import photo_paths

NAMES = ("a cup", "a spoon", "a table", "a cat", "a rocket")
BOXES = [(100.0, 50.0, 500.0, 350.0), (10.0, 20.0, 60.0, 90.0)]


def export(checkpoint: Path, output: Path, **changes: object) -> Export:
    return export_bundle(replace(ExportOptions(checkpoint, output, verify=False), **changes))


def answers(path: Path, photos: Sequence[Path]) -> list[np.ndarray]:
    """Whatever a bundle says of some photos, as arrays; the names' probabilities first."""
    found: list[np.ndarray] = []
    with samclip.load(path, "onnxruntime", precision="fp32") as model:
        vocabulary = model.vocabulary(NAMES)
        found.append(vocabulary.embeddings)
        for photo in photos:
            scene = model.encode(photo)
            masks = scene.segment(boxes=BOXES, names=vocabulary)
            found += [np.asarray(masks.low_res_logits), np.asarray(masks.scores)]
            if Bundle.open(path).manifest.clip_head is not None:
                found.append(np.asarray(scene.classify(vocabulary).probabilities))
    return found


def require_same(first: Path, second: Path, tolerance: float) -> None:
    photos = photo_paths()[2:3]
    for a, b in zip(answers(first, photos), answers(second, photos), strict=True):
        assert np.abs(a - b).max() <= tolerance * np.abs(a).max()


@pytest.mark.filterwarnings("ignore::samclip.errors.UntrainedHeadWarning")
def test_debug(lite2_checkpoint: Path, tmp_path: Path) -> None:
    first = export(
        lite2_checkpoint, tmp_path / "a", weights_dtype=WeightsDtypes("int8"), labels=("cup", "cat")
    )
    second = export(first.path, tmp_path / "b", verify=True)
    print(second.manifest.provenance.sources[0], second.manifest.text)
    require_same(first.path, second.path, 1e-5)
    third = export(second.path, tmp_path / "c")
    for name, entry in second.manifest.files.items():
        print(name, entry.sha256 == third.manifest.files[name].sha256)


@pytest.mark.filterwarnings("ignore::samclip.errors.UntrainedHeadWarning")
def test_debug2(tmp_path: Path) -> None:
    file = save_ovsam(small_assembly(random_ovsam(with_text=True)), tmp_path / "small.safetensors")
    first = export(file, tmp_path / "a")
    second = export(first.path, tmp_path / "b", verify=True)
    require_same(first.path, second.path, 1e-5)


@pytest.mark.filterwarnings("ignore::samclip.errors.UntrainedHeadWarning")
def test_debug3(mobile_sam_bundle, tmp_path: Path) -> None:
    second = export(mobile_sam_bundle, tmp_path / "b", image_size=256)
