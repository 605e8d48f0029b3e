"""The process that tries a precision: a processor may be slow in it, or end the process.

The backend times layers of the kinds that encoders have, in FP32 and in the other precision, and
the least time of each is written to standard output.
"""

from __future__ import annotations

import os
import signal

import msgspec

from samclip.engines.base import Reducing
from samclip.engines.child_process import end_after
from samclip.engines.precision_probe import Task
from samclip.engines.registry import get_backend


def main(task: str) -> None:
    """Try the precision of a task, in JSON, and write `Times`; what libraries print goes aside."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    given = msgspec.json.decode(task, type=Task)
    end_after(given.seconds)
    answers = os.dup(1)
    os.dup2(2, 1)
    backend = get_backend(given.backend)
    if not isinstance(backend, Reducing):
        raise TypeError(f"{given.backend} computes in FP32 alone")
    os.write(answers, msgspec.json.encode(backend.time_layers(given.precision)))
    os._exit(0)  # without waiting for the library's threads
