"""Damaged bundles, loaded as users load them: one typed error, no parser reached, nothing written.

`test_bundle_attacks.py` has every kind of damage; here are some of each kind, on every CPU backend.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from damage import flip_bit, forge_manifest
from figures import Figures
from side_effects import record_side_effects
from tiny_bundle import graph, negation_model, tiny_files, tiny_manifest

import samclip
from samclip.engines.base import EngineOptions
from samclip.engines.onnxruntime.backend import CPU
from samclip.errors import BundleError, IntegrityError, ManifestError, UnsafePathError
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Graphs, Variant
from samclip.runtime.bundles.writing import write_bundle

BACKENDS = ("onnxruntime", "openvino")
# The first functions of each backend, and of the runtime, that interpret a file.
PARSERS = (
    "samclip.runtime.bundles.bundle.parse_weights",
    "samclip.runtime.text.tokenizer.Tokenizer.from_bytes",
    "samclip.engines.openvino.compiler.read_graph",
    "samclip.engines.openvino.library.external_locations",
    "onnxruntime.InferenceSession",
)
REMEDY = re.compile("export|copy|rename|delete|give|correct", re.IGNORECASE)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A bundle whose graphs are for both backends."""
    encoder = Variant(
        file="encoder.onnx", weights="weights.safetensors", opset=18, backends=BACKENDS
    )
    decoder = Variant(file="decoder.onnx", opset=18, backends=BACKENDS)
    graphs = Graphs(encoder=graph(encoder), mask_decoder=graph(decoder))
    return write_bundle(tmp_path / "bundle", tiny_manifest(graphs=graphs), tiny_files())


