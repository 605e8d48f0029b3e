"""A graph in Triton's Python back end: samclip's own engine behind Triton's interface.

It needs none of Triton's other back ends, so a repository for it runs on every build of Triton. Its
`model.py` is one line; Triton makes the instances and calls `initialize`, `execute`, `finalize`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import Engine, EngineOptions
from samclip.engines.dlpack import CPU, Placed, make_capsule
from samclip.engines.registry import choose
from samclip.errors import BackendUnavailableError, SamclipError
from samclip.triton.records import GraphRecord, read_graph


def triton_module() -> Any:
    """Return the module by which Triton's Python back end talks with a model; only there is one."""
    return importlib.import_module("triton_python_backend_utils")


def check_arrays(module: Any) -> None:
    """Check that Triton's tensors become arrays with their own numbers; raises EngineError.

    Python back ends before Triton 2.57 or so were built for numpy 1: with numpy 2 they take the
    size of an element from the wrong place, and repeat the first one without an error.
    """
    numbers = np.arange(5, dtype=np.uint8)
    place = Placed((CPU, 0), numbers.ctypes.data, numbers.shape, numbers.dtype)
    # Not numpy's own capsule: Triton renames it, and numpy 1 then reports an error without end.
    tensor = module.Tensor.from_dlpack("numbers", make_capsule(place, numbers, None))
    if not np.array_equal(tensor.as_numpy(), numbers):
        raise BackendUnavailableError(
            f"the Python back end of this Triton server does not read arrays of numpy "
            f"{np.__version__}: it was built for numpy 1. Install numpy below 2 where its Python "
            "is, or take a newer Triton."
        )


def version_folder(arguments: dict[str, str]) -> Path:
    """Return the folder of the version that Triton loads."""
    return Path(arguments["model_repository"]) / arguments["model_version"]


class ServedGraph:
    """One graph; what Triton calls a TritonPythonModel."""

    _record: GraphRecord
    _engine: Engine

    def initialize(self, arguments: dict[str, str]) -> None:
        """Verify the graph's files and make its engine ready."""
        check_arrays(triton_module())
        config = json.loads(arguments["model_config"])
        given = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        threads = int(given["threads"]) if "threads" in given else None
        self._record, source = read_graph(version_folder(arguments))
        options = EngineOptions(threads=threads, device=int(arguments["model_instance_device_id"]))
        self._engine = choose(given["engine"]).load(source, options)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests: together where the graph has a batch axis, else one by one."""
        if self._record.batched and len(requests) > 1:
            return self._answer_together(requests)
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Free the engine."""
        self._engine.close()

    def _answer(self, request: Any) -> Any:
        module = triton_module()
        wanted = [name for name in self._record.outputs if name in request.requested_output_names()]
        try:
            results = self._engine.run(self._feeds(request), wanted)
            arrays = {name: np.asarray(results[name].numpy(), order="C") for name in wanted}
        except SamclipError as error:
            return module.InferenceResponse(error=module.TritonError(str(error)))
        return module.InferenceResponse(
            output_tensors=[module.Tensor(name, array) for name, array in arrays.items()]
        )

    def _answer_together(self, requests: Sequence[Any]) -> list[Any]:
        """Run the requests as one batch; each gets its own rows."""
        module = triton_module()
        feeds = [self._feeds(request) for request in requests]
        try:
            joined = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
            results = self._engine.run(joined)
            whole = {name: np.asarray(tensor.numpy()) for name, tensor in results.items()}
        except (SamclipError, ValueError):  # one of them is at fault: each gets its own error
            return [self._answer(request) for request in requests]
        responses, start = [], 0
        for request, feed in zip(requests, feeds, strict=True):
            end = start + len(next(iter(feed.values())))
            wanted = request.requested_output_names()
            tensors = [
                module.Tensor(name, np.ascontiguousarray(rows[start:end]))
                for name, rows in whole.items()
                if name in wanted
            ]
            responses.append(module.InferenceResponse(output_tensors=tensors))
            start = end
        return responses

    def _feeds(self, request: Any) -> dict[str, NDArray[np.generic]]:
        return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
