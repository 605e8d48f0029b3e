"""A compiled model at work: one request, and a new model where a run has failed.

A run that fails midway, as for want of memory, leaves shapes and buffers in the model that do not
fit each other: OpenVINO 2026.4.1 then refuses inputs that are right, or crashes. So nothing that
has failed is used again. With one thread it is worse: a failure raises nothing, a request that was
used before holds its former outputs, and freeing the model crashes the next one. There each run
has a request of its own, whose outputs are empty if it fails, and such a model is never freed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.engines.openvino.compiled_cache import Compiled

_never_freed: list[Compiled] = []


class Computing:
    """What `compile_graph` gives, compiled again after a failure; for one thread at a time."""

    def __init__(self, compile_graph: Callable[[], Compiled]) -> None:
        self._compile = compile_graph
        self._compiled: Compiled | None = compile_graph()
        self._request: Any = None
        self._is_silent = self.model.get_property("INFERENCE_NUM_THREADS") == 1

    @property
    def model(self) -> Any:
        """OpenVINO's compiled model."""
        return self._ready().model

    def infer(self, values: Mapping[str, Any], names: Sequence[str]) -> list[NDArray[np.generic]]:
        """Compute the outputs `names`, as copies: the next run writes over the request's own."""
        request = self._request or self.model.create_infer_request()
        try:
            request.infer(values, share_inputs=True, share_outputs=True)
            found = [request.get_tensor(name).data.copy() for name in names]
            self._request = None if self._is_silent else request
        except BaseException:
            self.forget()
            raise
        finally:
            del request  # or the error's traceback would keep it
        return found

    def forget(self) -> None:
        """Use the model no more: a run of it has failed."""
        if self._is_silent and self._compiled is not None:
            _never_freed.append(self._compiled)
        self._compiled = self._request = None

    def _ready(self) -> Compiled:
        if self._compiled is None:
            self._compiled = self._compile()
        return self._compiled
