"""A detector's boxes become masks, and each mask gets a name of an open vocabulary.

    python examples/detector_boxes.py photos/ detections.json --names "mug,glass" --output masks/

`detections.json` has the fields of COCO's results, with file names in place of ids:
`[{"file_name": "a.jpg", "bbox": [x, y, width, height], "score": 0.9}, ...]`. A photo is encoded
once, however many boxes it has.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import samclip


def read_boxes(path: Path, least: float) -> dict[str, list[list[float]]]:
    """Read boxes XYXY by file name; those with a lower score are left out."""
    found: dict[str, list[list[float]]] = defaultdict(list)
    for entry in json.loads(path.read_text("utf-8")):
        x, y, width, height = entry["bbox"]  # XYWH
        if entry.get("score", 1.0) >= least:
            found[entry["file_name"]].append([x, y, x + width, y + height])
    return dict(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Segment all boxes, and write a PNG for each mask."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("detections", type=Path)
    parser.add_argument("--names", required=True)
    parser.add_argument("--score", type=float, default=0.25, help="the least score of a box")
    parser.add_argument("--bundle", default=None)
    parser.add_argument("--output", type=Path, default=Path("masks"))
    options = parser.parse_args(arguments)
    boxes = read_boxes(options.detections, options.score)
    options.output.mkdir(exist_ok=True)

    with samclip.load(options.bundle) as model:
        vocabulary = model.vocabulary(options.names.split(","))
        for name, found in boxes.items():
            with model.encode(options.photos / name) as scene:
                masks = scene.segment(boxes=found, names=vocabulary)
            masks.save_masks(options.output, Path(name).stem)
            print(f"{name}: {len(masks)} masks, {', '.join(masks.names or ())}")


if __name__ == "__main__":
    main()
