"""Sessions on the disk: a graph as ONNX Runtime optimised it for this processor.

Optimising a graph takes far longer than reading what came of it. So a large graph of a bundle is
kept once it was optimised: a folder for each key, with the graph, its weights, and a sidecar with
their SHA-256. The weights are mapped: they are in memory once, and the system may drop them.

The key is a digest of the graph's and the weights' digests and of all that the result depends on;
samclip's version is in it, because the check of graphs is. A bundle's manifest may only claim the
digests: what is found under them was computed from bytes that have them, and that passed the check.
What is kept steers native code, so only the user's own files are read, which nobody else can write
to.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import msgspec

from samclip.disk.cache_folder import cache_dir, open_cache, read_private_file
from samclip.disk.partial_files import is_safely_owned, locked_partial, remove_abandoned, write_file
from samclip.engines.backend_names import ONNXRUNTIME
from samclip.engines.base import GraphSource
from samclip.engines.machine.device import describe_processor
from samclip.engines.machine.free_memory import available_memory
from samclip.engines.plans.own_files import hash_own, read_own
from samclip.engines.plans.record import Record, Sha256
from samclip.engines.plans.sidecar import BuiltGraph
from samclip.errors import PlanDamagedError
from samclip.version import __version__

SCHEMA = 1  # of the key: another one makes all that was kept before it stale
LEAST_BYTES = 5 * 10**6  # of weights: smaller graphs are optimised in the time that hashing takes
LIMIT_BYTES = 2 * 10**9  # of all that is kept together
MEMORY_TIMES = 8  # so often the memory that is free has what is kept: writing it takes two copies
FREE_TIMES = 10  # what is kept takes at most this share of the disk's free room
MAX_GRAPH_BYTES = 2**26
INLINE_BYTES = 4096  # smaller tensors stay in the graph, where shapes are inferred from them
MODE = 0o600
GRAPH, WEIGHTS, SIDECAR = "graph.onnx", "weights.data", "sidecar.json"
WEIGHTS_FILE = "session.optimized_model_external_initializers_file_name"
INLINE_SIZE = "session.optimized_model_external_initializers_min_size_in_bytes"

_logger = logging.getLogger("samclip")


class Sidecar(Record, frozen=True, kw_only=True):
    """What is kept under a key: the digests of the graph and of its weights."""

    schema_version: Literal[1] = 1
    key: Sha256
    graph: Sha256
    weights: Sha256


@dataclass(frozen=True)
class Kept:
    """The place of one graph's session; there may be nothing yet."""

    folder: Path  # of all that is kept
    key: str

    @property
    def place(self) -> Path:
        """The folder of this graph's files."""
        return self.folder / self.key

    def is_there(self) -> bool:
        """Whether something is kept, sound or not; nothing is made to find out."""
        with contextlib.suppress(OSError):
            return is_safely_owned(self.folder.stat()) and (self.place / SIDECAR).exists()
        return False

    def read(self) -> bytes | None:
        """Verify what is kept and return the graph; what is damaged is removed, and None.

        The weights stay on the disk, for ONNX Runtime to map.
        """
        try:
            data = read_private_file(self.place / SIDECAR, MAX_GRAPH_BYTES)
            sidecar = msgspec.json.decode(data, type=Sidecar)
            graph = read_own(self.place / GRAPH, MAX_GRAPH_BYTES)
            found = (hashlib.sha256(graph).hexdigest(), hash_own(self.place / WEIGHTS))
            if (sidecar.key, *found) != (self.key, sidecar.graph, sidecar.weights):
                raise PlanDamagedError("its bytes are not those of its SHA-256")
        except (OSError, msgspec.MsgspecError, UnicodeError, PlanDamagedError) as error:
            self.remove(str(error))
            return None
        with contextlib.suppress(OSError):  # a cache that can only be read
            os.utime(self.place / SIDECAR)  # says when it was last used
        return graph

    def remove(self, reason: str) -> None:
        """Remove what is kept, and log why."""
        _logger.warning(
            "the optimised graph in %s is removed and made again: %s", self.place, reason
        )
        shutil.rmtree(self.place, ignore_errors=True)

    @contextmanager
    def written(self, settings: Any) -> Iterator[None]:
        """Have a session that is started in the block with `settings` kept; raises OSError."""
        remove_abandoned(self.folder)
        with locked_partial(self.place, lambda path: path.mkdir(0o700)) as partial:
            settings.optimized_model_filepath = str(partial / GRAPH)
            settings.add_session_config_entry(WEIGHTS_FILE, WEIGHTS)
            settings.add_session_config_entry(INLINE_SIZE, str(INLINE_BYTES))
            yield
            for name in (GRAPH, WEIGHTS):
                (partial / name).chmod(MODE)
            sidecar = Sidecar(
                key=self.key,
                graph=hash_own(partial / GRAPH),
                weights=hash_own(partial / WEIGHTS),
            )
            write_file(partial / SIDECAR, msgspec.json.encode(sidecar), MODE, synced=False)
            with contextlib.suppress(OSError):  # another process was first
                partial.rename(self.place)
        _keep_within(self.folder, LIMIT_BYTES, self.place)


def place_of(library: ModuleType, graph: BuiltGraph, settings: tuple[str, ...]) -> Kept | None:
    """Return the place of a bundle's graph; None for another's, and where there is no cache.

    `settings`: those of the session that change what is kept.
    """
    if not graph.origin or graph.weights_sha256 is None:
        return None
    try:
        folder = cache_dir() / ONNXRUNTIME
    except OSError:  # no folder of caches, which is reported where one is needed
        return None
    facts = (
        SCHEMA,
        __version__,
        library.__version__,
        (platform.system(), *describe_processor()),
        settings,
        (graph.onnx_sha256, graph.weights_sha256),
    )
    return Kept(folder, hashlib.sha256(msgspec.json.encode(facts)).hexdigest())


def is_worth_keeping(source: GraphSource) -> bool:
    """Whether a graph is large, there is room for it, and its tokens choose no rows.

    Those must stay below a bound that only the check of the graph knows. Makes the folder.
    """
    size = sum(len(data) for data in source.files.values())
    if size < LEAST_BYTES or source.signature is None or source.signature.token_rows is not None:
        return False
    floats = sum(weight.size * 4 for weight in source.weights.values())  # as they are computed in
    memory = available_memory()  # ONNX Runtime writes the graph from a copy
    if floats > LIMIT_BYTES or (memory is not None and floats * MEMORY_TIMES > memory):
        return False
    folder = open_cache(ONNXRUNTIME)
    if folder is None:
        return False
    with contextlib.suppress(OSError):
        return floats * FREE_TIMES <= shutil.disk_usage(folder).free
    return False


def _keep_within(folder: Path, limit: int, newest: Path) -> None:
    """Remove what was used longest ago, but never `newest`, down to `limit` bytes."""
    used = []
    for sidecar in folder.glob(f"*/{SIDECAR}"):
        with contextlib.suppress(OSError):  # removed meanwhile
            size = sum(path.stat().st_size for path in sidecar.parent.iterdir())
            used.append((sidecar.parent == newest, sidecar.stat().st_mtime, size, sidecar.parent))
    total = sum(size for _, _, size, _ in used)
    for is_newest, _, size, place in sorted(used):
        if total <= limit or is_newest:
            return
        shutil.rmtree(place, ignore_errors=True)
        total -= size
