"""Kernels that TensorRT for RTX compiles on the GPU: when it does so, how they run, and their file.

A plan of TensorRT for RTX fits several GPUs, so its kernels are compiled on the one that runs it.
By default those of a new shape are compiled in the background while slower ones serve, which a
captured graph would keep for good, and every process compiles again. Here they are compiled before
they first run, TensorRT captures its own graphs of them, and a file next to the plan keeps them.

That file is native code: only the user's own is read, after a comparison with the SHA-256 that it
begins with. Its name has digests of the GPU and of the versions of driver and library, and TensorRT
compares both once more.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from pathlib import Path
from typing import Any

from samclip.engines.plans.library import Library
from samclip.engines.plans.own_files import read_digested, write_digested
from samclip.engines.plans.store import KERNELS_SUFFIX, PLAN_SUFFIX, kernel_files
from samclip.engines.process_edges import keep_in_children
from samclip.engines.steps import BuildPlans
from samclip.errors import EngineRunError, PlanDamagedError

MAX_BYTES = 2**30
KEY_DIGITS = 12

_logger = logging.getLogger("samclip")


def compiles_before_running(module: Any) -> bool:
    """Whether a library compiles on the GPU, and can do so before the kernels first run."""
    return hasattr(module, "DynamicShapesKernelSpecializationStrategy")


def kernel_file(plan: Path, library: Library) -> Path | None:
    """Return the file of a plan's kernels on this machine; None for a library that has none."""
    gpu = library.state.gpu
    if gpu is None or not compiles_before_running(library.module):
        return None
    of_gpu = _key(gpu.name, gpu.capability, gpu.processors, gpu.memory)
    of_software = _key(library.name, library.version, library.state.driver, gpu.cuda)
    stem = plan.name.removesuffix(PLAN_SUFFIX)
    return plan.with_name(f"{stem}.{of_gpu}.{of_software}{KERNELS_SUFFIX}")


def _key(*facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:KEY_DIGITS]


class Kernels:
    """The settings of an engine's kernels, the same for all its contexts; a context is current.

    `file`: where the kernels are kept, None for nowhere; `cuda_graphs`: whether to capture graphs.
    Raises EngineRunError.
    """

    def __init__(self, module: Any, engine: Any, file: Path | None, cuda_graphs: bool) -> None:
        self._engine = engine
        self._file = file
        self._config = config = engine.create_runtime_config()
        if config is None:
            raise EngineRunError(
                "TensorRT for RTX gives no runtime configuration. Close other models and programs "
                "on the GPU, or build the plan again.",
                steps=(BuildPlans(),),
            )
        strategies = module.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        self._captures = False
        if hasattr(config, "cuda_graph_strategy"):
            graphs = module.CudaGraphStrategy
            wanted = graphs.WHOLE_GRAPH_CAPTURE if cuda_graphs else graphs.DISABLED
            config.cuda_graph_strategy = wanted
            self._captures = cuda_graphs and config.cuda_graph_strategy == wanted
        self._cache: Any = None
        self._kept = b""  # the digest of what the file has
        if file is not None and hasattr(config, "create_runtime_cache"):
            self._load(file)
        keep_in_children(self)

    @property
    def captures(self) -> bool:
        """Whether TensorRT captures CUDA graphs itself."""
        return self._captures

    def create_context(self) -> Any:
        """Create an execution context with these settings; None where TensorRT gives none."""
        return self._engine.create_execution_context(runtime_config=self._config)

    def save(self) -> None:
        """Write the kernels to their file if there are new ones; no run is in flight.

        An error of the disk is only logged.
        """
        if self._cache is None or self._file is None:
            return
        memory = self._cache.serialize()
        data = b"" if memory is None else bytes(memory)
        digest = hashlib.sha256(data).digest()
        if not data or digest == self._kept:
            return
        self._kept = digest
        try:
            write_digested(self._file, data)
        except OSError as error:
            _logger.warning(
                "the compiled kernels are not kept in %s, and are compiled at the next load again: "
                "%s",
                self._file,
                error.strerror or error,
            )
            self._file = None  # said once
            return
        self._remove_outdated(self._file)

    def close(self) -> None:
        """Let go of all; the engine's contexts are gone, and it goes after this."""
        self._cache = self._config = self._engine = None

    def _load(self, file: Path) -> None:
        self._cache = self._config.create_runtime_cache()
        if self._cache is None:  # then each process compiles
            return
        try:
            data = read_digested(file, MAX_BYTES)
            if self._cache.deserialize(data):
                self._kept = hashlib.sha256(data).digest()
            else:
                _logger.warning(
                    "the compiled kernels in %s are of another GPU, driver or library: they are "
                    "compiled again",
                    file,
                )
        except FileNotFoundError:
            pass
        except PlanDamagedError as error:
            _logger.warning(
                "the compiled kernels are not used, and are compiled again: %s",
                str(error),  # the error itself would keep the engine alive
            )
        self._config.set_runtime_cache(self._cache)

    def _remove_outdated(self, file: Path) -> None:
        """Remove the kernels for this GPU of other drivers and libraries."""
        stem, of_gpu, *_ = file.name.rsplit(".", 3)
        for other in kernel_files(file.with_name(stem), f"{of_gpu}."):
            if other != file:
                with contextlib.suppress(OSError):
                    other.unlink()
