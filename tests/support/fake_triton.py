"""Triton in this process: the module that its Python back end gives to models, and a server.

`FakeServer` loads a repository whose graphs run in the Python back end, as Triton would: each model
by its `model.py`, one instance each. Outputs that a request prefers on the GPU become tensors that
say so, and whose numbers cannot be read on the host.
"""

from __future__ import annotations

import json
import runpy
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from triton_client import parse_config

from samclip.engines.dlpack import CUDA, Placed, make_capsule

FRONT = "street"  # the name of the front model in tests
MODULE = "triton_python_backend_utils"
GPU = 7  # any number but 0, which a forgotten one would be


class FakeTensor:
    """As `pb_utils.Tensor`; `there`: it lies on a GPU."""

    def __init__(self, name: str, array: NDArray[Any], there: bool = False) -> None:
        self._name, self.array, self.there = name, array, there

    @staticmethod
    def from_dlpack(name: str, capsule: Any) -> FakeTensor:
        if isinstance(capsule, FakeTensor):
            return FakeTensor(name, capsule.array, capsule.there)
        owner = types.SimpleNamespace(
            __dlpack__=lambda **_: capsule, __dlpack_device__=lambda: (1, 0)
        )
        return FakeTensor(name, np.from_dlpack(owner))

    def name(self) -> str:
        return self._name

    def is_cpu(self) -> bool:
        return not self.there

    def as_numpy(self) -> NDArray[Any]:
        assert not self.there, f"{self._name} is copied from the GPU"
        return self.array

    def to_dlpack(self) -> Any:
        return self if self.there else self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (CUDA, GPU)

    def __dlpack__(self, **_: Any) -> Any:
        address = self.array.ctypes.data
        placed = Placed((CUDA, GPU), address, self.array.shape, self.array.dtype)
        return make_capsule(placed, self.array, None)


class FakeError:
    """As `pb_utils.TritonError`."""

    def __init__(self, text: str) -> None:
        self.text = text

    def message(self) -> str:
        return self.text


class FakeResponse:
    """As `pb_utils.InferenceResponse`."""

    def __init__(self, output_tensors: Any = (), error: FakeError | None = None) -> None:
        self._tensors, self._error = list(output_tensors), error

    def output_tensors(self) -> list[FakeTensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> FakeError | None:
        return self._error


@dataclass
class FakeRequest:
    """What a model gets: tensors, and the outputs that are wanted."""

    tensors: list[FakeTensor]
    wanted: set[str]

    def inputs(self) -> list[FakeTensor]:
        return self.tensors

    def requested_output_names(self) -> set[str]:
        return self.wanted


@dataclass
class FakeServer:
    """The models of a repository; `calls` counts the requests of each, `logged` what was logged."""

    folder: Path
    models: dict[str, Any] = field(default_factory=dict)
    configs: dict[str, Any] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    logged: list[str] = field(default_factory=list)

    def load(self) -> None:
        for folder in sorted(path for path in self.folder.iterdir() if path.is_dir()):
            config = parse_config((folder / "config.pbtxt").read_text())
            self.configs[config.name] = config
            parameters = {k: {"string_value": v.string_value} for k, v in config.parameters.items()}
            model = runpy.run_path(str(folder / "1" / "model.py"))["TritonPythonModel"]()
            model.initialize(
                {
                    "model_config": json.dumps({"parameters": parameters}),
                    "model_repository": str(folder),
                    "model_version": "1",
                    "model_instance_device_id": "0",
                }
            )
            self.models[folder.name] = model

    def answer(self, name: str, tensors: list[FakeTensor], wanted: set[str]) -> FakeResponse:
        """Send one request to a model, whose configuration has its tensors."""
        self.calls[name] = self.calls.get(name, 0) + 1
        for tensor in tensors:
            self.check(name, tensor)
        (response,) = self.models[name].execute([FakeRequest(tensors, wanted)])
        return response

    def check(self, name: str, tensor: FakeTensor) -> None:
        """Refuse a tensor whose name, type or shape the model's configuration does not have."""
        config = self.configs[name]
        known = {entry.name: entry for entry in config.input}
        if tensor.name() in {"START", "END", "CORRID"}:
            return
        dims = list(known[tensor.name()].dims)
        shape = list(tensor.array.shape)
        if config.max_batch_size:
            assert 1 <= shape.pop(0) <= config.max_batch_size
        assert len(dims) == len(shape), (name, tensor.name(), dims, shape)
        fits = all(dim in {-1, size} for dim, size in zip(dims, shape, strict=True))
        assert fits, (name, tensor.name(), dims, shape)

    def ask(
        self,
        name: str,
        tensors: Mapping[str, Any],
        sequence: int = 1,
        start: bool = False,
        end: bool = False,
        wanted: set[str] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Ask the front model as a client does; AssertionError with the text of an error."""
        controls = {
            "START": np.array([start], np.int32),
            "END": np.array([end], np.int32),
            "CORRID": np.array([sequence], np.uint64),
        }
        given = [FakeTensor(key, np.asarray(value)) for key, value in tensors.items()]
        given += [FakeTensor(key, value) for key, value in controls.items()]
        every = {entry.name for entry in self.configs[name].output}
        response = self.answer(name, given, every if wanted is None else wanted)
        error = response.error()
        assert error is None, error.text
        return {tensor.name(): tensor.array for tensor in response.output_tensors()}


@contextmanager
def fake_triton(folder: Path) -> Iterator[FakeServer]:
    """Load a repository for the block."""
    server = FakeServer(folder)
    module: Any = types.ModuleType(MODULE)

    @dataclass
    class InferenceRequest:
        model_name: str
        requested_output_names: list[str]
        inputs: list[FakeTensor]
        preferred_memory: Any = None

        def exec(self) -> FakeResponse:
            # another model reads the memory that this request shares, wherever it is
            inner = [FakeTensor(each.name(), each.array) for each in self.inputs]
            response = server.answer(self.model_name, inner, set(self.requested_output_names))
            for tensor in response.output_tensors():
                tensor.there = self.preferred_memory == ("gpu", GPU)
            return response

    module.Tensor = FakeTensor
    module.InferenceRequest = InferenceRequest
    module.InferenceResponse = FakeResponse
    module.TritonError = FakeError
    module.TRITONSERVER_MEMORY_GPU = "gpu"
    module.PreferredMemory = lambda memory, number: (memory, number)
    module.Logger = types.SimpleNamespace(log_error=server.logged.append)
    before = sys.modules.get(MODULE)  # of a server around this one
    sys.modules[MODULE] = module
    try:
        server.load()
        yield server
    finally:
        for model in server.models.values():
            model.finalize()
        del sys.modules[MODULE]
        if before is not None:
            sys.modules[MODULE] = before
