"""Fuzz targets for caches, data sets and training runs; see fuzz_targets.py."""

from __future__ import annotations

import atexit
import hashlib
import io
import json
import shutil
import tarfile
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from PIL import Image
from tiny_bundle import WEIGHTS_FILE, affine_model

from samclip.cli.arguments import read_names
from samclip.engines.base import GraphSource
from samclip.engines.external_data import external_fault
from samclip.engines.openvino.cache import BlobDamagedError, map_blob, write_blob
from samclip.errors import InputWarning
from samclip.runtime.bundles.weights import parse_weights

KEY = "a" * 64
BLOB = bytes(range(256)) * 4
PHOTO = "photo.png"


@cache
def folder() -> Path:
    """A folder for the files of this process."""
    made = Path(tempfile.mkdtemp(prefix="samclip-fuzz-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def place(name: str) -> Path:
    """A file of this process, in a folder that exists."""
    path = folder() / name
    path.parent.mkdir(exist_ok=True)
    return path


@cache
def blob_files() -> tuple[Path, Path, bytes]:
    """A compiled model of OpenVINO's cache: its blob, its sidecar, and the sidecar's content."""
    home = folder() / "blobs"
    home.mkdir()
    write_blob(home, KEY, lambda stream: stream.write(BLOB))
    (blob,), (sidecar,) = home.glob("*.blob"), home.glob("*.json")
    return blob, sidecar, sidecar.read_bytes()


def compiled_blob(data: bytes) -> None:
    """A compiled model with a sound sidecar."""
    blob, sidecar, sound = blob_files()
    blob.write_bytes(data)
    sidecar.write_bytes(sound)
    _map_blob()


def compiled_sidecar(data: bytes) -> None:
    """A sidecar with a sound compiled model."""
    blob, sidecar, _ = blob_files()
    blob.write_bytes(BLOB)
    sidecar.write_bytes(data)
    _map_blob()


def _map_blob() -> None:
    """Check that the model is absent, reported as damaged, or the one that was written."""
    try:
        found = map_blob(folder() / "blobs", KEY)
    except BlobDamagedError as error:
        if not str(error):
            raise AssertionError("a damaged blob was refused without a message") from error
        return
    if found is not None:
        content = found[:]
        found.close()
        if content != BLOB:
            raise AssertionError(f"other {len(content)} bytes were mapped")


@cache
def affine_source() -> GraphSource:
    onnx, data = affine_model()
    return GraphSource("affine", onnx, parse_weights(data), {WEIGHTS_FILE: data})


def external_tensors(data: bytes) -> None:
    """A graph with sound weights; backends turn the ValueError into their own errors."""
    source = replace(affine_source(), onnx=data)
    for by_name in (False, True):
        try:
            external_fault(source, by_name)
        except ValueError:
            continue


def names(data: bytes) -> None:
    path = place("names.txt")
    path.write_bytes(data)
    with warnings.catch_warnings():  # about lists in another form
        warnings.simplefilter("ignore", InputWarning)
        found = read_names(None, path)
    if not found or not all(name.strip() for name in found):
        raise AssertionError(f"{found} are not names")


def coco(data: bytes) -> None:
    """Annotations of one photo in COCO's layout."""
    from samclip.benchmarks.data.coco import read_coco

    annotations, photo = place("coco/annotations.json"), place(f"coco/{PHOTO}")
    annotations.write_bytes(data)
    if not photo.exists():
        photo.write_bytes(_photo())
    read_coco(annotations.parent, annotations)


def report(data: bytes) -> None:
    """A report of `samclip-bench --json`."""
    from samclip.benchmarks.report import read_report

    path = place("report.json")
    path.write_bytes(data)
    read_report(path)


def calibration(data: bytes) -> None:
    """A cached calibration with a digest that fits."""
    from samclip.export.precision.calibration import read_calibration

    path = place("calibration.json")
    path.write_bytes(hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
    read_calibration(path)


def training_state(data: bytes) -> None:
    """The state that a training run continues from."""
    from samclip.merge.training.state import StateFolder

    state = StateFolder(folder() / "run")
    state.file.parent.mkdir(parents=True, exist_ok=True)
    state.file.write_bytes(data)
    state.read(None)


def evaluations(data: bytes) -> None:
    """The evaluations of a training run."""
    from samclip.merge.training.evaluation import read_records

    path = place("evaluations.json")
    path.write_bytes(data)
    read_records(path)


def shard(data: bytes) -> None:
    """A tar file of training photos; the list of its members is made again each time."""
    from samclip.merge.data.shards import shard_index

    path = place("shards/0.tar")
    path.write_bytes(data)
    for other in path.parent.iterdir():
        if other != path:
            other.unlink()
    shard_index(path)


TARGETS: dict[str, Callable[[bytes], None]] = {
    function.__name__: function
    for function in (
        compiled_blob, compiled_sidecar, external_tensors, names, coco, report, calibration,
        training_state, evaluations, shard,
    )
}  # fmt: skip


def _photo() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4)).save(stream, "PNG")
    return stream.getvalue()


def _coco() -> list[bytes]:
    image = {"id": 1, "file_name": PHOTO, "height": 4, "width": 6}
    polygon = {"segmentation": [[0, 0, 3, 0, 3, 3, 0, 3]], "bbox": [0, 0, 3, 3], "iscrowd": 0}
    runs = {"segmentation": {"size": [4, 6], "counts": [4, 8, 12]}, "bbox": [1, 0, 2, 4]}
    packed = {"segmentation": {"size": [4, 6], "counts": "48<"}, "bbox": [1, 0, 2, 4]}
    found = []
    for outline in (polygon, {**runs, "iscrowd": 1}, {**packed, "iscrowd": 0}):
        one = {"id": 1, "image_id": 1, "category_id": 7, "area": 9.0, **outline}
        two = {"id": 2, "image_id": 1, "category_id": 7, "area": 9.0, **polygon}
        categories = [{"id": 7, "name": "cup"}]
        content = {"images": [image], "annotations": [one, two], "categories": categories}
        found.append(json.dumps(content).encode())
    return found


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in ("a.png", "folder/b.png"):
            info = tarfile.TarInfo(name)
            info.size = len(_photo())
            tar.addfile(info, io.BytesIO(_photo()))
    return stream.getvalue()


def _state() -> bytes:
    from safetensors.torch import save
    from torch import ones

    from samclip.merge.training.state import STATE_KEY

    place = {"digest": "0" * 64, "stage": 0, "step": 3}
    return save({"model/a": ones(2), "optimiser/a": ones(2)}, {STATE_KEY: json.dumps(place)})


def _evaluations() -> bytes:
    names = ("score", "mask_iou", "box_iou", "point_iou", "region_names", "image_names")
    record = dict.fromkeys(names, 0.5) | {"image_names_top5": 1, "photos": 3, "regions": 9}
    return json.dumps([{"stage": "merge", "step": None, "future": [[{}]], **record}]).encode()


def _report() -> bytes:
    counts = {"logical_cores": 2, "usable_cores": 2, "memory": 8, "jetson": None, "gpus": []}
    machine = {"cpu": "x", "system": "Linux", "machine": "x", "python": "3", "packages": {}}
    threads = {"asked": None, "engine": 2, "opencv": 2, "torch": 2, "environment": {}}
    report = {
        "benchmark": "instances", "command": "samclip-bench", "date": "2026-11-21", "seconds": 1.5,
        "samclip": "0", "machine": machine | counts, "threads": threads | {"load": [0.5, 1, 2]},
        "subjects": [{"name": "a bundle", "role": "bundle"}], "protocol": ["as COCO has it"],
        "data": {"path": "d", "layout": "COCO", "photos": 1, "photos_there": 2}, "rows": [],
    }  # fmt: skip
    return json.dumps(report).encode()


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "compiled_blob": lambda: [BLOB],
    "compiled_sidecar": lambda: [blob_files()[2]],
    "external_tensors": lambda: [affine_model()[0]],
    "names": lambda: ["a car\nein Fuß\r\n\n  bus ".encode(), b"\xef\xbb\xbfone"],
    "coco": _coco,
    "report": lambda: [_report()],
    "calibration": lambda: [
        b'{"method": "minmax", "photos": 2, "inputs": {"a": {"low": -1.0, "high": 2e3}}, '
        b'"outputs": {}}'
    ],
    "training_state": lambda: [_state()],
    "evaluations": lambda: [_evaluations()],
    "shard": lambda: [_tar()],
}
