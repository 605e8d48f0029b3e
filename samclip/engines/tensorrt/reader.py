"""Plans read in pieces by TensorRT, without a copy of them in memory.

On a Jetson the GPU's memory is the machine's, and a plan read whole would be there twice while it
is loaded. `IStreamReaderV2` takes any part of what it asks for and asks for the rest. The reader of
TensorRT 10.3 is not used: no document says that it takes less than it asks for.
"""

from __future__ import annotations

from typing import Any

from samclip.engines.plans.library import Library
from samclip.engines.plans.own_files import VerifiedFile
from samclip.errors import PlanDamagedError


def reads_in_pieces(library: Library) -> bool:
    """Whether plans are read in pieces: where memory is shared, and the library can."""
    gpu = library.state.gpu
    return gpu is not None and gpu.integrated and hasattr(library.module, "IStreamReaderV2")


def make_reader(module: Any, file: VerifiedFile) -> Any:
    """Return a TensorRT stream reader of a file; its `fault` is the error that ended it, or None.

    TensorRT prints exceptions of a reader and goes on, so none may leave it.
    """

    class PlanReader(module.IStreamReaderV2):  # type: ignore[misc]  # the module is only known here
        def __init__(self, file: VerifiedFile) -> None:
            module.IStreamReaderV2.__init__(self)
            self.fault: PlanDamagedError | None = None
            self._file = file  # not in the class, which lives until it is collected
            self._position = 0

        def read(self, num_bytes: int, stream: int) -> bytes:  # noqa: ARG002 - TensorRT's own
            try:
                data = b"" if self.fault else self._file.read_at(self._position)[:num_bytes]
            except PlanDamagedError as error:
                self.fault, data = error, b""
            except OSError as error:
                self.fault, data = PlanDamagedError(f"the plan cannot be read: {error}"), b""
            self._position += len(data)
            return data

        def seek(self, offset: int, where: Any) -> bool:
            starts = {"SET": 0, "CUR": self._position, "END": self._file.size}
            position = starts[where.name] + offset
            if not 0 <= position <= self._file.size:
                return False
            self._position = position
            return True

    return PlanReader(file)
