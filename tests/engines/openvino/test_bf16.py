"""samclip-tiny in BF16 on processors that are made for it: judged here, and close to FP32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import samclip
from samclip.engines.agreement import mask_iou
from samclip.engines.openvino.backend import OPENVINO
from samclip.runtime.assets import packaged_photos

pytest.importorskip("openvino")

NAMES = ["cat", "person", "rocket", "cup", "plate", "table", "wall", "sky"]
# The targets of docs/evidence/cpu.md.
LEAST_MASK_IOU, LEAST_SAME_LABELS = 0.995, 0.99


@pytest.mark.slow
def test_masks_and_label_maps_are_those_of_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path))
    probe = OPENVINO.probe_precision("bf16")
    if not probe.available:
        pytest.skip(f"this processor is not made for BF16: {probe.detail}")
    ious, same = [], []
    with (
        samclip.load(backend="openvino") as full,
        samclip.load(backend="openvino", engine_precision="bf16") as reduced,
    ):
        assert (full.engine_precision, reduced.engine_precision) == ("fp32", "bf16")
        reduced.prepare()
        for photo in sorted(packaged_photos().glob("*.jpg")):
            with full.encode(photo) as one, reduced.encode(photo) as other:
                height, width = one.size
                box = [(width / 4, height / 4, width * 3 / 4, height * 3 / 4)]
                masks = [scene.segment(boxes=box).masks for scene in (one, other)]
                ious += [mask_iou(a, b) for a, b in zip(*masks, strict=True)]
                maps = [scene.semantic(NAMES, refine=False).labels for scene in (one, other)]
                same.append(float(np.mean(maps[0] == maps[1])))
    assert np.mean(ious) >= LEAST_MASK_IOU
    assert np.mean(same) >= LEAST_SAME_LABELS
