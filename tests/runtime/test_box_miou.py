"""Box prompts on real photos: masks of a bundle against the original MobileSAM's.

Both get the same boxes, so the difference of their mIoU against ANY ground truth is bounded
without one: 1 - IoU is a metric (the Jaccard distance), so two masks whose IoU is q differ by at
most 1 - q in their IoU with a third.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from reference_mask_generator import load_generator
from reference_mobile_sam import reference_mobile_sam

import samclip
from samclip.runtime.assets import packaged_photos

BOXES = {  # XYXY around objects, drawn by hand
    "astronaut": {
        "person": (22, 15, 365, 510),
        "face": (176, 62, 262, 190),
        "patch": (133, 347, 210, 424),
        "helmet": (282, 342, 508, 511),
        "shuttle": (352, 1, 464, 285),
    },
    "chelsea": {
        "left eye": (134, 85, 205, 148),
        "right eye": (296, 106, 344, 164),
        "nose": (228, 220, 290, 267),
    },
    "coffee": {
        "cup": (172, 17, 410, 308),
        "spoon": (326, 65, 425, 328),
        "saucer": (77, 65, 480, 388),
    },
    "rocket": {
        "rocket": (306, 126, 338, 408),
        "mast": (438, 122, 470, 427),
    },
}


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_miou_differs_by_less_than_two_thousandths(
    mobile_sam_bundle: Path, mobile_sam_checkpoint: Path, mobile_sam_reference: Path
) -> None:
    sam = reference_mobile_sam(mobile_sam_reference, mobile_sam_checkpoint)
    original = load_generator(mobile_sam_reference).SamPredictor(sam)
    found: dict[str, float] = {}
    with samclip.load(mobile_sam_bundle, "onnxruntime", threads=2) as model:
        for name, boxes in BOXES.items():
            photo = np.asarray(Image.open(packaged_photos() / f"{name}.jpg").convert("RGB"))
            ours = model.encode(photo).segment(boxes=list(boxes.values()))
            original.set_image(photo)
            for mask, (thing, box) in zip(ours.masks, boxes.items(), strict=True):
                theirs = original.predict(box=np.array(box), multimask_output=False)[0][0]
                assert theirs.sum() > 100
                found[f"{name}: {thing}"] = iou(mask, theirs)
    assert min(found.values()) >= 0.998, found
    assert np.mean(list(found.values())) >= 0.999, found
