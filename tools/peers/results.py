"""Results of peers: timings and memory for the report, two tables, and how figures are defined."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from samclip.benchmarks.formats import MIB, as_fast, speed_interval
from samclip.benchmarks.latency.photo_pipeline import (
    ALL_STEPS,
    CLASSIFY,
    COARSE,
    POINT,
    THREE_TASKS,
)
from samclip.benchmarks.latency.summary import summary_of
from samclip.benchmarks.measurements import Kind, MemoryUse, Timing
from samclip.benchmarks.records import Row, Subject
from samclip.benchmarks.tables import Cell, Column, Table, text_columns
from samclip.runtime.bundles.manifest import MANIFEST_NAME
from tools.peers.turns import ALL, SETTLE, Outcome

ENCODED = "photo file to image embeddings"
PREPARE, ENCODER = "decode, resize and normalise", "encoder"
STAGES = {"prepare": PREPARE, "encoder": ENCODER}
TASKS = (POINT, CLASSIFY, COARSE)
MAIN_PACKAGES = (
    *("samclip", "torch", "transformers", "onnxruntime", "openvino"),
    *("segment-anything", "samexporter"),
)
ON_HOST = "runs on the CPU: all of it is in the resident set"
COLUMNS = (
    *text_columns("contender"),
    Column("px"),
    Column("encoder", "{:.3f} s".format),
    Column("against the first"),
    Column("to embeddings", "{:.3f} s".format),
    Column("three answers", "{:.3f} s".format),
    Column("peak RSS", lambda value: f"{value / MIB:,.0f} MiB"),
    Column("n"),
)
PROTOCOL = (
    "Each contender is a process in a separate environment. They take turns, photo by photo, "
    f"the order turned round each time, {SETTLE} s between turns; models of all stay in memory.",
    "Everything is FP32 with the same number of threads, save a bundle whose precision was asked "
    "for. Weights of peers are random unless a checkpoint was given; MobileSAM's are its own.",
    f"'{ENCODER}' is one run of the encoder on an image that is ready, and all else that is timed "
    f"comes before or after it: '{PREPARE}' before, tasks after.",
    f"'{ENCODED}' is both together. '{ALL_STEPS}' adds a point segmented, 20 names compared and a "
    f"coarse semantic map, '{THREE_TASKS}' leaves out '{PREPARE}'; names are embedded beforehand.",
    "transformers' semantic map uses the patch tokens of the pass at 224 px that "
    "classified; that of a second pass at the full size is a separate row, in no total.",
    "Peak RSS is VmHWM of the contender's process over its whole life, loading and compiling "
    "included; exporting is done by another process.",
)


def make_timings(outcomes: Sequence[Outcome], photos: int) -> list[Timing]:
    """Return a timing for each stage and task, and for the ways that they add up to."""
    return [
        timing
        for outcome in outcomes
        if outcome.rounds
        for timing in _timings(outcome.contender.name, outcome.rounds, photos)
    ]


def make_memory(outcomes: Sequence[Outcome]) -> tuple[MemoryUse, ...]:
    """Return the peaks of every contender that ran to the end."""
    return tuple(
        MemoryUse(model=outcome.contender.name, stage=stage, peaks=(peak,), device_reason=ON_HOST)
        for outcome in outcomes
        if outcome.reason is None
        for stage, peak in outcome.peaks.items()
    )


def _timings(model: str, rounds: Sequence[dict[str, float]], photos: int) -> Iterator[Timing]:
    samples = {name: tuple(found[name] for found in rounds) for name in rounds[0]}

    def timing(kind: Kind, name: str, parts: Sequence[str], part_of: str | None = None) -> Timing:
        totals = tuple(sum(found) for found in zip(*(samples[p] for p in parts), strict=True))
        return Timing(
            model=model, kind=kind, name=name, samples=totals, photos=photos, part_of=part_of
        )

    yield timing("pipeline", ENCODED, tuple(STAGES))
    for stage, name in STAGES.items():
        yield timing("stage", name, [stage], ENCODED)
    for name in samples:
        if name not in STAGES:
            yield timing("task", name, [name])
    if all(task in samples for task in TASKS):
        yield timing("pipeline", ALL_STEPS, (*STAGES, *TASKS))
        yield timing("pipeline", THREE_TASKS, (ENCODER, *TASKS))


def make_subject(outcome: Outcome) -> Subject:
    """Describe a contender; a bundle down to the SHA-256 of its manifest."""
    facts = {} if outcome.loaded is None else outcome.loaded.facts
    contender, bundle = outcome.contender, outcome.contender.bundle
    digest = None if bundle is None else hashlib.sha256((bundle / MANIFEST_NAME).read_bytes())
    return Subject(
        name=contender.name,
        role="peer" if bundle is None else "measured",
        path=None if bundle is None else str(bundle),
        manifest_sha256=None if digest is None else digest.hexdigest(),
        backend=facts.get("backend"),
        precision=facts.get("precision", "fp32" if bundle is None else None),
        image_size=contender.image_size,
    )


def figures_table(outcomes: Sequence[Outcome], rows: Sequence[Row], photos: int) -> Table:
    """Lay out the comparison, one contender a line."""
    timings = {(t.model, t.name): t for t in make_timings(outcomes, photos)}
    ratios = {
        (row.model.partition(" / ")[0], row.measure): row for row in rows if row.unit == "ratio"
    }
    lines: list[tuple[Cell, ...]] = []
    for outcome in outcomes:
        name, size = outcome.contender.name, outcome.contender.image_size
        if outcome.reason is not None or not outcome.rounds:
            lines.append((name, size, "failed", "", "", "", "", ""))
            continue
        encoder, embeddings, answers = (
            None if timing is None else summary_of(timing).median
            for timing in (timings.get((name, what)) for what in (ENCODER, ENCODED, ALL_STEPS))
        )
        speed = _write_speed(ratios.get((name, f"stage: {ENCODER} (of: {ENCODED})")))
        peak, n = outcome.peaks.get(ALL), len(outcome.rounds)
        lines.append((name, size, encoder, speed, embeddings, answers, peak, n))
    return Table(COLUMNS, lines)


def _write_speed(row: Row | None) -> str:
    if row is None or row.value is None or row.low is None or row.high is None:
        return as_fast(1.0)
    return f"{as_fast(row.value)} ({speed_interval(row.low, row.high)})"


def environments_table(outcomes: Sequence[Outcome]) -> Table:
    """Lay out where each contender ran, or why it failed."""
    lines = [
        (outcome.contender.name, outcome.contender.what, _describe_environment(outcome))
        for outcome in outcomes
    ]
    return Table(text_columns("contender", "what", "versions, or why it failed"), lines)


def _describe_environment(outcome: Outcome) -> str:
    if outcome.reason is not None:
        return outcome.reason
    found = outcome.participant()
    installed = {name.lower().replace("_", "-"): at for name, at in found.packages.items()}
    main = [f"{name} {installed[name]}" for name in MAIN_PACKAGES if name in installed]
    facts = outcome.loaded.facts.values() if outcome.loaded is not None else ()
    return ", ".join([*facts, *main, f"Python {found.python}"])
