"""Metadata that asks for models of terabytes, or for numbers that no model has."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_ovsam import SMALL_OVSAM, random_ovsam, small_assembly

from samclip.errors import CheckpointError
from samclip.export.families.merged_assembly import Checkpoints, assemble, save_merged
from samclip.export.families.ovsam_assembly import METADATA_KEY as OVSAM_KEY
from samclip.export.families.ovsam_assembly import read_ovsam, save_ovsam


def changed(file: Path, key: str, *path: str, value: object) -> Path:
    """A copy of a merged checkpoint with one number of its metadata changed."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        header = opened.metadata()
    content: Any = msgspec.json.decode(header[key])
    inner = content
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    header[key] = msgspec.json.encode(content).decode()
    copy = file.with_name("changed.safetensors")
    save_file(load_file(file), copy, header)
    return copy


@pytest.fixture(scope="module")
def merged(
    mobile_sam_checkpoint: Path, text_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    made = assemble(Checkpoints(mobile_sam_checkpoint, text=text_checkpoint), image_size=64)
    return save_merged(made, tmp_path_factory.mktemp("merged") / "m.safetensors")


@pytest.fixture(scope="module")
def ovsam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = random_ovsam(SMALL_OVSAM, with_text=True)
    return save_ovsam(small_assembly(model), tmp_path_factory.mktemp("ovsam") / "m.safetensors")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("embed_dim",), 2**31),
        (("embed_dim",), 2**24),
        (("image_size",), 2**30),
        (("pyramid",), list(range(1, 5000))),
        (("text", "clip", "layers"), 10**9),
        (("text", "clip", "width"), 2**30),
        (("text", "clip", "vocab_size"), 2**40),
        (("text", "logit_scale"), 1e308),
        (("std",), [1e-320, 1.0, 1.0]),
        (("mean",), [1e300, 0.0, 0.0]),
    ],
)
def test_merged_checkpoints_are_not_believed(
    path: tuple[str, ...], value: object, merged: Path
) -> None:
    started = time.monotonic()
    with pytest.raises(CheckpointError):
        assemble(Checkpoints(changed(merged, "samclip", *path, value=value)))
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("image_size",), 32 * 10**6),
        (("backbone", "depths"), [10**9, 1, 1, 1]),
        (("backbone", "width"), 2**24),
        (("backbone", "width"), -4),
        (("neck", "depth"), 10**9),
        (("neck", "width"), 2**20),
        (("neck", "num_heads"), 0),
        (("fpn_channels",), 2**28),
        (("text", "logit_scale"), -1.0),
    ],
)
def test_open_vocabulary_sams_are_not_believed(
    path: tuple[str, ...], value: object, ovsam: Path
) -> None:
    started = time.monotonic()
    with pytest.raises(CheckpointError):
        read_ovsam(changed(ovsam, OVSAM_KEY, *path, value=value))
    assert time.monotonic() - started < 60


def test_honest_files_are_read(merged: Path, ovsam: Path) -> None:
    assert assemble(Checkpoints(merged)).metadata.image_size == 64
    assert read_ovsam(ovsam).metadata.model_type == "ovsam"


def test_a_vits_own_image_size_is_read() -> None:
    from samclip.export.checkpoints.checkpoint import Checkpoint
    from samclip.export.families.merged_assembly import native_image_size

    state = {"image_encoder.pos_embed": torch.zeros(1, 32, 32, 768)}
    assert native_image_size(Checkpoint(Path("w"), "", state)) == 512
    assert native_image_size(Checkpoint(Path("w"), "", {})) == 1024
