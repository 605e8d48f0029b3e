"""Folders of label maps for configs/samclip_tiny_taught.toml: of a street teacher, and of boxes.

A source of kind "maps" reads images/, labels/ and classes.json; both commands write such a folder.

`python -m tools.label_maps streets configs/samclip_tiny_streets.txt --photos data --teacher
TEACHER.tflite --output data/street-teacher` asks a TFLite network for a class at every pixel of the
listed photos. The teacher is a DeepLab whose classes are Cityscapes' 19. Its answers are of use on
street photos alone, so they are listed by name. It needs `pip install ai-edge-litert`.

`python -m tools.label_maps boxes configs/samclip_tiny_boxes.json --photos data --output
data/hand-drawn` paints named boxes, drawn by hand, larger ones first; the rest has no label.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samclip.cli.terminal import out, say
from samclip.errors import InputError
from samclip.runtime.pixels.image import load_image

NONE = 255  # the value of pixels without a label
# Cityscapes' train ids, in order.
STREETS = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train"),
    *("motorcycle", "bicycle"),
)

Values = NDArray[np.uint8]
Teacher = Callable[[Values], Values]  # HxWx3 RGB -> hxw
Box = tuple[str, float, float, float, float]  # name, XYXY as parts of the photo's sides


def load_teacher(path: Path) -> Teacher:
    """Load a TFLite network, 1xSxSx3 uint8 RGB -> 1xSxS class indices, for photos of any size."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 - nothing else needs it

    network = Interpreter(str(path), num_threads=1)
    network.allocate_tensors()
    [taken], [given] = network.get_input_details(), network.get_output_details()
    _, height, width, _ = taken["shape"]

    def label(photo: Values) -> Values:
        fitted = Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR)
        network.set_tensor(taken["index"], np.asarray(fitted)[None])
        network.invoke()
        return np.asarray(network.get_tensor(given["index"])[0], np.uint8)

    return label


def draw_streets(teacher: Teacher, photos: Sequence[Path], output: Path) -> None:
    """Write photos and the teacher's labels to the new folder `output`.

    Raises ImageError, and InputError for photos of the same name and for values of no class.
    """
    maps: list[Values] = []
    for photo in photos:
        pixels = load_image(photo)
        drawn = teacher(pixels)
        if drawn.max() >= len(STREETS):
            raise InputError(
                f"the teacher answered class {drawn.max()} for {photo}; expected values below "
                f"{len(STREETS)}, those of Cityscapes' train ids. Give a teacher of that kind."
            )
        height, width, _ = pixels.shape
        resized = Image.fromarray(drawn).resize((width, height), Image.Resampling.NEAREST)
        maps.append(np.asarray(resized))
    write_maps(photos, maps, STREETS, output)


def draw_boxes(boxes: dict[str, list[Box]], photos: Path, output: Path) -> None:
    """Write photos below `photos`, by their paths, and their painted boxes to the new `output`."""
    names = sorted({box[0] for drawn in boxes.values() for box in drawn})
    paths = [photos / path for path in boxes]
    maps = [
        _paint(load_image(path), boxes[place], names)
        for path, place in zip(paths, boxes, strict=True)
    ]
    write_maps(paths, maps, names, output)


def _paint(pixels: Values, boxes: Sequence[Box], names: Sequence[str]) -> Values:
    height, width, _ = pixels.shape
    painted = np.full((height, width), NONE, np.uint8)
    for name, *ends in sorted(boxes, key=lambda box: -(box[3] - box[1]) * (box[4] - box[2])):
        x0, y0, x1, y1 = (
            round(end * side) for end, side in zip(ends, (width, height) * 2, strict=True)
        )
        painted[y0:y1, x0:x1] = names.index(name)
    return painted


def write_maps(
    photos: Sequence[Path], maps: Sequence[Values], names: Sequence[str], output: Path
) -> None:
    """Write a folder of kind "maps": HxW values below K `names`, or NONE. InputError for twins."""
    if len({photo.stem for photo in photos}) < len(photos):
        raise InputError("two of the photos have the same name; leave one of them out")
    images, labels = output / "images", output / "labels"
    for folder in (images, labels):
        folder.mkdir(parents=True)
    for photo, drawn in zip(photos, maps, strict=True):
        Image.fromarray(drawn).save(labels / f"{photo.stem}.png")
        shutil.copyfile(photo, images / photo.name)
    (output / "classes.json").write_text(json.dumps(dict(enumerate(names)), indent=1) + "\n")
    say(out, f"{len(photos)} label maps in {output}")


def read_list(file: Path) -> list[str]:
    """Read paths, one a line; lines with # in front are comments."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def read_boxes(file: Path) -> dict[str, list[Box]]:
    """Read boxes by the path of their photo; InputError for other content."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, list[Box]])
    except msgspec.MsgspecError as error:
        raise InputError(
            f"{file} holds no boxes: {error}. Expected path: [[name, x0, y0, x1, y1], ...]"
        ) from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Write label maps, by the arguments of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=("streets", "boxes"))
    parser.add_argument("file", type=Path, help="the list of street photos, or the boxes")
    parser.add_argument("--photos", type=Path, required=True, help="what the file's paths are in")
    parser.add_argument("--output", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--teacher", type=Path, help="the TFLite file, for streets")
    given = parser.parse_args(arguments)
    if given.kind == "boxes":
        draw_boxes(read_boxes(given.file), given.photos, given.output)
    elif given.teacher is None:
        parser.error("streets are drawn by a teacher; give --teacher FILE")
    else:
        photos = [given.photos / path for path in read_list(given.file)]
        draw_streets(load_teacher(given.teacher), photos, given.output)


if __name__ == "__main__":
    main()
