"""ONNX Runtime's trace of a session: the time of each node in each run.

A session that profiles writes its events to a file, in the form of Chrome's traces: `model_run`
for each run, and `NAME_kernel_time` for each node in it, in microseconds. Builds with
`--enable_cuda_profiling` add an event of the category "Kernel" for each kernel on a GPU, with its
node in `parent_name`. There the times of kernels count, because a node's event is over once they
have been launched; without them the trace is refused. Runs of one session must not overlap, or
their nodes cannot be kept apart.
"""

from __future__ import annotations

import json
import shutil
import weakref
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from samclip.engines.profile import NodeTime, ProfiledRun, write_shape
from samclip.errors import EngineRunError

RUN, NODE_SUFFIX, KERNEL = "model_run", "_kernel_time", "Kernel"
ON_GPU = "CUDAExecutionProvider"
MICRO = 1e-6
Event = Mapping[str, Any]


class Trace:
    """The profile of one session; its file is removed once it was read, or with this."""

    def __init__(self, settings: Any) -> None:
        """Make a session profile that is started with these settings."""
        folder = mkdtemp(prefix="samclip-profile-")
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(folder) / "trace")

    def read(self, session: Any, graph: str) -> tuple[ProfiledRun, ...]:
        """End the profile and return the runs; raises EngineRunError where it cannot be read."""
        path = Path(session.end_profiling())
        try:
            return read_trace(path.read_bytes())
        except (OSError, ValueError) as error:
            raise EngineRunError(
                f"the profile of {graph!r} cannot be read: {error}. Make room in the folder for "
                "temporary files, and run it again."
            ) from error
        finally:
            self._remove()


def read_trace(data: bytes) -> tuple[ProfiledRun, ...]:
    """Return the runs of a trace.

    Raises ValueError for what is none, EngineRunError where kernels on a GPU have no times.
    """
    events = json.loads(data)
    if not isinstance(events, list):
        raise ValueError("it is not a list of events")
    try:
        runs = [event for event in events if event.get("name") == RUN]
        nodes = [event for event in events if event.get("cat") == "Node"]
        kernels = [event for event in events if event.get("cat") == KERNEL]
        return tuple(
            _run(run, _during(run, nodes), _during(run, kernels))
            for run in sorted(runs, key=lambda event: event["ts"])
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"an event lacks {error}") from error


def _during(run: Event, events: Iterable[Event]) -> list[Event]:
    """Return the events that begin while a run goes on, the first of them first."""
    end = run["ts"] + run["dur"]
    inside = [event for event in events if run["ts"] <= event["ts"] <= end]
    return sorted(inside, key=lambda event: event["ts"])


def _run(run: Event, nodes: Iterable[Event], kernels: Sequence[Event]) -> ProfiledRun:
    timed = [event for event in nodes if event["name"].endswith(NODE_SUFFIX)]
    launched = {event["name"] for event in timed if event["args"].get("provider") == ON_GPU}
    if launched and not kernels:
        raise EngineRunError(
            "this build of ONNX Runtime does not time kernels on GPUs, so that nodes would have "
            "the time of their launches. Take one built with --enable_cuda_profiling, or use "
            "NVIDIA Nsight Systems."
        )
    on_gpu: dict[str, float] = defaultdict(float)
    for kernel in kernels:
        on_gpu[kernel["args"].get("parent_name", "")] += kernel["dur"]
    times = (on_gpu[e["name"]] if e["name"] in launched else e["dur"] for e in timed)
    found = (_node(event, micros * MICRO) for event, micros in zip(timed, times, strict=True))
    return ProfiledRun(run["dur"] * MICRO, tuple(found))


def _node(event: Event, seconds: float) -> NodeTime:
    arguments = event["args"]
    return NodeTime(
        name=event["name"].removesuffix(NODE_SUFFIX),
        operator=arguments["op_name"],
        seconds=seconds,
        kernel=arguments.get("provider", ""),
        shapes=" -> ".join(
            _shapes(arguments[key])
            for key in ("input_type_shape", "output_type_shape")
            if arguments.get(key)
        ),
    )


def _shapes(described: Iterable[Mapping[str, Sequence[int]]]) -> str:
    """Write the shapes of tensors that are described as [{"float": [1, 3, 64, 64]}, ...]."""
    return ", ".join(write_shape(tuple(dims)) for one in described for dims in one.values())
