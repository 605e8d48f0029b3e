"""Teacher outputs on disk, so that each view goes through a teacher only once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from samclip.disk.cache_folder import read_private_file
from samclip.disk.partial_files import as_write_error, partial_file, remove_abandoned
from samclip.disk.paths import user_path
from samclip.errors import InputError
from samclip.library_errors import is_library_error
from samclip.merge.data.batches import PhotoView

_logger = logging.getLogger(__name__)

Tensors = dict[str, Tensor]
MAX_BYTES = 2**30  # of one picture's outputs
HALVED = (torch.float32, torch.float64)


def output_key(fingerprint: str, sample: PhotoView) -> str:
    """Return the key of a teacher's output: SHA-256 of teacher, photo and view, hexadecimal."""
    digest = hashlib.sha256()
    for part in (fingerprint.encode(), sample.photo.encode(), sample.view.to_json()):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


class OutputCache:
    """One safetensors file per key, in two levels of folders under `folder`.

    Tensors named in `half` are stored as float16 and returned as float32. Outputs that were just
    computed are rounded as well, so that a run does not depend on the previous content of the
    cache. Files are written whole or not at all, and several processes may share the folder. A
    damaged file is logged with a warning, and its output is computed again.
    """

    def __init__(self, folder: str | Path, half: Collection[str] = ()) -> None:
        self.folder = user_path(folder, "the cache")
        self._half = frozenset(half)

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def path(self, key: str) -> Path:
        """Return the path of a key's file; raises InputError for a key that is not a SHA-256."""
        if len(key) != 64 or not set(key) <= set("0123456789abcdef"):
            raise InputError(f"the key {key!r:.80} is not a SHA-256 in lowercase hexadecimal")
        return self.folder / key[:2] / key[2:4] / f"{key}.safetensors"

    def get(self, key: str) -> Tensors | None:
        """Read a key's tensors; None when they are absent or damaged."""
        path = self.path(key)
        try:
            return self._widen(load(read_private_file(path, MAX_BYTES, shared=True)))
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError) as error:
            if not is_library_error(error, "safetensors"):
                raise
            _logger.warning("%s is damaged (%s) and will be computed again", path, error)
            return None

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> Tensors:
        """Store a key's tensors; returns them as `get` will. Raises WriteError."""
        path = self.path(key)
        stored: Tensors = {}
        for name, tensor in tensors.items():
            halved = name in self._half and tensor.dtype in HALVED
            on_cpu = tensor.detach().cpu()
            stored[name] = (on_cpu.half() if halved else on_cpu).contiguous()
        with as_write_error(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(path.parent)
            # Not synced: a file that a crash truncates is recognised and computed again.
            with partial_file(path, synced=False) as file:
                file.write(save(stored))
        return self._widen(stored)

    def get_or_make(self, key: str, make: Callable[[], Mapping[str, Tensor]]) -> Tensors:
        """Read a key's tensors, or make and store them."""
        found = self.get(key)
        return self.put(key, make()) if found is None else found

    def get_or_make_all(
        self,
        keys: Sequence[str],
        make: Callable[[list[int]], Sequence[Mapping[str, Tensor]]],
    ) -> list[Tensors]:
        """Read the tensors of several keys; missing ones are made together and stored.

        `make` takes the positions in `keys` of the missing ones and returns the tensors of each.
        """
        found = [self.get(key) for key in keys]
        missing = [position for position, tensors in enumerate(found) if tensors is None]
        if missing:
            for position, tensors in zip(missing, make(missing), strict=True):
                found[position] = self.put(keys[position], tensors)
        return [tensors for tensors in found if tensors is not None]

    def _widen(self, tensors: Mapping[str, Tensor]) -> Tensors:
        return {
            name: tensor.float() if name in self._half else tensor
            for name, tensor in tensors.items()
        }
