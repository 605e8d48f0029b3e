"""A board record as tables for people."""

from __future__ import annotations

from collections.abc import Iterator

from samclip.benchmarks.board.record import BoardRecord
from samclip.benchmarks.formats import MIB, digits, mebibytes
from samclip.benchmarks.memory.usage import memory_tables
from samclip.benchmarks.tables import Cell, Column, Table, text_columns
from samclip.engines.plans.gate.verdict import GateRow

UNKNOWN = "not known"
FIGURES = ("min", "mean", "median", "p90", "p95", "p99", "max")


def record_tables(record: BoardRecord) -> Iterator[Table]:
    """Lay out a record: the machine, stages, plans, memory, and the machine's state."""
    yield Table(text_columns("what", "on this machine"), list(_facts(record)), "board record")
    yield _stages(record)
    if record.plans:
        yield _plans(record)
    yield from memory_tables(record.memory)
    yield _state(record)


def _facts(record: BoardRecord) -> Iterator[tuple[str, str]]:
    machine, gpu, jetpack, power = record.machine, record.gpu, record.jetpack, record.power
    yield "board", machine.jetson or f"{machine.cpu}, {machine.machine}"
    yield "cores, memory", f"{machine.usable_cores}, {mebibytes(machine.memory)}"
    yield "system", machine.system
    if gpu is not None:
        shared = "the machine's memory" if gpu.shares_memory else mebibytes(gpu.memory)
        yield "gpu", f"{gpu.name}, {gpu.capability}, {gpu.processors} SM, {shared}"
    if jetpack is not None:
        yield "jetpack", f"{jetpack.jetpack or UNKNOWN} (L4T {jetpack.l4t or UNKNOWN})"
        yield "tensorrt of the system", jetpack.tensorrt or UNKNOWN
    mode = power.mode or power.governor or UNKNOWN
    pinned = {True: "pinned", False: "follow the load", None: UNKNOWN}[power.clocks_pinned]
    yield "power mode, clocks", f"{mode} (fastest: {power.fastest_mode or UNKNOWN}), {pinned}"
    bundle, settings = record.bundle, record.settings
    yield "bundle", f"{bundle.name}, manifest {bundle.manifest_sha256 or UNKNOWN}"
    precisions = ", ".join(f"{name} {kind}" for name, kind in settings.precisions.items())
    yield "backend", f"{settings.backend} {record.library_version or UNKNOWN}: {precisions}"
    yield "energy", _energy(record)
    yield "throttled", _throttled(record)
    noise = record.noise
    each = f"{_share(noise.first.noise)} before, {_share(noise.second.noise)} after"
    yield "noise, drift", f"{each}; {(noise.drift - 1) * 100:+.1f} %"
    yield "samclip, date", f"{record.samclip}, {record.date}"
    yield "command", record.command
    yield "signature", f"{record.signature.fingerprint}: {record.signature.note}"


def _share(noise: float | None) -> str:
    return UNKNOWN if noise is None else f"{noise * 100:.1f} %"


def _energy(record: BoardRecord) -> str:
    if record.joules_per_image is None or record.watts is None:
        return f"{UNKNOWN}: {record.energy.reason or 'no sensor'}"
    sensor = record.energy.sensor
    return f"{digits(record.joules_per_image)} J an image, {digits(record.watts)} W ({sensor})"


def _throttled(record: BoardRecord) -> str:
    if record.throttled is None:
        return f"{UNKNOWN}: this machine does not report it"
    return "; ".join(record.throttled) or "no"


def _stages(record: BoardRecord) -> Table:
    columns = (*text_columns("stage"), *(Column(name, "{:.2f}".format) for name in FIGURES))
    rows: list[tuple[Cell, ...]] = []
    for stage in record.stages:
        values = [None if stage.ms is None else getattr(stage.ms, name) for name in FIGURES]
        rows.append((stage.stage, *values))
    repeats = record.settings.repeats
    return Table(columns, rows, f"{record.bundle.name}, milliseconds, n = {repeats}")


def _plans(record: BoardRecord) -> Table:
    columns = (
        *text_columns("plan", "precision", "built by", "gate"),
        Column("MiB", lambda size: f"{size / MIB:.1f}"),
    )
    rows = [
        (
            plan.graph,
            plan.precision,
            f"{plan.library} {plan.library_version}",
            f"{plan.gate}{_worst(plan.gate_rows)}",
            float(plan.plan_bytes),
        )
        for plan in record.plans
    ]
    return Table(columns, rows, "plans")


def _worst(rows: tuple[GateRow, ...]) -> str:
    """Name the row that is nearest to its limit, or farthest below it."""
    judged = [row for row in rows if row.limit is not None]
    if not judged:
        return ""
    worst = min(judged, key=lambda row: row.value - (row.limit or 0.0))
    return f": {worst.measure} of {worst.output} {worst.value:.5f}, limit {worst.limit:g}"


def _state(record: BoardRecord) -> Table:
    """Lay out temperatures, clocks and rails before, during and after."""
    columns = (
        *text_columns("sensor"),
        *(Column(name, digits) for name in ("before", "lowest", "mean", "highest", "after")),
    )
    before, during, after = record.before, record.during, record.after
    kinds = (
        ("\N{DEGREE SIGN}C", 1.0, before.temperatures, during.temperatures, after.temperatures),
        ("MHz", 1e6, before.clocks, during.clocks, after.clocks),
        ("W", 1.0, before.rails, during.rails, after.rails),
    )
    rows: list[tuple[Cell, ...]] = []
    for unit, size, first, span, last in kinds:
        for name in dict.fromkeys([*(first or {}), *(span or {}), *(last or {})]):
            ends = (span or {}).get(name)
            between = (ends.lowest, ends.mean, ends.highest) if ends else (None, None, None)
            found = ((first or {}).get(name), *between, (last or {}).get(name))
            cells = (None if value is None else value / size for value in found)
            rows.append((f"{name}, {unit}", *cells))
    note = "" if rows else "this machine reports no temperatures, clocks or rails"
    return Table(columns, rows, f"state, {during.readings} readings while it ran", note)
