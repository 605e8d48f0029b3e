"""Energy of an inference: a counter read before and after many of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from samclip.benchmarks.latency.contenders import Contender
from samclip.benchmarks.latency.sensors import open_sensor
from samclip.benchmarks.latency.timing import Energy
from samclip.benchmarks.latency.walk import ALL_STEPS, Walk, Workload, way_of
from samclip.benchmarks.progress import Track
from samclip.benchmarks.rows import Row
from samclip.errors import CapabilityError

SECONDS = 5.0  # counters move some ten times a second: an error of 2 %
PROTOCOL = (
    f"Energy is that of '{ALL_STEPS}', again and again for {SECONDS:.0f} s, by the sensor that its "
    "row names: of the whole GPU, CPU or board, its idle part included."
)


def measure_energy(
    contenders: Sequence[Contender], photos: Sequence[Path], track: Track
) -> tuple[Energy, ...]:
    """Measure each model after the other; where there is no sensor the reason is given."""
    return tuple(_measure(contender, photos) for contender in track(contenders, "energy"))


def _measure(contender: Contender, photos: Sequence[Path]) -> Energy:
    way = way_of(contender.model)
    try:
        with open_sensor(contender.backend.on_host) as sensor:
            walk = Walk(contender, Workload())
            walk.prepare()
            walk.answer(photos[0])
            before, start, runs = sensor.joules(), time.monotonic(), 0
            while time.monotonic() - start < SECONDS:
                walk.answer(photos[runs % len(photos)])
                runs += 1
            seconds, joules = time.monotonic() - start, sensor.joules() - before
    except CapabilityError as error:
        return Energy(
            model=contender.name, name=way, joules=None, runs=0, seconds=0, reason=str(error)
        )
    return Energy(
        model=contender.name,
        name=way,
        joules=joules,
        runs=runs,
        seconds=seconds,
        sensor=sensor.name,
    )


def describe_energy(energy: Energy) -> str:
    """Say in a line what was measured, or why nothing was."""
    if energy.per_run is None:
        return f"{energy.model}: energy unknown: {energy.reason}"
    watts = (energy.joules or 0.0) / energy.seconds
    return (
        f"{energy.model}: {energy.per_run:.3f} J for '{energy.name}', {watts:.1f} W over "
        f"{energy.runs} runs ({energy.sensor})"
    )


def energy_row(energy: Energy) -> Row:
    """Make a row, without a value where there is no sensor."""
    return Row(
        model=energy.model,
        measure=f"energy: {energy.name}",
        subset="warm",
        value=energy.per_run,
        low=None,
        high=None,
        n=energy.runs,
        photos=1,
        unit="joules",
    )
