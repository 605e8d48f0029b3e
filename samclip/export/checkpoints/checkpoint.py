"""Checkpoint files: read, fitted to a module with errors that people can act on, and written.

Only tensors are ever read: safetensors, or torch files with `weights_only=True`. Files are written
as safetensors, and appear whole or not at all.
"""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from samclip.disk.partial_files import result_path
from samclip.errors import CheckpointError
from samclip.export.checkpoints.fetch import file_sha256

StateDict = dict[str, torch.Tensor]

# What hubs call the weights inside a model's folder, the preferred one first.
FOLDER_FILES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
WRAPPERS = ("state_dict", "model", "model_state_dict", "module")
SHOWN_KEYS = 6
VIT_WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file, its SHA-256, and the metadata of its safetensors header."""

    path: Path
    sha256: str
    state: StateDict
    metadata: Mapping[str, str] = field(default_factory=dict)

    def has(self, prefix: str) -> bool:
        """Whether any key starts with `prefix`."""
        return any(key.startswith(prefix) for key in self.state)

    def part(self, prefix: str) -> StateDict:
        """Take the tensors whose keys start with `prefix`, without it."""
        return {k[len(prefix) :]: v for k, v in self.state.items() if k.startswith(prefix)}


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a `.safetensors`, `.pt`, `.pth` or `.bin` file, or a model folder that holds one.

    Raises CheckpointError when the file is missing, is not a checkpoint, or holds anything but
    tensors.
    """
    file = weights_file(Path(path).expanduser())
    before = _identity(file)
    digest = file_sha256(file)
    if file.suffix == ".safetensors":
        state, metadata = _read_safetensors(file)
    else:
        state, metadata = _read_torch(file), {}
    if _identity(file) != before:
        raise CheckpointError(
            f"{file} changed while it was read; try again when nothing writes to it"
        )
    return Checkpoint(file, digest, state, metadata)


def read_header(path: str | Path) -> Mapping[str, str]:
    """Read the metadata of a safetensors header, and no tensors; other formats have none.

    Raises CheckpointError when there is no file, or it is not valid.
    """
    file = weights_file(Path(path).expanduser())
    if file.suffix != ".safetensors":
        return {}
    with _open_safetensors(file) as tensors:
        return tensors.metadata() or {}


def _identity(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def guess_model_type(state: Mapping[str, torch.Tensor]) -> str | None:
    """Guess the model type from the encoder's keys; None if they fit none that we know."""
    if any(key.startswith("image_encoder.stitch.") for key in state):
        return "lite2"
    if any(key.startswith("image_encoder.layers.") for key in state):
        return "vit_t"
    positions = state.get("image_encoder.pos_embed")
    return None if positions is None else VIT_WIDTHS.get(positions.shape[-1])


def fit_state(
    module: nn.Module, state: Mapping[str, torch.Tensor], what: str, ignored: Collection[str] = ()
) -> None:
    """Load `state` into `module`, all of it or not at all.

    `what` names the part in errors ("image encoder"); keys in `ignored` may be left over.
    Raises CheckpointError naming the missing, unexpected and misshapen keys.
    """
    own = module.state_dict()
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys() - set(ignored))
    misshapen = [
        f"{key} {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state.keys())
        if state[key].shape != own[key].shape
    ]
    problems = [
        f"{label}: {some_keys(keys)}"
        for label, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("wrong shape", misshapen),
        )
        if keys
    ]
    if problems:
        raise CheckpointError(
            f"the weights do not fit the {what}; {'; '.join(problems)}. Give the checkpoint of a "
            "model that samclip-export knows, whole and unchanged."
        )
    module.load_state_dict({key: state[key] for key in own})


def some_keys(keys: Iterable[str]) -> str:
    """List the first few of `keys` and count the rest, for an error message."""
    listed = list(keys)
    shown = ", ".join(listed[:SHOWN_KEYS])
    return shown if len(listed) <= SHOWN_KEYS else f"{shown} and {len(listed) - SHOWN_KEYS} more"


def weights_file(path: Path) -> Path:
    """Return the weights file at `path`, a file or a model folder.

    Raises CheckpointError when there is neither.
    """
    if path.is_dir():
        for name in FOLDER_FILES:
            if (path / name).is_file():
                return path / name
        raise CheckpointError(
            f"the folder {path} holds none of {', '.join(FOLDER_FILES)}; name the weights file"
        )
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}; give an existing file or model folder")
    return path


def weights_name(path: Path) -> str:
    """Return a file's name, with its folder where every model's weights have the same name."""
    return f"{path.parent.name}/{path.name}" if path.name in FOLDER_FILES else path.name


def _read_safetensors(file: Path) -> tuple[StateDict, Mapping[str, str]]:
    with _open_safetensors(file) as tensors:
        state = {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118
        return state, tensors.metadata() or {}


@contextmanager
def _open_safetensors(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        raise CheckpointError(
            f"{file} is not a valid safetensors file ({error}); download it again"
        ) from error


def _read_torch(file: Path) -> StateDict:
    if tarfile.is_tarfile(file):  # torch would unpack it: a pipe inside would keep it waiting
        raise CheckpointError(
            f"{file} is a tar file, expected safetensors or a file of torch 0.1.10 or newer. "
            "Save it again with torch where you trust it, or unpack it if it holds a checkpoint."
        )
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} holds more than tensors, or is not a torch file, and was not loaded "
            f"({_first_line(error)}). Convert it to safetensors where you trust it."
        ) from error
    except Exception as error:  # a damaged archive raises almost anything from inside torch
        raise CheckpointError(
            f"{file} is not a readable torch checkpoint ({_first_line(error)}); download it again"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{file} holds a {type(content).__name__}, expected a dictionary of tensors; "
            "save the model's state_dict()"
        )
    state = {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
    if not state:
        raise CheckpointError(
            f"{file} holds no tensors, expected those of a model; save its state_dict()"
        )
    return state


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Write tensors on the CPU; whatever happens, `path` holds them or what it held before.

    Raises WriteError when the disk refuses.
    """
    with result_path(path) as place:
        try:
            save_file(dict(tensors), place, metadata=dict(metadata))
        except SafetensorError as error:  # what it raises for a disk that fails, too
            raise OSError(str(error)) from error
    return path
