"""The stages of a fresh process whose memory is measured, each in processes that go no further.

A stage includes those before it; the bytes of the bundle that are read for it are added up.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from samclip.benchmarks.child_process import run_python
from samclip.benchmarks.latency.contenders import Contender
from samclip.benchmarks.latency.startup import describe_work
from samclip.benchmarks.measurements import MemoryUse
from samclip.benchmarks.memory.child import CODE
from samclip.errors import CapabilityError
from samclip.progress import Progress, track
from samclip.runtime.bundles.manifest import Graph, Manifest, base_name
from samclip.runtime.graph_outputs import DECODING_GRAPHS

ON_HOST = "runs on the CPU: all of it is in the resident set"
TIMEOUT = 1800.0  # seconds: 1,024 points on a slow CPU
TOKENS, REGIONS, TOWER = "clip_head", "region_head", "clip_tower"
MAPS, EITHER = frozenset({TOKENS, TOWER}), frozenset({TOKENS, REGIONS, TOWER})


class ProcessMemory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one process measured: bytes, and why those of the device are unknown."""

    peak: int
    device: int | None
    reason: str | None


@dataclass(frozen=True)
class Stage:
    """A stage: its name, the step that the process does last, and the graphs first used by it.

    `names_by`: heads of a bundle, one of which it needs in addition to text.
    """

    name: str
    step: str | None = None
    graphs: tuple[str, ...] = ()
    names_by: frozenset[str] = frozenset()


STAGES = (
    Stage("import samclip"),
    Stage("load: encoder ready", "load", ("encoder",)),
    Stage("encode a photo", "encode"),
    Stage("segment a point", "segment", DECODING_GRAPHS),
    Stage(
        "classify 20 names",
        "classify",
        ("clip_head", "clip_roi", "clip_encoder", "text_encoder"),
        EITHER,
    ),
    Stage("name a mask, 20 names", "name", ("roi_classifier",), frozenset({REGIONS, TOWER})),
    Stage("semantic coarse, 20 names", "semantic", ("token_aggregation",), names_by=MAPS),
    Stage("semantic refined, 20 names", "refine", names_by=MAPS),
)
EVERYTHING = Stage("everything, 1,024 points", "everything")
FIRST_SHAPE = STAGES[:4]


@dataclass(frozen=True)
class Shapes:
    """That a bundle's shapes of input are measured; at most `stay` are ready, None: all of them."""

    stay: int | None = None


def stages_of(
    manifest: Manifest, everything: bool, shapes: Shapes | None = None
) -> tuple[Stage, ...]:
    """List the stages that a bundle can go through, in order.

    With `shapes` they are those of the first shape up to a mask, then a mask on each shape. Raises
    CapabilityError where `everything` is asked of one that names boxes, and `shapes` of one that
    has a single one.
    """
    if shapes is not None:
        return (*FIRST_SHAPE, _on_all_shapes(manifest, shapes))
    text = manifest.text is not None
    heads = {name for name in EITHER if text and getattr(manifest, name) is not None}
    stages = tuple(stage for stage in STAGES if not stage.names_by or stage.names_by & heads)
    if everything and manifest.region_head is not None:
        raise CapabilityError(
            f"bundle {manifest.name!r} gives one mask for each prompt, and cannot segment "
            "everything. Leave out --everything, or choose another bundle."
        )
    return (*stages, EVERYTHING) if everything else stages


def _on_all_shapes(manifest: Manifest, shapes: Shapes) -> Stage:
    """Return the stage of a mask on each shape; CapabilityError where there is one shape."""
    count = len(manifest.canvases)
    if count == 1:
        height, width = manifest.canvases[0]
        raise CapabilityError(
            f"bundle {manifest.name!r} has one shape of input, {width} x {height}. Leave out "
            "--shapes, or export one with several: samclip-export --aspects 1:1,4:3"
        )
    used = {name for stage in FIRST_SHAPE for name in stage.graphs}
    graphs = tuple(name for name in manifest.all_graphs if base_name(name) in used)
    bound = "" if shapes.stay is None else f", {shapes.stay} stay"
    return Stage(f"a point on each of {count} shapes{bound}", "shapes", graphs)


def bytes_read(
    manifest: Manifest, stages: tuple[Stage, ...], backend: str, precision: str | None
) -> int:
    """Add up the files of the bundle that a process reads which went through `stages`.

    Weights that graphs share count once; the manifest itself is not counted.
    """
    used = {name for stage in stages for name in stage.graphs}
    files: set[str] = set()
    for name in used:
        graph = manifest.graph(name)
        if graph is not None:
            files |= _files(graph, backend, precision)
    if any(stage.names_by for stage in stages) and manifest.text is not None:
        text = manifest.text
        named = (text.tokenizer, text.labels, text.label_embeddings)
        files |= {name for name in named if name is not None}
    return sum(manifest.files[name].size for name in files)


def _files(graph: Graph, backend: str, precision: str | None) -> set[str]:
    """Name the files of the variant that the runtime would take."""
    variant = graph.variant_for(backend, precision) or graph.variant_for(backend)
    if variant is None:
        return set()
    return {variant.file} | ({variant.weights} if variant.weights is not None else set())


def measure_memory(
    contenders: Sequence[Contender],
    photo: Path,
    progress: Progress,
    *,
    repeats: int = 1,
    everything: bool = False,
    shapes: Shapes | None = None,
) -> tuple[MemoryUse, ...]:
    """Start `repeats` processes for each stage of each model; raises EngineRunError when one fails.

    `everything`: also a stage of 1,024 points; `shapes`: see `stages_of`.
    """
    work = [
        (contender, stages[: number + 1])
        for contender in contenders
        for stages in [stages_of(contender.model.manifest, everything, shapes)]
        for number in range(len(stages))
    ]
    return tuple(
        _measure(contender, stages, photo, repeats, None if shapes is None else shapes.stay)
        for contender, stages in track(progress, work, "stages")
    )


def _measure(
    contender: Contender,
    stages: tuple[Stage, ...],
    photo: Path,
    repeats: int,
    max_shapes: int | None,
) -> MemoryUse:
    found = [_run(contender, stages, photo, max_shapes) for _ in range(repeats)]
    manifest, backend = contender.model.manifest, contender.backend.name
    disk = bytes_read(manifest, stages, backend, contender.variant.precision)
    devices = [one.device for one in found if one.device is not None]
    return MemoryUse(
        model=contender.name,
        stage=stages[-1].name,
        peaks=tuple(one.peak for one in found),
        device_memory=max(devices, default=None),
        device_reason=ON_HOST if contender.backend.on_host else found[-1].reason,
        disk=disk or None,
    )


def _run(
    contender: Contender, stages: tuple[Stage, ...], photo: Path, max_shapes: int | None
) -> ProcessMemory:
    with tempfile.TemporaryDirectory() as cache:
        described = describe_work(contender, photo, cache)
        work = {
            **described,
            "options": {**described["options"], "max_shapes": max_shapes},
            "canvases": contender.model.manifest.canvases,
            "steps": [stage.step for stage in stages if stage.step is not None],
            "gpu": None if contender.backend.on_host else 0,
        }
        return run_child(contender.name, json.dumps(work))


def run_child(name: str, work: str) -> ProcessMemory:
    """Run one process to its end; raises EngineRunError when it fails."""
    answer = run_python(
        f"a fresh process for {name}", CODE, work, timeout=TIMEOUT, retry="samclip segment"
    )
    return msgspec.json.decode(answer, type=ProcessMemory)
