"""Saving a merged model as one self-describing safetensors file; `assemble` reads it back."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.torch import save_file

from samclip.export.metadata import MergedMetadata, encode_metadata
from samclip.export.models.merged import MergedModel


def save_merged(model: MergedModel, metadata: MergedMetadata, path: Path) -> Path:
    """Write `model` and `metadata` to `path` atomically; an existing file is replaced whole."""
    state = {key: tensor.detach().contiguous() for key, tensor in model.state_dict().items()}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save_file(state, partial, metadata=encode_metadata(metadata))
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
