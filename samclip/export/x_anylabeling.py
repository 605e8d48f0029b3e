"""The pair of ONNX files and the YAML by which X-AnyLabeling runs a model with its own SAM class.

Its contract, read from version 4.2.1: the encoder takes one picture, HxWx3 float32 RGB in [0, 255],
which the program has fitted into 684x1024, black where nothing is, and its first output is the
embedding. The decoder takes SAM's six inputs by their official names, coordinates in pixels of that
picture, one padding point always, and `orig_im_size` as float32; its first output is the masks, of
which the first one is drawn where it is above 0. Both are made from a bundle's graphs by nodes in
front of and behind them, so nothing is traced again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from samclip.disk.directory_swap import partial_directory, put_in_place
from samclip.engines.agreement import mask_iou
from samclip.engines.steps import ChangeSettings
from samclip.errors import ExportError, ParityError
from samclip.export.official_sam import LONGEST, MASK_GRID, make_pair
from samclip.json_text import to_json
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.loading import load
from samclip.runtime.pixels.image import load_image

PICTURE = (684, 1024)  # (h, w), of that picture
LEAST_IOU = 0.95  # of a mask with the runtime's own, over photos and prompts
MOST_BYTES = 1_900_000_000  # in one file; beyond, weights are in a file next to it
ENDINGS = (".encoder.onnx", ".decoder.onnx", ".yaml", ".onnx.data")


@dataclass(frozen=True)
class AnnotatorPair:
    """What was written: the folder, its files, and the least IoU with the runtime's masks."""

    path: Path
    files: tuple[str, ...]
    agreement: float | None


def write_pair(
    bundle: Bundle, output: Path, name: str, photos: Sequence[Path], overwrite: bool = False
) -> AnnotatorPair:
    """Write encoder, decoder and YAML of a bundle into the folder `output`, whole or not at all.

    `photos`: the pair is run on each as the program runs it, none for no check. Raises ExportError
    for a bundle whose graphs do not fit or a place that is taken, ParityError where its masks are
    not those of the runtime.
    """
    check_place(output, overwrite)
    encoder, decoder = make_pair(bundle)
    text = describe(name)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with partial_directory(output) as partial:
            places = [partial / f"{name}.{part}.onnx" for part in ("encoder", "decoder")]
            for model, place in zip((encoder, decoder), places, strict=True):
                save(model, place)
            (partial / f"{name}.yaml").write_text(text, "utf-8")
            agreement = check_pair(bundle, places[0], places[1], photos) if photos else None
            files = tuple(sorted(each.name for each in partial.iterdir()))
            put_in_place(partial, output, overwrite)
    except OSError as error:
        raise ExportError(f"{output} could not be written: {error}. Choose another one.") from error
    return AnnotatorPair(output, files, agreement)


def check_place(output: Path, overwrite: bool) -> None:
    """Raise ExportError for a place that is taken by anything but a pair to overwrite."""
    if not os.path.lexists(output):
        return
    names = [each.name for each in output.iterdir()] if output.is_dir() else [""]
    if not names or (overwrite and all(each.endswith(ENDINGS) for each in names)):
        return
    raise ExportError(
        f"{output} exists already, and is not replaced. Choose another place, or overwrite a "
        "folder that has such a pair and nothing else.",
        steps=(ChangeSettings(("overwrite",)),),
    )


def describe(name: str) -> str:
    """Return the YAML; paths are relative to it. JSON's strings are YAML's."""
    fields = {
        "type": "segment_anything",
        "name": name,
        "display_name": f"{name} (samclip)",
        "encoder_model_path": f"{name}.encoder.onnx",
        "decoder_model_path": f"{name}.decoder.onnx",
        "input_size": LONGEST,
        "max_width": LONGEST,
        "max_height": 682,  # as all its files have it; its SAM class reads it and makes 684
    }
    return "".join(f"{key}: {to_json(value).strip()}\n" for key, value in fields.items())


def save(model: ir.Model, place: Path) -> None:
    """Write a model as one file, or where that would be too large with a file of weights."""
    total = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    external = f"{place.name}.data" if total > MOST_BYTES else None
    ir.save(model, place, external_data=external)


def fit_picture(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a photo HxWx3 as the program fits it into `PICTURE`."""
    height, width = pixels.shape[:2]
    factor = min(PICTURE[0] / height, PICTURE[1] / width)
    matrix = np.asarray([[factor, 0, 0], [0, factor, 0]], np.float64)
    return np.asarray(cv2.warpAffine(pixels, matrix, PICTURE[::-1]), np.uint8)


def check_pair(bundle: Bundle, encoder: Path, decoder: Path, photos: Sequence[Path]) -> float:
    """Return the least IoU of the pair's masks with the runtime's, on photos.

    Prompts are a point, of which the best of three masks counts, two points, and a box. Raises
    ParityError below `LEAST_IOU`.
    """
    import onnxruntime  # noqa: PLC0415 - as the program loads them

    sessions = [
        onnxruntime.InferenceSession(str(place), providers=["CPUExecutionProvider"])
        for place in (encoder, decoder)
    ]
    least = 1.0
    with load(bundle.path, "onnxruntime") as model:
        for photo in photos:
            picture = fit_picture(load_image(photo))
            (embeddings,) = sessions[0].run(None, {"picture": picture.astype(np.float32)})
            height, width = PICTURE
            middle = [width / 2, height / 2]
            corner, other = [width / 4, height / 4], [width * 3 / 4, height * 3 / 4]
            prompts = (
                ([middle], [1.0]),
                ([middle, corner], [1.0, 1.0]),
                ([corner, other], [2.0, 3.0]),
            )
            with model.encode(picture) as scene:
                three = scene.segment(points=[middle], multimask=True)
                wanted = (
                    three[int(np.argmax(three.scores))],
                    scene.segment(points=[middle, corner]),
                    scene.segment(boxes=[[*corner, *other]]),
                )
            for masks, (points, labels) in zip(wanted, prompts, strict=True):
                feeds = decoder_inputs(embeddings, points, labels)
                found = sessions[1].run(None, feeds)[0][0, 0]
                iou = mask_iou(found > 0, masks.masks[0])
                least = min(least, iou)
                if iou < LEAST_IOU:
                    raise ParityError(
                        f"on {photo.name} a mask of the pair for X-AnyLabeling has an IoU of "
                        f"{iou:.3f} with the bundle's, and {LEAST_IOU} is asked for. Report this, "
                        "with the checkpoint's name."
                    )
    return least


def decoder_inputs(
    embeddings: NDArray[np.float32], points: Sequence[Sequence[float]], labels: Sequence[float]
) -> dict[str, NDArray[np.float32]]:
    """Return the decoder's inputs for one prompt of points in `PICTURE`, as the program gives."""
    return {
        "image_embeddings": embeddings,
        "point_coords": np.asarray([[*points, [0.0, 0.0]]], np.float32),
        "point_labels": np.asarray([[*labels, -1.0]], np.float32),
        "mask_input": np.zeros((1, 1, MASK_GRID, MASK_GRID), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
        "orig_im_size": np.asarray(PICTURE, np.float32),
    }
