"""What is carried to a borrowed machine: trimmed, packed, divided into calls, unpacked there."""

from __future__ import annotations

import importlib
import shlex
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

FOLDER = Path(__file__).parent
MIB = 2**20
PTX, MACHINE_CODE = 1, 2


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, Any]:
    monkeypatch.syspath_prepend(FOLDER)
    return tuple(importlib.import_module(name) for name in ("fatbin", "prepare", "unpack"))  # type: ignore[return-value]


def entry(kind: int, architecture: int, content: bytes) -> bytes:
    header = struct.pack("<HHIQ", kind, 0x101, 64, len(content)) + bytes(12)
    return (header + struct.pack("<I", architecture)).ljust(64, b"\0") + content


def container(*entries: bytes) -> bytes:
    content = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(content)) + content


def library(code: bytes) -> bytes:
    """A 64-bit ELF file with the sections .text, .nv_fatbin and the names of sections."""
    names = b"\0.text\0.nv_fatbin\0.shstrtab\0"
    text = b"\xba" * 40
    parts = (b"", text, code, names)
    at, places = 64, []
    for part in parts:
        places.append(at)
        at += len(part)
    header = b"\x7fELF\x02\x01\x01".ljust(0x28, b"\0") + struct.pack("<Q", at)
    header = header.ljust(0x3A, b"\0") + struct.pack("<HHH", 64, len(parts), 3)
    sections = [
        struct.pack("<IIQQQQ", names.find(name), 1, 0, 0, place, len(part)).ljust(64, b"\0")
        for name, place, part in zip(
            (b"\0", b".text", b".nv_fatbin", b".shstrtab"), places, parts, strict=True
        )
    ]
    return header.ljust(64, b"\0") + b"".join(parts) + b"".join(sections)


def test_code_of_other_architectures_is_emptied(scripts: Any, tmp_path: Path) -> None:
    fatbin = scripts[0]
    old, new, text = b"old" * 33, b"new" * 41, b"ptx" * 17
    code = container(entry(MACHINE_CODE, 80, old), entry(MACHINE_CODE, 90, new))
    code = code.ljust(-(-len(code) // 8) * 8, b"\0") + bytes(16)  # padding in between
    code += container(entry(PTX, 90, text), entry(MACHINE_CODE, 90, new))
    path = tmp_path / "lib.so"
    before = library(code)
    path.write_bytes(before)
    assert fatbin.trim(path, {90}) == (2 * len(new), len(old) + len(text))
    after = path.read_bytes()
    assert (len(after), after.count(new)) == (len(before), 2)
    assert after == before.replace(old, bytes(len(old))).replace(text, bytes(len(text)))
    path.write_bytes(before.replace(struct.pack("<Q", len(new)), struct.pack("<Q", 10**6), 1))
    with pytest.raises(ValueError, match="ends behind its container"):
        fatbin.trim(path, {90})
    path.write_bytes(b"no library")
    with pytest.raises(ValueError, match="no 64-bit ELF"):
        fatbin.trim(path, {90})


def test_what_is_packed_is_unpacked_there(
    scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, prepare, unpack = scripts
    base = tmp_path / "base"
    files = [base / "onnxruntime" / "capi" / "a.so", base / "onnxruntime" / "__init__.py"]
    for number, path in enumerate(files):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number, 7]) * 5000)
    (tmp_path / "ort").mkdir()
    prepare.pack(files, base, tmp_path / "ort" / "ort-1.tar.xz")
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "small-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("small/__init__.py", "")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text("{}")
    torchs = tmp_path / "torchs" / "nvidia"
    (torchs / "cu13" / "lib").mkdir(parents=True)
    (torchs / "cu13" / "lib" / "libcudart.so.13").touch()
    monkeypatch.syspath_prepend(torchs.parent)
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    site = tmp_path / "site"
    folders = [str(tmp_path / name) for name in ("ort", "wheels", "bundle")]
    for _ in range(2):  # a call that is made twice does no harm
        assert unpack.main([*folders, "--site", str(site)]) == 0
    for path in files:
        assert (site / path.relative_to(base)).read_bytes() == path.read_bytes()
    assert (site / "small" / "__init__.py").exists()
    assert (site / "bundle" / "manifest.json").exists()
    assert (site / "nvidia").resolve() == torchs.resolve()
    with pytest.raises(FileNotFoundError, match="was it carried"):
        unpack.main([str(tmp_path), "--site", str(site)])


