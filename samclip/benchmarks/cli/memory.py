"""`samclip-bench memory`: how much memory every stage takes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from samclip.benchmarks.cli import options
from samclip.benchmarks.cli import speed_options as speed
from samclip.benchmarks.cli.latency import open_contenders
from samclip.benchmarks.cli.session import Setup, open_session
from samclip.benchmarks.latency.conditions import describe_settings
from samclip.benchmarks.latency.contenders import combine
from samclip.benchmarks.memory.processes import Plan, measure_memory
from samclip.benchmarks.memory.tables import PROTOCOL as MEMORY_PROTOCOL
from samclip.benchmarks.memory.tables import make_memory_rows, show_memory
from samclip.benchmarks.report import Data, Measurements
from samclip.cli import options as shared

MEMORY_EXAMPLES = """
**Examples:**

- `samclip-bench memory my-bundle --json memory.json`

- `samclip-bench memory my-bundle --backend onnxruntime --backend openvino --everything`
"""

MemoryEverything = Annotated[
    bool, typer.Option("--everything", help="Measure 1,024 points too, which takes long.")
]
MemoryRepeats = Annotated[
    int, typer.Option("--repeats", min=1, metavar="N", help="Processes for each stage.")
]


def memory(
    bundles: speed.Bundles = None,
    backend: speed.Backends = None,
    precision: speed.Precisions = None,
    threads: shared.Threads = None,
    photos: speed.Photos = None,
    repeats: MemoryRepeats = 2,
    everything: MemoryEverything = False,
    json: options.Json = None,
    debug: shared.Debug = False,
) -> None:
    """Measure the peak memory of fresh processes, one for each stage, and bytes on disk.

    On a GPU also what the process holds there, which needs nvidia-ml-py.
    """
    variants = combine(bundles or (), backend or (), precision or (), threads)
    with (
        open_session("memory", Setup(threads=threads, json=json), debug) as session,
        tempfile.TemporaryDirectory(prefix="samclip-bench-") as cache,
    ):
        chosen = speed.choose_photos(photos, 1)
        contenders = open_contenders(session, variants, Path(cache))
        for contender in contenders:
            contender.model.close()  # their memory would be missing on the device
        plan = Plan(chosen[0], repeats, everything)
        uses = measure_memory(contenders, plan, session.track)
        session.show(*show_memory(uses))
        settings = tuple(describe_settings(contender, 0, []) for contender in contenders)
        data = Data.of(photos or speed.PACKAGED, "photos", chosen, chosen)
        measured = Measurements(memory=uses, settings=settings)
        session.finish(data, MEMORY_PROTOCOL, make_memory_rows(uses), measured)
