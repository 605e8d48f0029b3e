"""AP of masks from a detector's boxes, as SAM and the models distilled from it report it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from samclip.benchmarks.accuracy.average_precision import Find, average_precision, precision_rows
from samclip.benchmarks.accuracy.instances import AGAIN, BOX, PROMPTS_AT_ONCE
from samclip.benchmarks.data.coco import Categories, CocoPhoto
from samclip.benchmarks.data.detector_boxes import DetectedBox, Detections
from samclip.benchmarks.records import Row
from samclip.benchmarks.scores import Candidate
from samclip.progress import SILENT, Progress, track
from samclip.runtime.pixels.mask_ops import encode_rle
from samclip.runtime.results.masks import Masks
from samclip.runtime.scene import Scene

PROTOCOL = (
    "box: each of the detector's boxes is a prompt, the decoder's single-mask output the answer, "
    "with the detector's category and score.",
    "box again: one refinement: the box once more, with the low-resolution logits of its first "
    "answer as mask prompt.",
    "AP: pycocotools' mask AP over IoU 0.50 to 0.95 and categories, over all photos, those without "
    "objects too; crowds are ignored; at most 100 finds a photo and category. Sizes by the areas "
    "that the annotations state.",
    "LVIS: at most 300 finds a photo; finds of categories that were not looked for in a photo do "
    "not count, nor do unmatched ones of categories that are not annotated in full there (Gupta "
    "et al. 2019).",
    "AP has no interval.",
)


def evaluate_detections(
    candidates: Sequence[Candidate],
    photos: Sequence[CocoPhoto],
    categories: Categories,
    detections: Detections,
    *,
    refine: bool = True,
    progress: Progress = SILENT,
) -> list[Row]:
    """Turn a detector's boxes into masks by all `candidates`, in turn, and compare their AP.

    `refine`: also after one refinement. Raises ImageError, InputError, EngineRunError.
    """
    finds: dict[tuple[str, str], list[Find]] = defaultdict(list)
    for number, photo in enumerate(track(progress, photos, "detections")):
        boxes = detections.of(photo)
        if not boxes:
            continue
        image = photo.pixels()
        for candidate in candidates:
            with candidate.model.encode(image) as scene:
                for kind, found, masks in _ask(scene, boxes, refine):
                    finds[candidate.name, f"{kind} AP"] += [
                        Find(number, box.category, box.score, encode_rle(mask))
                        for box, mask in zip(found, masks.packed, strict=True)
                    ]
    precisions = {
        place: average_precision(photos, categories, found) for place, found in finds.items()
    }
    return list(precision_rows(precisions, len(photos)))


def _ask(
    scene: Scene, boxes: Sequence[DetectedBox], refine: bool
) -> Iterator[tuple[str, Sequence[DetectedBox], Masks]]:
    for start in range(0, len(boxes), PROMPTS_AT_ONCE):
        part = boxes[start : start + PROMPTS_AT_ONCE]
        prompts = [found.box for found in part]
        first = scene.segment(boxes=prompts)
        yield BOX, part, first
        if refine:
            yield AGAIN, part, scene.segment(boxes=prompts, mask=first.low_res_logits)
