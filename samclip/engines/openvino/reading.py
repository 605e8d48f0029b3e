"""A graph as OpenVINO's model, read from verified bytes alone.

OpenVINO takes external data of ONNX only from files beside a graph file: given bytes, it looks for
them in the current folder. Reading the bundle's own files by their path would be reading what
nobody verified. So they are written to a private folder, which is removed at once. OpenVINO maps
the files and holds on to them for as long as the compiled model lives; so the folder is in memory
where the system offers that and has the room, because a disk would write and free them for nothing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from samclip.engines.base import GraphSource
from samclip.engines.external_data import external_locations
from samclip.engines.external_tensors import external_fault
from samclip.errors import EngineRunError

GRAPH_FILE = "graph.onnx"
PREFIX = "samclip-openvino-"
IN_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of random name is made there
ROOM = 2  # times what is written must be free there: other processes load models too


@contextmanager
def read_graph(core: Any, source: GraphSource) -> Iterator[Any]:
    """Read a graph for as long as it takes to compile it; what that gives may be used on.

    Raises EngineRunError for a graph that names files whose bytes it does not come with, or
    tensors that they do not hold, and whatever `core` raises for a broken one.
    """
    locations = external_locations(source.onnx)
    if not locations:
        yield core.read_model(source.onnx)
        return
    _check_locations(source, locations)
    size = len(source.onnx) + sum(len(source.files[location]) for location in locations)
    # Windows cannot remove a file that is still mapped: there it is left to the system.
    with tempfile.TemporaryDirectory(
        prefix=PREFIX, dir=_place(size), ignore_cleanup_errors=os.name == "nt"
    ) as folder:
        graph = _write(Path(folder), source, locations)
        source.release()  # the files are mapped, and hold all that is needed
        yield core.read_model(graph)


def _place(size: int) -> Path | None:
    """Choose the folder in memory when `size` bytes leave room there, else None, the system's."""
    try:
        free = shutil.disk_usage(IN_MEMORY).free
    except OSError:  # not Linux
        return None
    return IN_MEMORY if os.access(IN_MEMORY, os.W_OK) and free >= ROOM * size else None


def _check_locations(source: GraphSource, locations: set[str]) -> None:
    """Refuse a graph whose external data is not among the verified files, or outside."""
    for location in sorted(locations):
        place = Path(location)
        inside = not place.is_absolute() and ".." not in place.parts and location != GRAPH_FILE
        if location not in source.files or not inside:
            known = ", ".join(source.files) or "none"
            raise EngineRunError(
                f"the graph {source.name!r} could not be loaded by openvino: it keeps weights at "
                f"{location[:100]!r}, and comes with the files {known}. Export the bundle again."
            )
    fault = external_fault(source)
    if fault is not None:
        raise EngineRunError(
            f"the graph {source.name!r} could not be loaded by openvino: {fault}. Export the "
            "bundle again."
        )


def _write(folder: Path, source: GraphSource, locations: set[str]) -> Path:
    """Write the graph and its weights into a folder that only this user can enter."""
    graph = folder / GRAPH_FILE
    try:
        graph.write_bytes(source.onnx)
        for location in locations:
            file = folder / location
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(source.files[location])
    except OSError as error:
        raise EngineRunError(
            f"the graph {source.name!r} could not be written to {folder} for openvino: "
            f"{error.strerror}. Free some room there, or set TMPDIR to a larger disk."
        ) from error
    return graph
