"""Graphs compiled by OpenVINO, or imported from the cache, which takes a third of the time.

A blob holds the graph as OpenVINO transformed it, with its weights; kernels are chosen and weights
packed when it is imported. It is mapped from the disk, so that its weights count as memory only
while they are packed. Whatever goes wrong with the cache, the graph is compiled as without one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from samclip.disk.cache_folder import open_cache
from samclip.engines.base import GraphSource
from samclip.engines.machine.host import is_fault, is_shortage, release_free_memory, shortage
from samclip.engines.openvino.cache import (
    FOLDER_NAME,
    BlobDamagedError,
    map_blob,
    only_compiling,
    remove_blob,
    write_blob,
)
from samclip.engines.openvino.library import (
    DEVICE,
    PACKAGE,
    clean_message,
    describe_processor,
    imports_maps,
    read_graph,
)
from samclip.engines.openvino.parts import Part

PROFILE = {"PERF_COUNT": True}
SCHEMA = 1  # of the key: another one makes all blobs before it stale
_logger = logging.getLogger("samclip")
_reported: set[Path] = set()  # folders that cannot be written to, each logged once


@dataclass(frozen=True)
class Compiled:
    """A compiled model, and the mapped blob that it goes on reading, if it came from one."""

    model: Any
    blob: mmap.mmap | None = None


@dataclass(frozen=True)
class Compiler:
    """OpenVINO, one graph, and how it is to be compiled.

    `profile`: nodes are timed, which changes nothing that a blob holds. `part`: the part of the
    graph that is compiled, None for all of it.
    """

    library: Any
    core: Any
    source: GraphSource
    settings: Mapping[str, Any]
    profile: bool = False
    part: Part | None = None

    def compiled(self) -> Compiled:
        """Import the graph from the cache, or compile and keep it; errors of OpenVINO pass through.

        Only graphs of bundles are kept: others, as of an export, run once.
        """
        if not self.source.origin or not imports_maps(self.library):
            return Compiled(self._compile())
        key, folder = self._key, open_cache(FOLDER_NAME)
        if folder is None:
            return Compiled(self._compile())
        found = self._import(folder, key)
        if found is not None:
            return found
        try:
            with only_compiling(folder):  # another process may have just compiled it
                return self._import(folder, key) or self._compile_and_keep(folder, key)
        except OSError as error:
            _warn_once(folder, error)
        return Compiled(self._compile())

    @property
    def _given(self) -> dict[str, Any]:
        """What OpenVINO is given: the settings, of which the key has all but the profile."""
        return {**self.settings, **(PROFILE if self.profile else {})}

    @cached_property
    def _key(self) -> str:
        """A digest of all that makes compiled models differ."""
        source = self.source.whole()
        facts = {
            "schema": SCHEMA,
            "openvino": self.library.__version__,
            "processor": describe_processor(self.core),
            "settings": {name: str(value) for name, value in self.settings.items()},
            "graph": hashlib.sha256(source.onnx).hexdigest(),
            "files": {  # digests of a bundle's files are known from verifying them
                name: source.sha256.get(name) or hashlib.sha256(data).hexdigest()
                for name, data in source.files.items()
            },
        }
        if self.part is not None:
            facts["part"] = [self.part.side, *self.part.outputs]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _import(self, folder: Path, key: str) -> Compiled | None:
        """Import the blob of `key`; one that is damaged, or that OpenVINO refuses, is removed."""
        try:
            blob = map_blob(folder, key)
            return None if blob is None else self._import_blob(blob)
        except BlobDamagedError as error:
            if is_shortage(error):  # it could not even be mapped
                raise shortage(str(error)) from error
            reason = str(error)
        _logger.warning(
            "the compiled model of %r in %s is removed and compiled again: %s",
            self.source.name, folder, reason,
        )  # fmt: skip
        remove_blob(folder, key)
        return None

    def _import_blob(self, blob: mmap.mmap) -> Compiled:
        self.source.release()
        tensor = self.library.Tensor(np.frombuffer(blob, np.uint8), shared_memory=True)
        try:
            model = self.core.import_model(tensor, DEVICE, self._given)
        except Exception as error:  # its exceptions share no base class
            if not is_fault(error, PACKAGE):
                raise
            if is_shortage(error):  # the blob may be sound
                raise shortage(clean_message(error)) from error
            raise BlobDamagedError(clean_message(error)) from error
        if hasattr(blob, "madvise"):  # the weights are packed: their pages may go, and come again
            blob.madvise(mmap.MADV_DONTNEED)
        return Compiled(model, blob)

    def _compile(self) -> Any:
        with read_graph(self.core, self.source.whole()) as model:
            chosen = model if self.part is None else self.part.of(self.library, model)
            return self.core.compile_model(chosen, DEVICE, self._given)

    def _compile_and_keep(self, folder: Path, key: str) -> Compiled:
        """Compile, write the blob and import it, so that memory holds the weights only once."""
        model = self._compile()
        try:
            write_blob(folder, key, model.export_model)
        except OSError as error:
            _warn_once(folder, error)
            return Compiled(model)
        except Exception as error:  # its exceptions share no base class
            if not is_fault(error, PACKAGE):
                raise
            _logger.warning(
                "the compiled model of %r is not kept: %s", self.source.name, clean_message(error)
            )
            return Compiled(model)
        del model
        release_free_memory()
        return self._import(folder, key) or Compiled(self._compile())


def _warn_once(folder: Path, error: OSError) -> None:
    if folder in _reported:
        return
    _reported.add(folder)
    _logger.warning(
        "compiled models cannot be kept in %s: %s. They are compiled in every process; set "
        "SAMCLIP_CACHE_DIR to a folder of your own to keep them.",
        folder, error.strerror or error,
    )  # fmt: skip
