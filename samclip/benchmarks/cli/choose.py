"""Command `samclip-bench choose`: measure once what `auto` takes on this machine's CPU."""

from __future__ import annotations

from typing import Annotated

import typer

from samclip.benchmarks.cli import options
from samclip.benchmarks.cli.session import STOP_SECONDS
from samclip.benchmarks.formats import as_fast, speed_interval
from samclip.benchmarks.latency.choosing import (
    ROUNDS,
    describe_precision,
    list_candidates,
    measure_choice,
)
from samclip.benchmarks.statistics import median_ratio
from samclip.cli import options as shared
from samclip.cli.exits import heed_stops, report_errors
from samclip.cli.progress import ConsoleProgress
from samclip.cli.tables import text_table
from samclip.cli.terminal import err, in_one_line, out, say
from samclip.runtime.backend_choice import check_precision
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.home import find_bundle
from samclip.runtime.measured_choice import MeasuredChoice, keep_choice, try_choices

EXAMPLES = """
**Examples:**

- `samclip-bench choose`

- `samclip-bench choose my-bundle/ --precision fp32 --precision int8 --rounds 21`
"""

COLUMNS = ("backend", "precision", "ms, median", "least", "against the first")

Precisions = Annotated[
    list[str] | None,
    typer.Option(
        "--precision",
        metavar="fp32|int8|...",
        show_default="FP32, and others whose gates were measured and passed",
        help="Measure these precisions, whatever their gates say; may be repeated.",
    ),
]
Rounds = Annotated[
    int, typer.Option("--rounds", min=3, max=1000, metavar="N", help="Times that each answers.")
]


def choose(
    bundle: shared.BundleArgument = None,
    precision: Precisions = None,
    threads: shared.Threads = None,
    rounds: Rounds = ROUNDS,
    photo: options.Photo = None,
    debug: shared.Debug = False,
) -> None:
    """Measure which backend and precision is fastest for a bundle on this machine's CPU.

    The result is kept in the user's cache, for this bundle, processor, number of cores, --threads,
    and versions of the libraries; `--backend auto` then takes it. A GPU that works still comes
    first. On processors that are made for BF16, engines that compute FP32 in BF16 are measured too:
    each graph is compared with FP32 before, once, which takes minutes. Let other programs rest
    meanwhile.
    """
    with report_errors(debug), heed_stops(STOP_SECONDS):
        asked = tuple(precision or ())
        opened = Bundle.open(find_bundle(bundle))
        for one in asked:
            check_precision(one, opened)
        try_choices()
        choice, left_out = measure_choice(
            opened,
            list_candidates(opened, asked),
            threads=threads,
            rounds=rounds,
            photo=photo,
            progress=ConsoleProgress(err),
        )
        out.print(text_table(COLUMNS, rows(choice)))
        for name, reason in left_out:
            say(err, in_one_line(f"not measured: {name}: {reason}"))
        place = keep_choice(choice)
        first = choice.speeds[0]
        taken = describe_precision(first.precision, first.engine_precision)
        say(out, f"auto takes {first.backend} in {taken} for {opened.manifest.name}")
        say(err, in_one_line(f"kept in {place}"))


def rows(choice: MeasuredChoice) -> list[tuple[str, ...]]:
    """Return a row for each speed; that against the first comes with its 95 % interval."""
    first = choice.speeds[0]
    found: list[tuple[str, ...]] = []
    for speed in choice.speeds:
        ratio = median_ratio(speed.samples, first.samples)
        against = f"{as_fast(ratio.value)} ({speed_interval(ratio.low, ratio.high)})"
        times = (f"{speed.median:.1f}", f"{min(speed.samples):.1f}")
        precision = describe_precision(speed.precision, speed.engine_precision)
        found.append((speed.backend, precision, *times, against if found else ""))
    return found
