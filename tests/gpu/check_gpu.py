"""All that can only be checked on a machine with an NVIDIA GPU, in one call.

    python tests/gpu/check_gpu.py --bundle samclip-tiny --checkpoint merged.safetensors \
        --output gpu.json

Each part runs in a separate process, so that one that crashes or hangs loses nothing of the
others; their figures are written as soon as they are there. Ends with a table, and with exit code
1 when anything failed. Parts whose libraries are missing are skipped, and say so. `--dry-run` goes
through all of it on the CPU: it proves that the script runs, and nothing about a GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

from gpu_report import FAILED, SKIPPED, PartResult, Row, Skip, table

GATES = "gates-"
PARTS = (
    "libraries",
    "torch-half",
    "encoders",
    "ort-cuda",
    "tensorrt",
    "tensorrt-rtx",
    *(f"{GATES}{backend}" for backend in ("cuda", "tensorrt", "tensorrt-rtx")),
)


def part_function(name: str) -> Callable[[argparse.Namespace], Iterator[Row]]:
    """Import a part only in the process that runs it."""
    if name == "libraries":
        from gpu_libraries import check_libraries as check
    elif name == "torch-half":
        from gpu_half import check_torch_half as check
    elif name == "encoders":
        from gpu_encoders import check_encoders as check
    elif name == "ort-cuda":
        from gpu_engines import check_ort_cuda as check
    elif name.startswith(GATES):
        from gpu_gates import check_gates

        check = check_gates(name.removeprefix(GATES))
    elif name == "tensorrt":
        from gpu_tensorrt import check_tensorrt as check
    else:
        from gpu_tensorrt import check_tensorrt_rtx as check
    return check


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--bundle", help="a bundle's folder or name; default: samclip-tiny")
    add("--checkpoint", type=Path, help="a merged checkpoint, for torch's half precision")
    add("--photos", type=Path, help="a folder of photos; default: those of the package")
    add("--most-photos", type=int, default=4, help="photos for torch's half precision")
    add("--graphs", nargs="*", help="only these graphs of the bundle")
    add("--parts", nargs="*", choices=PARTS, default=PARTS)
    add("--calls", type=int, default=1000, help="calls for the growth of device memory")
    add("--device", type=int, default=0)
    add("--timeout", type=float, default=1800, help="seconds for each part")
    add("--output", type=Path, default=Path("gpu.json"))
    add("--dry-run", action="store_true", help="on the CPU, with little of everything")
    add("--run-part", choices=PARTS, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def run_part(options: argparse.Namespace) -> None:
    """In a separate process: run one part, saving each figure as it comes."""
    result, begun = PartResult(options.run_part), time.monotonic()
    try:
        for row in part_function(options.run_part)(options):
            result.rows.append(row)
            print(f"  {row.state:8} {row.what}: {row.value} {row.unit}", flush=True)
            _save(result, begun, options.output)
    except Skip as reason:
        result.state, result.note = SKIPPED, str(reason)
    except Exception:
        result.state, result.error = FAILED, traceback.format_exc()
    result.settle()
    _save(result, begun, options.output)


def _save(result: PartResult, begun: float, path: Path) -> None:
    result.seconds = round(time.monotonic() - begun, 1)
    result.save(path)


def start_part(name: str, arguments: list[str], options: argparse.Namespace) -> PartResult:
    """Run a part in a process, and read what it left, however it ended."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "part.json"
        command = [
            sys.executable,
            __file__,
            *arguments,
            "--run-part",
            name,
            "--output",
            str(output),
        ]
        try:
            code = subprocess.run(command, timeout=options.timeout, check=False).returncode
            ending = f"the process ended with code {code}"
        except subprocess.TimeoutExpired:
            code, ending = 1, f"not done after {options.timeout:.0f} s"
        result = PartResult.from_file(output) if output.exists() else PartResult(name)
    if code:
        result.state, result.error = FAILED, f"{result.error}\n{ending}"
    return result


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    options = parse(given)
    if options.run_part:
        run_part(options)
        return 0
    results: list[PartResult] = []
    for number, name in enumerate(options.parts, 1):
        print(f"[{number}/{len(options.parts)}] {name}", flush=True)
        results.append(start_part(name, given, options))
        report = {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": ["tests/gpu/check_gpu.py", *given],
            "dry_run": options.dry_run,
            "parts": [result.to_dict() for result in results],
        }
        options.output.write_text(json.dumps(report, indent=1) + "\n")
    print(table(results))
    failed = [result.name for result in results if result.state == FAILED]
    print(f"\n{'FAILED: ' + ', '.join(failed) if failed else 'nothing failed'}; {options.output}")
    if options.dry_run:
        print("This was a dry run on the CPU: it says nothing about a GPU.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
