"""Ranges of a manifest's numbers, texts and lists: what is outside is refused when it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from damage import forge_manifest
from tiny_bundle import write_tiny_bundle

from samclip.errors import ManifestError
from samclip.runtime.bundles.bundle import Bundle

TEXT = {
    "model": "m",
    "space": "0" * 64,
    "embed_dim": 4,
    "logit_scale": 100.0,
    "templates": ["a {}"],
    "context_length": 77,
}
CLIP_HEAD = {"trained": True, "embed_dim": 4, "grid": 4}
PARITY = {
    "graph": "encoder", "variant": "bias", "output": "o", "image": "i",
    "max_abs_error": 0.1, "max_rel_error": 0.1, "tolerance": 0.1,
}  # fmt: skip


def change(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Return a function that puts `value` at a path such as `text.logit_scale`."""

    def apply(manifest: dict[str, Any]) -> None:
        *folders, last = [int(key) if key.isdecimal() else key for key in path.split(".")]
        place: Any = manifest
        for key in folders:
            place = place[key]
        place[last] = value

    return apply


OUTSIDE = [
    ("text.logit_scale", [1e308, -1.0, 0.0, 1e-320, 1001.0, None, "100"]),
    ("text.embed_dim", [0, -4, 2**14 + 1, 10**18, 4.5]),
    ("text.context_length", [0, 1, 2**14 + 1, -77]),
    ("clip_head.embed_dim", [0, 2**14 + 1, 5]),  # 5: not that of the text
    ("clip_head.grid", [0, 513, -1, 10**9]),
    ("clip_head.image_confidence", [0.0, -1.0, 1e-320, 1001.0, None, "2"]),
    ("preprocessing.std", [[1e-320] * 3, [0.0] * 3, [-1.0] * 3, [1001.0] * 3, [58.0] * 2]),
    ("preprocessing.mean", [[1e308] * 3, [-256.0, 0.0, 0.0], [None] * 3]),
    ("preprocessing.image_size", [0, 63, 1000, 4112, 10**9, -1024]),
    ("graphs.encoder.variants.0.opset", [0, 101, 2**31, -1]),
    ("graphs.encoder.variants.0.backends", [["b"] * 33, ["b" * 257]]),
    ("graphs.encoder.variants.0.file", ["encoder.onnx" + "x" * 4096]),
    ("graphs.encoder.inputs.0.shape", [[-1, 3], [2**31, 3], [1] * 9, ["N" * 257]]),
    ("parity.0.max_abs_error", [1e39, -1e308, None]),
    ("name", ["n" * 257]),
    ("provenance.notes", ["n" * (2**16 + 1)]),
    ("files.encoder.onnx.size", [-1, 2**33 + 1, 2**63]),
]


@pytest.fixture
def manifest(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    path = write_tiny_bundle(tmp_path / "tiny")
    found = msgspec.json.decode((path / "manifest.json").read_bytes())
    return path, found | {"text": TEXT, "clip_head": CLIP_HEAD, "parity": [PARITY]}


def forged(manifest: tuple[Path, dict[str, Any]], *apply: Callable[[dict[str, Any]], None]) -> Path:
    path, found = manifest
    copy = msgspec.json.decode(msgspec.json.encode(found))
    for each in apply:
        each(copy)
    forge_manifest(path, msgspec.json.encode(copy))
    return path


def test_values_inside(manifest: tuple[Path, dict[str, Any]]) -> None:
    Bundle.open(forged(manifest))
    for value in (0.01, 1000):
        Bundle.open(forged(manifest, change("text.logit_scale", value)))
    Bundle.open(forged(manifest, change("preprocessing.mean", [0, 255, -255])))


@pytest.mark.parametrize(("place", "values"), OUTSIDE, ids=[place for place, _ in OUTSIDE])
def test_values_outside(
    place: str, values: list[object], manifest: tuple[Path, dict[str, Any]]
) -> None:
    def size(found: dict[str, Any], value: object) -> None:
        found["files"]["encoder.onnx"]["size"] = value

    for value in values:
        apply = change(place, value)
        if place.startswith("files"):
            path = forged(manifest, lambda found, value=value: size(found, value))  # type: ignore[misc]
        else:
            path = forged(manifest, apply)
        with pytest.raises(ManifestError, match="Export the bundle again"):
            Bundle.open(path)


def test_sizes_together_and_for_what_they_are_for(manifest: tuple[Path, dict[str, Any]]) -> None:
    def list_files(count: int, size: int) -> Callable[[dict[str, Any]], None]:
        entry = {"size": size, "sha256": "0" * 64}
        return lambda found: found["files"].update({f"f{n}": entry for n in range(count)})

    for apply, said in (
        (list_files(5, 2**33), "bytes together"),
        (list_files(1001, 0), "length <= 1000"),
        (lambda found: found["files"]["encoder.onnx"].update(size=2**31), "for what it is"),
    ):
        with pytest.raises(ManifestError, match=said):
            Bundle.open(forged(manifest, apply))
