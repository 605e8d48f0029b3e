"""Compiled models kept on the disk: verified, bounded, and never in the way."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from tiny_bundle import WEIGHT, WEIGHTS_FILE, affine_model

from samclip.disk.partial_files import locked_partial, make_empty_file
from samclip.engines.base import Engine, EngineOptions, GraphSource
from samclip.engines.openvino import cache as blob_store
from samclip.engines.openvino import compiler
from samclip.engines.openvino.backend import OPENVINO
from samclip.engines.openvino.cache import (
    BlobDamagedError,
    blob_folder,
    map_blob,
    only_compiling,
    write_blob,
)
from samclip.runtime.bundles.weights import parse_weights

pytest.importorskip("openvino")

X = np.arange(8, dtype=np.float32).reshape(2, 4)
KEY, OTHER = "a" * 64, "b" * 64
OPTIONS = EngineOptions(threads=1)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiler, "_reported", set())
    return blob_folder()


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the graphs that were compiled, not imported."""
    names: list[str] = []
    original = compiler.Compiler._compile

    def record(self: compiler.Compiler) -> object:
        names.append(self.source.name)
        return original(self)

    monkeypatch.setattr(compiler.Compiler, "_compile", record)
    return names


def read(weight: float = 0) -> GraphSource:
    """The affine graph as a bundle's; `weight` is added to its weights."""
    onnx, data = affine_model()
    data = data.replace(WEIGHT.tobytes(), (WEIGHT + np.float32(weight)).tobytes())
    files = {WEIGHTS_FILE: data}
    return GraphSource("affine", onnx, parse_weights(data), files, origin="some bundle")


def load(source: GraphSource | None = None, options: EngineOptions = OPTIONS) -> Engine:
    return OPENVINO.load(source or read(), options)


def check(engine: Engine, weight: float = 0) -> None:
    got = engine.run({"x": X})
    np.testing.assert_array_equal(got["y"].numpy(), X @ (WEIGHT + np.float32(weight)))  # integers
    np.testing.assert_array_equal(got["z"].numpy(), -(X @ (WEIGHT + np.float32(weight))))


def blobs(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.blob"))


def test_the_second_load_imports(folder: Path, compilations: list[str]) -> None:
    check(load())
    assert len(blobs(folder)) == 1
    check(load())
    assert compilations == ["affine"]


def test_an_import_outlives_its_file_and_its_outputs_the_engine(
    folder: Path, compilations: list[str]
) -> None:
    load()
    engine = load()
    for path in [*folder.iterdir()]:
        path.unlink()
    gc.collect()
    check(engine)
    output = engine.run({"x": X})["y"]
    engine.close()
    del engine
    gc.collect()
    np.testing.assert_array_equal(output.numpy(), X @ WEIGHT)
    assert len(compilations) == 1


def test_other_weights_settings_and_versions_are_other_models(
    folder: Path, compilations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(load())
    check(load(read(1)), 1)
    check(load(options=EngineOptions(threads=2)))
    monkeypatch.setattr(compiler, "SCHEMA", 2)
    check(load())
    monkeypatch.setattr(compiler, "describe_processor", lambda _: ["another"])
    check(load())
    assert len(compilations) == len(blobs(folder)) == 5


def test_known_digests_are_those_of_the_files(compilations: list[str]) -> None:
    """A bundle's digest stands for its bytes: the same key as hashing them gives."""
    source = read()
    load(source)
    digest = hashlib.sha256(source.files[WEIGHTS_FILE]).hexdigest()
    load(replace(source, sha256={WEIGHTS_FILE: digest}))
    assert len(compilations) == 1


def test_graphs_of_no_bundle_are_not_kept(folder: Path) -> None:
    check(load(replace(read(), origin="")))
    assert not folder.exists()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, cut, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("suffix", [".blob", ".json"])
def test_damaged_files_are_compiled_again(
    folder: Path,
    compilations: list[str],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], object],
    suffix: str,
) -> None:
    load()
    (path,) = folder.glob(f"[!.]*{suffix}")
    damage(path)
    check(load())
    assert "is removed and compiled again" in caplog.text
    check(load())
    assert len(compilations) == 2
    assert len(blobs(folder)) == 1


