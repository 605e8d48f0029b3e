"""Bundles: opened, read, and turned into graphs for engines."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import WEIGHT, WEIGHTS_FILE, tiny_files, tiny_manifest, write_tiny_bundle

from samclip.engines.base import EngineOptions
from samclip.engines.registry import get_backend
from samclip.errors import (
    BackendUnavailableError,
    BundleNotFoundError,
    CapabilityError,
    IntegrityError,
    ManifestError,
    SamclipError,
)
from samclip.runtime.bundles import files as bundle_files
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.home import find_bundle
from samclip.runtime.bundles.manifest import Text
from samclip.runtime.bundles.writing import write_bundle


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "tiny")


def test_open_gives_the_manifest_that_was_written(tiny: Path) -> None:
    bundle = Bundle.open(tiny)
    assert bundle.path == tiny.resolve()
    assert bundle.manifest.name == "tiny"
    assert bundle.manifest.files.keys() == tiny_files().keys()
    assert bundle.manifest.graphs == tiny_manifest().graphs


def test_read_gives_the_bytes(tiny: Path) -> None:
    bundle = Bundle.open(tiny)
    assert {name: bundle.read(name) for name in tiny_files()} == tiny_files()
    bundle.verify()


def test_sha256sum_accepts_the_digest_file(tiny: Path) -> None:
    command = ["sha256sum", "--check", "--strict", "manifest.sha256"]
    assert subprocess.run(command, cwd=tiny, check=False, capture_output=True).returncode == 0


def test_digest_written_by_sha256sum_is_accepted(tiny: Path) -> None:
    """An edit on purpose, digested again; also with its `*` for binary files on other systems."""
    text = (tiny / "manifest.json").read_text().replace('"test"', '"edited"')
    (tiny / "manifest.json").write_text(text)
    with pytest.raises(IntegrityError, match="one of them is damaged"):
        Bundle.open(tiny)
    line = subprocess.run(
        ["sha256sum", "manifest.json"], cwd=tiny, check=True, capture_output=True
    ).stdout
    (tiny / "manifest.sha256").write_bytes(line)
    assert Bundle.open(tiny).manifest.model_type == "edited"


def test_read_of_an_unlisted_name_names_those_there_are(tiny: Path) -> None:
    for name in ("nothing", "manifest.json", "../tiny/encoder.onnx"):
        with pytest.raises(CapabilityError, match=r"no file .*encoder\.onnx"):
            Bundle.open(tiny).read(name)


def test_source_runs_on_an_engine(tiny: Path) -> None:
    source = Bundle.open(tiny).source("encoder", "onnxruntime")
    assert source.name == "encoder"
    np.testing.assert_array_equal(source.weights["w"], WEIGHT)
    assert source.files.keys() == {WEIGHTS_FILE}
    engine = get_backend("onnxruntime").load(source, EngineOptions(threads=1))
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(engine.run({"x": x})["y"].numpy(), x @ WEIGHT)  # exact: integers


def test_source_finds_weights_in_another_folder(tmp_path: Path) -> None:
    """ONNX names external data relative to the graph's folder, the manifest to the bundle's."""
    manifest = tiny_manifest()
    (variant, _) = manifest.graphs.encoder.variants
    graphs = {"encoder": "fp32/encoder.onnx", "weights": "shared/w.safetensors"}
    changed = type(variant)(
        file=graphs["encoder"], weights=graphs["weights"], opset=18, backends=("onnxruntime",)
    )
    encoder = type(manifest.graphs.encoder)(
        inputs=manifest.graphs.encoder.inputs,
        outputs=manifest.graphs.encoder.outputs,
        variants=(changed,),
    )
    files = tiny_files()
    files[graphs["encoder"]], files[graphs["weights"]] = (
        files.pop("encoder.onnx"),
        files.pop(WEIGHTS_FILE),
    )
    whole = tiny_manifest(
        graphs=type(manifest.graphs)(encoder=encoder, mask_decoder=manifest.graphs.mask_decoder)
    )
    path = write_bundle(tmp_path / "nested", whole, files)
    source = Bundle.open(path).source("encoder", "onnxruntime")
    assert source.files.keys() == {"../shared/w.safetensors"}


def test_source_without_weights(tiny: Path) -> None:
    source = Bundle.open(tiny).source("mask_decoder", "onnxruntime")
    assert source.weights == {}
    assert source.files == {}


def test_source_takes_the_variant_of_backend_and_precision(tiny: Path) -> None:
    bundle = Bundle.open(tiny)
    assert bundle.source("encoder", "tensorrt", "fp16").onnx == tiny_files()["encoder.onnx"]
    with pytest.raises(BackendUnavailableError, match=r"fp32 for onnxruntime, cuda; fp16 for tens"):
        bundle.source("encoder", "openvino")
    with pytest.raises(BackendUnavailableError, match=r"no variant for onnxruntime in fp16"):
        bundle.source("encoder", "onnxruntime", "fp16")


@pytest.mark.parametrize(
    ("graph", "hint"),
    [("clip_head", "only encoder, mask_decoder"), ("encodr", "did you mean 'encoder'"), ("", "")],
)
def test_missing_graph_is_a_capability_error(tiny: Path, graph: str, hint: str) -> None:
    with pytest.raises(CapabilityError, match=f"has no graph '{graph}'") as caught:
        Bundle.open(tiny).source(graph, "onnxruntime")
    assert hint in str(caught.value)


def test_bundle_itself_may_be_reached_through_a_link(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tiny)
    assert Bundle.open(tmp_path / "link").path == tiny.resolve()


def test_home_directory_is_expanded(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny.parent))
    assert Bundle.open("~/tiny").path == tiny.resolve()
    assert find_bundle("~/tiny") == tiny


@pytest.mark.parametrize(
    "path", ["nowhere", "", "a\0b", "x" * 5000, "~nobody-of-this-name/x", "loop", "file"]
)
def test_no_bundle_there(tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleNotFoundError):
        find_bundle(path)
    with pytest.raises(BundleNotFoundError):
        Bundle.open(path)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256"])
def test_incomplete_bundle(tiny: Path, name: str) -> None:
    (tiny / name).unlink()
    with pytest.raises(ManifestError, match=f"{name} is missing"):
        Bundle.open(tiny)


def test_file_changed_after_opening_is_refused(tiny: Path) -> None:
    bundle = Bundle.open(tiny)
    data = bytearray((tiny / "encoder.onnx").read_bytes())
    data[40] ^= 1
    (tiny / "encoder.onnx").write_bytes(data)
    for use in (lambda: bundle.read("encoder.onnx"), bundle.verify):
        with pytest.raises(IntegrityError, match=r"'encoder\.onnx' has SHA-256"):
            use()
    (tiny / "encoder.onnx").unlink()
    with pytest.raises(IntegrityError, match="No such file"):
        bundle.read("encoder.onnx")


def test_bytes_are_those_that_were_hashed(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is swapped after its digest was computed: the caller still gets the good bytes."""
    bundle, good = Bundle.open(tiny), tiny_files()["encoder.onnx"]
    check = bundle_files._check_digest

    def swap_then_check(*args: object) -> None:
        (tiny / "encoder.onnx").write_bytes(b"x" * len(good))
        check(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(bundle_files, "_check_digest", swap_then_check)
    assert bundle.read("encoder.onnx") == good


def test_disk_fault_is_typed(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(tiny)

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(IntegrityError, match="Input/output error"):
        bundle.read("encoder.onnx")


def test_text_files_must_be_listed(tmp_path: Path) -> None:
    text = Text(model="t", space="0" * 64, embed_dim=4, logit_scale=1, templates=(), labels="l")
    with pytest.raises(ManifestError, match="refers to 'l' but does not list it"):
        write_tiny_bundle(tmp_path / "tiny", text=text)
    assert not list(tmp_path.iterdir())


def test_many_threads_may_read(tiny: Path) -> None:
    bundle, failures = Bundle.open(tiny), []

    def read() -> None:
        try:
            assert all(bundle.read(name) == data for name, data in tiny_files().items())
        except SamclipError as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
