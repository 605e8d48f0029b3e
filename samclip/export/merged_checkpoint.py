"""Saving a merged model as one self-describing safetensors file; `assemble` reads it back."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.torch import save_file

from samclip.errors import CheckpointError
from samclip.export.assemble import Assembly
from samclip.export.metadata import TOKENIZER_KEY, encode_metadata


def save_merged(assembly: Assembly, path: Path) -> Path:
    """Write a model, its metadata and its tokenizer to `path`; an existing file is replaced whole.

    Raises CheckpointError when the metadata does not describe the text tower inside.
    """
    model, metadata = assembly.model, assembly.metadata
    described = metadata.text
    if model.text is not None and (described is None or not (described.clip or described.bert)):
        raise CheckpointError("the metadata lacks the sizes of the text tower inside: text.clip")
    header = encode_metadata(metadata)
    if assembly.tokenizer is not None:
        header[TOKENIZER_KEY] = assembly.tokenizer.decode("utf-8")
    state = {key: tensor.detach().contiguous() for key, tensor in model.state_dict().items()}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save_file(state, partial, metadata=header)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
