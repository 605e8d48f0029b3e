"""The paths of weights: a file, a model's folder, or the index of weights in several files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from samclip.disk.paths import user_path
from samclip.errors import CheckpointError, did_you_mean

# What hubs call the weights inside a model's folder, the preferred one first.
FOLDER_FILES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
INDEX_SUFFIX = ".index.json"
SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}(?P<suffix>\.\w+)")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
ADDRESS = re.compile(r"(https?|ftp|s3|gs|gcs|hf|hf-hub|file|ssh|git)(:/|:(?=hf-hub|\w+/))", re.I)
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def find_weights(path: str | Path) -> Path:
    """Return the weights file, or the index of shards, that a file's or a folder's path names.

    Raises CheckpointError when there is none, with what was probably meant; InputError for what is
    not a path.
    """
    require_local(path)
    found = user_path(path, "the checkpoint")
    if _is_dir(found):
        return _in_folder(found)
    if not os.path.lexists(found):
        raise CheckpointError(f"no checkpoint at {path}{_meant(found)}")
    if found.is_symlink() and not found.exists():
        raise CheckpointError(
            f"{path} is a link to {found.readlink()}, which does not exist; copy or download the "
            "file itself"
        )
    shard = SHARD.fullmatch(found.name)
    if (
        shard
        and (index := found.with_name(f"{shard['stem']}{shard['suffix']}.index.json")).exists()
    ):
        raise CheckpointError(f"{path} is one of several shards; give their index, {index}")
    return found


def require_local(path: str | Path) -> None:
    """Raise CheckpointError for an address and for standard input, with what to do instead."""
    if ADDRESS.match(str(path)):
        raise CheckpointError(
            f"{path} is an address, and only files on this machine are read. Download it first "
            "(curl -LO ADDRESS, or hf download for a model of the hub), and give the file."
        )
    if str(path) == "-":
        raise CheckpointError(
            "'-' would be standard input, and checkpoints are read from files only; save it to a "
            "file and give that"
        )


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long
        return False


def _meant(path: Path) -> str:
    """Return what to do about a path where nothing is."""
    try:
        near = did_you_mean(path.name, [each.name for each in path.parent.iterdir()])
    except OSError:
        near = ""
    if not near and HUB_NAME.fullmatch(str(path)):
        near = (
            ". If it is a model of the hub, download it first: "
            f"hf download {path} --local-dir FOLDER"
        )
    return f"{near}; give an existing file or model folder"


def _in_folder(folder: Path) -> Path:
    for name in (*FOLDER_FILES, *(f"{name}{INDEX_SUFFIX}" for name in FOLDER_FILES)):
        if (folder / name).exists():
            return folder / name
    try:
        held = sorted(each.name for each in folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"the folder {folder} cannot be read: {error.strerror}") from error
    weights = ": " + ", ".join([name for name in held if name.endswith(SUFFIXES)][:6])
    raise CheckpointError(
        f"the folder {folder} holds none of {', '.join(FOLDER_FILES)}, nor an index of shards; "
        f"name the weights file{weights if weights != ': ' else ''}"
    )
