"""Times that compare torch with engines: the same inputs, the same transfers, in turns.

Three times are taken, of every contender in the same way:

- on the device: inputs and outputs lie on the GPU, one call at a time, waited for. CUDA events
  before and after, so that the GPU's clock measures;
- kernels: the sum of all kernels of a call, as CUPTI reports them through torch's profiler. What a
  call waits for between kernels is not in it;
- with transfers: from float32 in the host's pageable memory to float32 there, both ways through
  pinned memory.

Ratios are of medians, to one reference in the same race, with 95 % intervals by bootstrap over
rounds. Without the reference there is no ratio.
"""

from __future__ import annotations

import re
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from report import Row

from samclip.benchmarks.statistics import median_ratio

ROUNDS, WARM_UP, SHOWN = 30, 5, 5
ATTENTION = re.compile(r"flash|fmha|mha|attention|sdpa|softmax|flex", re.IGNORECASE)
FUSED = re.compile(r"flash|fmha|mha|attention(?!_math)|sdpa|flex", re.IGNORECASE)

Run = Callable[[], None]


@dataclass(frozen=True)
class Contender:
    """A way to compute `images` images a call.

    `on_device` and `with_transfers` both return when the GPU is done; None for a time that cannot
    be taken.
    """

    name: str
    on_device: Run | None
    with_transfers: Run
    images: int = 1

    def runs(self) -> dict[str, Run]:
        found = {"on the device": self.on_device, "with transfers": self.with_transfers}
        return {kind: run for kind, run in found.items() if run is not None}


def rounds_of(options: Namespace) -> tuple[int, int]:
    """Return how many rounds are timed, and how many come before."""
    return (2, 0) if options.dry_run else (ROUNDS, WARM_UP)


def timed(run: Run, torch: Any) -> float:
    """Take the milliseconds of one run by CUDA events; by the host's clock without torch's CUDA."""
    if torch is None or not torch.cuda.is_available():
        begun = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - begun)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    run()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last))


def race(
    runs: Sequence[Run], options: Namespace, torch: Any, deadline: float = float("inf")
) -> list[list[float]]:
    """Let all take turns, in the other order each time; milliseconds of each, round by round."""
    rounds, warm_up = rounds_of(options)
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(rounds + warm_up):
        order = range(len(runs)) if turn % 2 else reversed(range(len(runs)))
        for place in order:
            taken = timed(runs[place], torch)
            if turn >= warm_up:
                times[place].append(taken)
        if time.monotonic() > deadline and min(map(len, times)) >= 3:
            break
    return times


def compare_times(
    where: str,
    contender: Contender,
    reference: Contender | None,
    why_none: str,
    options: Namespace,
    torch: Any,
) -> Iterator[Row]:
    """Time a contender in turns with the reference.

    `why_none`: the reason for having none; "" where none is expected.
    """
    for kind, run in contender.runs().items():
        base = None if reference is None else reference.runs().get(kind)
        times = race([run] if base is None else [run, base], options, torch)
        ours = [taken / contender.images for taken in times[0]]
        cuts = statistics.quantiles(ours, n=10, method="inclusive")
        what = f"{where}: {kind}"
        yield Row(what, statistics.median(ours), "ms/img", low=cuts[0], high=cuts[-1])
        if not why_none and reference is None:
            continue
        if base is None or reference is None:
            yield Row(f"{what}: ratio", f"none: {why_none or 'the reference has no such time'}")
            continue
        theirs = [taken / reference.images for taken in times[1]]
        found = median_ratio(ours, theirs)
        what = f"{what}: ratio to {reference.name}, in turns"
        yield Row(what, found.value, "x", low=found.low, high=found.high)


def kernel_rows(where: str, contender: Contender, options: Namespace, torch: Any) -> Iterator[Row]:
    """Look at the kernels of a call: their time, the longest ones, and those of attention."""
    if torch is None:
        yield Row(f"{where}: kernels", reason="no torch, whose profiler lists them")
        return
    run = contender.on_device or contender.with_transfers
    kinds = torch.profiler.ProfilerActivity
    activity = kinds.CPU if options.dry_run else kinds.CUDA
    run()
    with torch.profiler.profile(activities=[activity]) as profile:
        run()
    key = "self_cpu_time_total" if options.dry_run else "self_device_time_total"
    events = [e for e in profile.key_averages() if float(getattr(e, key)) > 0]
    events.sort(key=lambda event: -float(getattr(event, key)))
    total = sum(float(getattr(event, key)) for event in events) / 1e3
    if not events:
        none = "the profiler reports none"
        error = "" if options.dry_run else f"{none}: CUPTI may be blocked here"
        yield Row(f"{where}: kernels", none, error=error)
        return
    yield Row(f"{where}: kernels, all", total / contender.images, "ms/img")
    longest = [f"{e.key[:80]} x{e.count} {float(getattr(e, key)) / 1e3:.3f} ms" for e in events]
    yield Row(f"{where}: kernels, longest", "; ".join(longest[:SHOWN]))
    of_attention = [
        line for e, line in zip(events, longest, strict=True) if ATTENTION.search(e.key)
    ]
    is_fused = any(FUSED.search(event.key) for event in events)
    verdict = "fused" if is_fused else "not fused, by name"
    yield Row(f"{where}: kernels of attention", f"{verdict}: {'; '.join(of_attention[:SHOWN])}")
