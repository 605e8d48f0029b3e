"""Fuzz targets: each takes bytes, and may raise nothing but samclip's own errors.

`test_fuzzing.py` feeds them with hypothesis, `test_fuzzing_native.py` with atheris. Each target
has its file in one folder that is made once, because making a folder costs more than the target.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import fuzz_caches
import numpy as np
from damage import forge_manifest
from fuzz_caches import folder
from tiny_bundle import tiny_files, tiny_manifest, write_tiny_bundle

from samclip.engines.external_data import external_locations
from samclip.engines.plans.sidecar import decode_sidecar
from samclip.errors import SamclipError
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest_file import encode_manifest
from samclip.runtime.bundles.weights import parse_weights
from samclip.runtime.pixels.image import load_image
from samclip.runtime.pixels.prompts import parse_prompts
from samclip.runtime.text.templates import resolve_templates
from samclip.runtime.text.tokenizer import Tokenizer

SMALL_IMAGES = 1_000_000  # pixels: the most that a fuzzer may make the decoders allocate
Target = Callable[[bytes], None]


@cache
def bundle() -> Path:
    return write_tiny_bundle(folder() / "bundle")


def manifest(data: bytes) -> None:
    """Open a bundle that has this manifest, with a digest that fits, and read its graphs."""
    forge_manifest(bundle(), data)
    opened = Bundle.open(bundle())
    for graph in ("encoder", "mask_decoder", "clip_head", "text_encoder"):
        for backend, version in (("onnxruntime", None), ("tensorrt", "10.14.1")):
            try:
                opened.source(graph, backend, version=version)
            except SamclipError:
                continue


def image(data: bytes) -> None:
    with warnings.catch_warnings():  # Pillow's, about metadata
        warnings.simplefilter("ignore")
        pixels = load_image(data, SMALL_IMAGES)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise AssertionError(f"pixels of {pixels.dtype} {pixels.shape}")


def prompts(data: bytes) -> None:
    """Read JSON as the arguments of a prompt."""
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):  # the fuzzer's JSON, not ours
        return
    if isinstance(given, dict):
        check_prompts({key: given.get(key) for key in ("points", "labels", "boxes", "mask")})


def check_prompts(given: dict[str, Any]) -> None:
    """Check that accepted prompts are finite, inside the image and paired."""
    for prompt in parse_prompts((100, 200), 4, **given):
        corners = [] if prompt.box is None else [*prompt.box.reshape(2, 2)]
        for x, y in [*prompt.points, *corners]:
            if not (0 <= x <= 200 and 0 <= y <= 100):
                raise AssertionError(f"({x}, {y}) was accepted")
        if len(prompt.points) != len(prompt.labels):
            raise AssertionError("points and labels do not pair")


def safetensors(data: bytes) -> None:
    """Read weights of a bundle, and the same bytes as a checkpoint."""
    _checkpoint(data, "w.safetensors")
    parse_weights(data)


def torch_checkpoint(data: bytes) -> None:
    _checkpoint(data, "w.pth")


def _checkpoint(data: bytes, name: str) -> None:
    from samclip.export.checkpoints.checkpoint import read_checkpoint

    path = folder() / name
    path.write_bytes(data)
    with warnings.catch_warnings():  # torch's, about pickle protocols in damaged files
        warnings.simplefilter("ignore")
        try:
            read_checkpoint(path)
        except SamclipError:
            return


def config(data: bytes) -> None:
    from samclip.merge.config.run import read_config

    path = folder() / "run.toml"
    path.write_bytes(data)
    read_config(path)


def sidecar(data: bytes) -> None:
    decode_sidecar(data, "x.plan.json")


def onnx_locations(data: bytes) -> None:
    """OpenVINO's backend turns the ValueError that this may raise into its own error."""
    try:
        external_locations(data)
    except ValueError:
        return


def tokenizer(data: bytes) -> None:
    Tokenizer.from_bytes(data)


def templates(data: bytes) -> None:
    resolve_templates(data.decode("utf-8", "surrogateescape"))


TARGETS: dict[str, Target] = {
    function.__name__: function
    for function in (
        manifest, image, prompts, safetensors, torch_checkpoint, config, sidecar, onnx_locations,
        tokenizer, templates,
    )
} | fuzz_caches.TARGETS  # fmt: skip


def feed(target: Target, data: bytes) -> None:
    """Run a target; typed errors are expected, anything else is a finding."""
    try:
        target(data)
    except SamclipError as error:
        if not str(error).strip():
            raise AssertionError(f"{type(error).__name__} has no message") from error


@cache
def seeds(name: str) -> tuple[bytes, ...]:
    """Return sound inputs of a target, from which fuzzers start."""
    return tuple(SEEDS[name]())


def _images() -> list[bytes]:
    from io import BytesIO

    from PIL import Image

    found = []
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"):
        stream = BytesIO()
        picture.save(stream, kind)
        found.append(stream.getvalue())
    return found


def _torch_files() -> list[bytes]:
    import torch

    found = []
    for zipped in (True, False):
        path = folder() / "seed.pth"
        state = {"a": torch.arange(6.0), "b": torch.ones(3, 4)}
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
        found.append(path.read_bytes())
    return found


def _manifest() -> bytes:
    whole = write_tiny_bundle(folder() / "seed")
    data = (whole / "manifest.json").read_bytes()
    shutil.rmtree(whole)
    return data


def _sidecar() -> bytes:
    from plan_samples import sample_sidecar

    from samclip.engines.plans.sidecar import encode_sidecar

    return encode_sidecar(sample_sidecar())


def _configs() -> list[bytes]:
    return [path.read_bytes() for path in (Path(__file__).parents[2] / "configs").glob("*.toml")]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "manifest": lambda: [_manifest(), encode_manifest(tiny_manifest())],
    "image": _images,
    "prompts": lambda: [
        b'{"points": [[1, 2], [3.5, 4]], "labels": [1, 0]}',
        b'{"boxes": [[0, 0, 10, 10], [5, 5, 200, 100]], "points": [[[1, 2]], [[3, 4]]]}',
        b'{"mask": [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, -1e9]]}',
        b'{"boxes": []}',
    ],
    "safetensors": lambda: [tiny_files()["weights.safetensors"]],
    "torch_checkpoint": _torch_files,
    "config": _configs,
    "sidecar": lambda: [_sidecar()],
    "onnx_locations": lambda: [tiny_files()["encoder.onnx"], tiny_files()["decoder.onnx"]],
    "tokenizer": lambda: [
        b'{"version": "1.0", "model": {"type": "WordPiece", "vocab": {"[CLS]": 0, "[SEP]": 1,'
        b' "[UNK]": 2}, "unk_token": "[UNK]"}}'
    ],
    "templates": lambda: [b"a photo of a {}.", b"openai", "ein {} \N{WASTEBASKET}".encode()],
} | fuzz_caches.SEEDS