def test_calls_carry_what_fits(
    scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, prepare, _ = scripts
    monkeypatch.setattr(prepare, "ROOT", tmp_path)
    sizes = {
        "wheels/small.whl": 2,
        "bundle/manifest.json": 50,
        "onnxruntime/onnxruntime-1.tar.xz": 9,
        "onnxruntime/onnxruntime-2.tar.xz": 52,
        "tensorrt-rtx/tensorrt-rtx-1.tar.xz": 2,
        "tensorrt-rtx/tensorrt-rtx-2.tar.xz": 55,
    }
    for name, size in sizes.items():
        path = tmp_path / ".gpu" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size * MIB)
    texts = prepare.calls(tmp_path / ".gpu", 5 * MIB)
    carried = [line.rsplit("carries ", 1)[1].splitlines()[0] for line in texts[1:]]
    assert carried == [
        ".gpu/wheels .gpu/bundle",
        ".gpu/onnxruntime/onnxruntime-1.tar.xz",
        ".gpu/onnxruntime/onnxruntime-2.tar.xz",
        ".gpu/tensorrt-rtx",
    ]
    check_gpu: Any = importlib.import_module("check_gpu")
    run: list[str] = []
    for text in texts[1:]:
        command = text.splitlines()[-1]
        assert len(command) < 2000
        if "check_gpu.py" in command:
            options = check_gpu.parse(shlex.split(command.split("check_gpu.py ")[1]))
            run += options.parts
            assert options.limit < 600
            assert options.must_run
    assert set(run) == set(check_gpu.PARTS) - {"tensorrt", "gates-tensorrt"}
    with pytest.raises(prepare.PreparationError, match="call 2 would carry 65"):
        prepare.calls(tmp_path / ".gpu", 15 * MIB)


def test_a_bundle_without_reduced_precision_is_refused(
    scripts: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _, prepare, _ = scripts
    into = tmp_path / "gpu"
    assert prepare.main(["--bundle", "samclip-tiny", "--into", str(into)]) == 1
    assert "fp16 and int8 would not be judged" in capsys.readouterr().err
    assert not into.exists()
    with pytest.raises(prepare.PreparationError, match="outside the checkout"):
        prepare.ignore(into)


def test_a_whole_preparation(
    scripts: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With wheels made here in place of those that pip downloads, and libraries in pieces."""
    from tiny_bundle import tiny_manifest, write_tiny_bundle

    _, prepare, unpack = scripts
    graphs = tiny_manifest().graphs
    made = [
        msgspec.structs.replace(
            graphs.encoder.variants[0], precision=precision, backends=(backend,)
        )
        for precision, backend in (("fp16", "cuda"), ("int8_fp16", "tensorrt-rtx"))
    ]
    encoder = msgspec.structs.replace(graphs.encoder, variants=(*graphs.encoder.variants, *made))
    graphs = msgspec.structs.replace(graphs, encoder=encoder)
    bundle = write_tiny_bundle(tmp_path / "halves", graphs=graphs)
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    subprocess.run(["git", "init", "-q", str(checkout)], check=True)
    code = library(container(entry(MACHINE_CODE, 80, b"old" * 9), entry(MACHINE_CODE, 90, b"new")))

    def download(wanted: Any, into: Path) -> list[Path]:
        into.mkdir(parents=True, exist_ok=True)
        name = wanted[0].partition("==")[0].replace("-", "_")
        with zipfile.ZipFile(into / f"{name}-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/library.so", code)
            wheel.writestr(f"{name}/tools/left_out.py", "")
        return sorted(into.glob("*.whl"))

    monkeypatch.setattr(prepare, "ROOT", checkout)
    monkeypatch.setattr(prepare, "download", download)
    monkeypatch.setattr(prepare, "PIECE_BYTES", len(code) // 3)
    into = checkout / ".gpu"
    for _ in range(2):
        assert prepare.main(["--bundle", str(bundle), "--into", str(into)]) == 0
    assert "call 3" in capsys.readouterr().out
    ignored = subprocess.run(["git", "check-ignore", "-q", ".gpu"], cwd=checkout, check=False)
    assert ignored.returncode == 0
    site = tmp_path / "site"
    folders = [str(into / name) for name in ("wheels", "bundle", "onnxruntime", "tensorrt-rtx")]
    last = into / "tensorrt-rtx" / "tensorrt-rtx-5.tar.xz"  # the other files, and four pieces
    carried_later = last.rename(tmp_path / last.name)
    assert unpack.main([*folders, "--site", str(site)]) == 0
    names = {path.name for path in (site / "tensorrt_rtx_cu13_libs").iterdir()}
    assert names == {f"library.so.piece-{number}-of-4" for number in (1, 2, 3)}
    carried_later.rename(last)
    for _ in range(2):
        assert unpack.main([*folders[3:], "--site", str(site)]) == 0
    emptied = code.replace(b"old" * 9, bytes(27))
    for name in ("onnxruntime_gpu", "tensorrt_rtx_cu13_libs"):
        assert [path.name for path in (site / name).iterdir()] == ["library.so"]
        assert (site / name / "library.so").read_bytes() == emptied