@pytest.fixture
def no_parsers(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a parser saw bytes that were not verified")

    for name in PARSERS:
        monkeypatch.setattr(name, unreachable)


def flip(name: str, bit: int = 77) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        data = (bundle / name).read_bytes()
        (bundle / name).write_bytes(flip_bit(data, bit % (8 * len(data))))

    return change


def cut(name: str, length: int) -> Callable[[Path], None]:
    return lambda bundle: _write(bundle / name, (bundle / name).read_bytes()[:length])


def swap(first: str, second: str) -> Callable[[Path], None]:
    """Exchange two sound files."""

    def change(bundle: Path) -> None:
        one, other = (bundle / first).read_bytes(), (bundle / second).read_bytes()
        (bundle / first).write_bytes(other)
        (bundle / second).write_bytes(one)

    return change


def link(name: str) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        (bundle / name).rename(bundle.parent / "outside")
        (bundle / name).symlink_to(bundle.parent / "outside")

    return change


def forged(name: str, entry: dict[str, Any]) -> Callable[[Path], None]:
    """List a file as `name` in a manifest whose digest fits."""

    def change(bundle: Path) -> None:
        manifest = json.loads((bundle / "manifest.json").read_bytes())
        manifest["files"][name] = entry
        forge_manifest(bundle, json.dumps(manifest).encode())

    return change


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def former_manifest(bundle: Path) -> None:
    """Replace manifest and digest by those of another export."""
    other = write_bundle(bundle.parent / "o", tiny_manifest(), tiny_files() | {"decoder.onnx": b""})
    for name in ("manifest.json", "manifest.sha256"):
        (bundle / name).write_bytes((other / name).read_bytes())


ENTRY = {"size": 4, "sha256": "0" * 64}
DAMAGE: dict[str, tuple[Callable[[Path], Any], type[BundleError]]] = {
    "flipped graph": (flip("encoder.onnx"), IntegrityError),
    "flipped weights": (flip("weights.safetensors"), IntegrityError),
    "flipped manifest": (flip("manifest.json"), IntegrityError),
    "flipped digest": (flip("manifest.sha256"), IntegrityError),
    "cut graph": (cut("encoder.onnx", 40), IntegrityError),
    "cut weights": (cut("weights.safetensors", -1), IntegrityError),
    "empty graph": (cut("encoder.onnx", 0), IntegrityError),
    "empty manifest": (cut("manifest.json", 0), IntegrityError),
    "missing graph": (lambda bundle: (bundle / "encoder.onnx").unlink(), IntegrityError),
    "graphs exchanged": (swap("encoder.onnx", "decoder.onnx"), IntegrityError),
    "weights for a graph": (swap("encoder.onnx", "weights.safetensors"), IntegrityError),
    "manifest of another export": (former_manifest, IntegrityError),
    "linked weights": (link("weights.safetensors"), UnsafePathError),
    "path that leaves": (forged("../outside", ENTRY), UnsafePathError),
    "absolute path": (forged("/etc/passwd", ENTRY), UnsafePathError),
    "lying size": (forged("encoder.onnx", {"size": 2**40, "sha256": "0" * 64}), ManifestError),
    "oversize manifest": (
        lambda bundle: _write(bundle / "manifest.json", b" " * 2_000_000),
        ManifestError,
    ),
    "nested manifest": (
        lambda bundle: _write(bundle / "manifest.json", b"[" * 900_000),
        IntegrityError,
    ),
    "file too many": (lambda bundle: _write(bundle / "run.py", b"print(1)"), IntegrityError),
}


@pytest.mark.usefixtures("no_parsers")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("change", "kind"), DAMAGE.values(), ids=DAMAGE)
def test_refused_before_any_parser_and_without_a_trace(
    tiny: Path,
    change: Callable[[Path], Any],
    kind: type[BundleError],
    backend: str,
    figures: Figures,
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    change(tiny)
    with record_side_effects() as effects, pytest.raises(kind) as caught:
        samclip.load(tiny, backend=backend)
    assert effects.done == []
    message = str(caught.value)
    assert REMEDY.search(message), message
    assert len(message) < 1000
    found = "one typed error with a remedy, no parser reached, nothing written"
    figures.add(f"samclip.load of damaged bundles, {backend}", count=1, found=found)


def test_a_write_would_be_noticed(tmp_path: Path) -> None:
    with record_side_effects() as effects:
        (tmp_path / "new").write_bytes(b"")
        (tmp_path / "new").rename(tmp_path / "other")
    assert [event for event, _ in effects.done] == ["open", "os.rename"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_loaded_is_what_was_hashed(tiny: Path, backend: str, figures: Figures) -> None:
    """Files that are replaced after they were read change nothing."""
    if backend == "openvino":
        pytest.importorskip("openvino")
    from samclip.engines.registry import get_backend

    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    expected = CPU.load(_source(tiny), EngineOptions(threads=1)).run({"x": x})["y"].numpy()
    source = Bundle.open(tiny).source("encoder", backend)
    swap("encoder.onnx", "decoder.onnx")(tiny)
    _write(tiny / "weights.safetensors", b"other")
    engine = get_backend(backend).load(source, EngineOptions(threads=1))
    np.testing.assert_array_equal(engine.run({"x": x})["y"].numpy(), expected)  # small integers
    engine.close()
    figures.add("bundle: files exchanged after they were hashed", count=1, found="the hashed bytes")


def _source(bundle: Path) -> Any:
    return Bundle.open(bundle).source("encoder", "onnxruntime")


@pytest.mark.parametrize("rounds", [150, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_file_that_changes_all_the_time(tiny: Path, rounds: int, figures: Figures) -> None:
    """Readers get the listed bytes or an error, never other bytes of the same size."""
    good = (tiny / "decoder.onnx").read_bytes()
    evil = negation_model().replace(b"Neg", b"Abs")
    assert len(evil) == len(good)
    assert evil != good
    bundle, stop = Bundle.open(tiny), threading.Event()

    def exchange() -> None:
        replacement = tiny.parent / "next"
        while not stop.is_set():
            for data in (evil, good):
                replacement.write_bytes(data)
                replacement.replace(tiny / "decoder.onnx")
                (tiny / "decoder.onnx").write_bytes(data)  # in place, too: cut, then whole

    writer, refused = threading.Thread(target=exchange), 0
    writer.start()
    try:
        for _ in range(rounds):
            try:
                assert bundle.read("decoder.onnx") == good
            except (IntegrityError, UnsafePathError):  # the latter between two names of a file
                refused += 1
    finally:
        stop.set()
        writer.join()
    found = f"{rounds - refused:,} times the listed bytes, {refused:,} refused"
    figures.add("bundle: a file that changes while it is read", count=rounds, found=found)
