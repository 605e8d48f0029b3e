"""All that can only be checked on a machine with an NVIDIA GPU.

    python tests/gpu/check_gpu.py --bundle BUNDLE --output gpu-results --limit 540

Nothing is installed: the tree that this file is in is used. Each part runs in a separate process
with a limit, and its file in the output folder is whole after each row, so that a call which is
killed keeps what it found; `--resume` goes on from there. The exit code is 1 if anything failed or
was not finished. `--dry-run` goes through every part on the CPU with stand-ins for the GPU: that
proves that the script runs, and nothing about a GPU. docs/evidence/gpu.md describes the parts.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
for place in (FOLDER, FOLDER.parents[1]):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

from processes import environment, run_part, start_part  # noqa: E402
from report import (  # noqa: E402
    FAILED,
    NOT_RUN,
    PASSED,
    UNFINISHED,
    PartResult,
    Row,
    part_file,
    read_parts,
    table,
    write_json,
)

# A part's module and function in `parts`, what the function is given, and its limit in seconds.
PARTS: dict[str, tuple[str, str, tuple[str, ...], float]] = {
    "libraries": ("libraries", "check_libraries", (), 120),  # torch comes from a cold disk
    "cuda-layer": ("cuda_layer", "check_cuda_layer", (), 120),
    "ceilings": ("ceilings", "check_ceilings", (), 60),
    "encoders": ("encoders", "check_encoders", (), 430),
    "ort-cuda": ("ort_cuda", "check_ort_cuda", (), 240),
    "gates-cuda": ("gates", "check_gates", ("cuda",), 280),
    "tensorrt": ("plans", "check_plans", ("tensorrt",), 1800),
    "gates-tensorrt": ("gates", "check_gates", ("tensorrt",), 1800),
    "tensorrt-rtx": ("plans", "check_plans", ("tensorrt-rtx",), 400),
    "gates-tensorrt-rtx": ("gates", "check_gates", ("tensorrt-rtx",), 280),
}
LEAST = 10.0  # seconds: with less left no part is started
DRY_PATIENCE = 10  # the limits are a GPU's; a dry run goes on a CPU that others use as well


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--bundle", help="a bundle's folder or name, with FP16 and INT8; default: samclip-tiny")
    add("--photos", type=Path, help="a folder of photos; default: those of the tree")
    add("--site", type=Path, help="a folder of packages, filled by tests/gpu/unpack.py")
    add("--parts", nargs="*", choices=PARTS, default=list(PARTS), metavar="PART")
    add("--limit", type=float, help="seconds for the whole call; parts also have limits each")
    add("--must-run", action="store_true", help="what is missing here is a failure")
    add("--resume", action="store_true", help="keep parts that the output has passed already")
    add("--output", type=Path, default=Path("gpu-results"), help="a folder")
    add("--table", type=Path, nargs="+", metavar="FOLDER", help="only print what these hold")
    add("--graphs", nargs="*", help="only these graphs of the bundle")
    add("--calls", type=int, default=1000, help="calls for the growth of device memory")
    add("--device", type=int, default=0)
    add("--dry-run", action="store_true", help="on the CPU, with little of everything")
    add("--run-part", choices=PARTS, help=argparse.SUPPRESS)
    add("--seconds", type=float, default=60, help=argparse.SUPPRESS)  # the part's, within its limit
    options = parser.parse_args(arguments)
    options.begun = time.monotonic()
    return options


def part_function(name: str) -> Callable[[argparse.Namespace], Iterator[Row]]:
    """Import a part, in the process that runs it alone."""
    module, function, given, _ = PARTS[name]
    check: Callable[..., Iterator[Row]] = getattr(
        importlib.import_module(f"parts.{module}"), function
    )
    return partial(check, *given)


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    options = parse(given)
    if options.table:
        return _conclude(read_parts(options.table), options)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.run_part:
        run_part(
            options.run_part, partial(part_function, options.run_part), options, options.output
        )
        return 0  # the file has the state
    results: list[PartResult] = []
    for number, name in enumerate(options.parts, 1):
        print(f"[{number}/{len(options.parts)}] {name}", flush=True)
        results.append(_former(name, options) or _run(name, given, options))
        _save_report(given, results, options)
    return _conclude(results, options)


def _former(name: str, options: argparse.Namespace) -> PartResult | None:
    """Return the result of a call before, where it has passed and this call resumes that one."""
    path = part_file(options.output, name)
    if not options.resume or not path.exists():
        return None
    found = PartResult.from_file(path)
    kept = (PASSED,) if options.must_run else (PASSED, NOT_RUN)
    return found if found.state in kept else None


def _run(name: str, given: list[str], options: argparse.Namespace) -> PartResult:
    limit = PARTS[name][-1] * (DRY_PATIENCE if options.dry_run else 1)
    if options.limit is not None:
        left = options.limit - (time.monotonic() - options.begun)
        if left < LEAST:
            result = PartResult(name, UNFINISHED, note=f"no time left in {options.limit:.0f} s")
            result.save(options.output)
            return result
        limit = min(limit, left - LEAST / 2)
    command = [sys.executable, str(FOLDER / "check_gpu.py"), *given]
    command += ["--run-part", name, "--seconds", str(limit)]
    variables = environment(options.site, options.dry_run)
    return start_part(name, command, options.output, limit, variables)


def _save_report(given: list[str], results: list[PartResult], options: argparse.Namespace) -> None:
    content: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": ["tests/gpu/check_gpu.py", *given],
        "dry_run": options.dry_run,
        "parts": {result.name: result.state for result in results},
    }
    write_json(options.output / "report.json", content)


def _conclude(results: list[PartResult], options: argparse.Namespace) -> int:
    print(table(results))
    wrong = [result.name for result in results if result.state in (FAILED, UNFINISHED)]
    missing = [result.name for result in results if result.state == NOT_RUN]
    print(f"\n{'FAILED or unfinished: ' + ', '.join(wrong) if wrong else 'nothing failed'}")
    if missing:
        print(f"not run: {', '.join(missing)}")
    if options.dry_run:
        print("This was a dry run on the CPU: it says nothing about a GPU.")
    return 1 if wrong else 0


if __name__ == "__main__":
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    sys.exit(main())
