"""Writing tensors to a safetensors file that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from samclip.disk.partial_files import result_path


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Write tensors of the CPU; whatever happens, `path` holds either them or what was there.

    Raises WriteError when the disk refuses.
    """
    with result_path(path) as place:
        try:
            save_file(dict(tensors), place, metadata=dict(metadata))
        except SafetensorError as error:  # it has no other for a disk that fails
            raise OSError(str(error)) from error
    return path