def test_a_blob_that_openvino_refuses_is_compiled_again_from_weights_read_again(
    folder: Path, compilations: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A blob whose hash is right and whose content is not; the weights had been let go."""
    load()
    key = blobs(folder)[0].name.partition(".")[0]
    write_blob(folder, key, lambda stream: stream.write(b"no model"))

    digest = hashlib.sha256(read().files[WEIGHTS_FILE]).hexdigest()

    def again() -> GraphSource:
        return replace(read(), sha256={WEIGHTS_FILE: digest})

    source = replace(again(), again=again)
    check(load(source))
    assert source.files == source.weights == {}
    assert "is removed and compiled again" in caplog.text
    assert len(compilations) == 2
    assert len(blobs(folder)) == 1


def test_only_the_users_own_plain_files_are_read(folder: Path, compilations: list[str]) -> None:
    load()
    (path,) = blobs(folder)
    path.chmod(0o666)
    check(load())
    (path,) = blobs(folder)
    target = folder.parent / "elsewhere"
    path.rename(target)
    path.symlink_to(target)
    check(load())
    assert len(compilations) == 3


def test_a_cache_that_cannot_be_written_is_logged_once(
    folder: Path, compilations: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder.write_bytes(b"a file where the folder should be")
    check(load())
    check(load())
    assert caplog.text.count("nothing is kept between runs") == 1
    assert len(compilations) == 2


def test_a_full_disk_leaves_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, data: object) -> int:
        raise OSError(28, "No space left on device")

    original = blob_store._FileStream

    def opened(_: object) -> io.BytesIO:
        return original(type("Full", (io.BytesIO,), {"write": full})())  # type: ignore[arg-type]

    monkeypatch.setattr(blob_store, "_FileStream", opened)
    check(load())
    assert [path.name for path in folder.iterdir()] == [".compile.lock"]
    assert "compiled models cannot be kept" in caplog.text


def test_an_error_that_the_library_hides_is_raised(folder: Path) -> None:
    folder.mkdir()

    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    def export(stream: io.BytesIO) -> None:
        stream._file = Full()  # type: ignore[attr-defined]
        with pytest.raises(OSError, match="No space"):
            stream.write(b"data")

    with pytest.raises(OSError, match="No space"):
        write_blob(folder, KEY, export)
    assert list(folder.iterdir()) == []


def put(folder: Path, key: str, size: int, used: float) -> None:
    folder.mkdir(exist_ok=True)
    write_blob(folder, key, lambda stream: stream.write(bytes(size)))
    for path in folder.glob(f"{key}.*.blob"):
        os.utime(path, (used, used))


def test_the_least_recently_used_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_store, "LIMIT_BYTES", 250)
    put(folder, KEY, 100, 1)
    put(folder, OTHER, 100, 2)
    assert map_blob(folder, KEY) is not None  # used now
    put(folder, "c" * 64, 100, 3)
    assert {path.name[0] for path in folder.glob("[!.]*")} == {"a", "c"}
    put(folder, "d" * 64, 300, 4)  # too large to be kept at all
    assert {path.name[0] for path in blobs(folder)} == {"a", "c"}


def test_a_blob_takes_the_place_of_its_forerunner(folder: Path) -> None:
    put(folder, KEY, 10, 1)
    put(folder, KEY, 20, 2)
    blob = map_blob(folder, KEY)
    assert blob is not None and len(blob) == 20
    assert len(blobs(folder)) == 1


def test_a_sidecar_of_another_key(folder: Path) -> None:
    put(folder, OTHER, 10, 1)
    (folder / f"{OTHER}.json").rename(folder / f"{KEY}.json")
    with pytest.raises(BlobDamagedError, match="of the key b"):
        map_blob(folder, KEY)


def test_a_sidecar_leads_nowhere_else(folder: Path) -> None:
    """The blob's name consists of digits: a path in a sidecar is refused."""
    put(folder, KEY, 10, 1)
    path = folder / f"{KEY}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sha256": "../" * 20 + "abcd"}))
    with pytest.raises(BlobDamagedError, match="sha256"):
        map_blob(folder, KEY)


def test_another_process_is_waited_for_and_not_forever(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_store, "LOCK_SECONDS", 0.05)
    folder.mkdir()
    with FileLock(folder / blob_store.LOCK_NAME):
        check(load())
    assert len(blobs(folder)) == 1
    with only_compiling(folder):
        pass


def test_abandoned_files_are_removed(folder: Path) -> None:
    folder.mkdir()
    left = folder / f".{KEY}.{'0' * 16}.partial"
    left.write_bytes(b"")
    with locked_partial(folder / KEY, make_empty_file()) as at_work:
        put(folder, KEY, 10, 1)
        assert at_work.exists()
    assert not left.exists()
