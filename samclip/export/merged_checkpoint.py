"""Saving a merged model as one self-describing safetensors file; `assemble` reads it back."""

from __future__ import annotations

from pathlib import Path

from samclip.errors import CheckpointError
from samclip.export.assemble import Assembly
from samclip.export.metadata import TOKENIZER_KEY, encode_metadata
from samclip.export.tensor_file import write_tensors


def save_merged(assembly: Assembly, path: Path) -> Path:
    """Write a model, its metadata and its tokenizer to `path`; an existing file is replaced whole.

    Raises CheckpointError when the metadata does not describe the text tower inside, WriteError
    when the disk refuses.
    """
    model, metadata = assembly.model, assembly.metadata
    described = metadata.text
    if model.text is not None and (described is None or not (described.clip or described.bert)):
        raise CheckpointError(
            f"{path} was not written: its metadata lacks the sizes of the text tower inside; give "
            "text.clip or text.bert"
        )
    header = encode_metadata(metadata)
    if assembly.tokenizer is not None:
        header[TOKENIZER_KEY] = assembly.tokenizer.decode("utf-8")
    state = {key: tensor.detach().contiguous() for key, tensor in model.state_dict().items()}
    return write_tensors(path, state, header)
