"""Memory of one thing, measured in a process of its own.

In a test process a measurement also sees what other tests' threads take and give back, and a peak
hides behind an earlier one.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from samclip.benchmarks.memory.child import peak_rss


def run_alone(program: str, *arguments: object) -> Any:
    """Run Python code in a new process that can import what this one can.

    `program` reads its arguments from `sys.argv[1:]`. Return what it printed, parsed as JSON;
    raise `subprocess.CalledProcessError` when it fails, with its errors on the terminal.
    """
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout)


def resident() -> int:
    """Return the bytes of this process that are in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak() -> int:
    """Return the most bytes of this process that were in RAM so far.

    Not by `getrusage`: that begins at what the process that started this one held, and a peak
    below it would not show.
    """
    return peak_rss()
