"""Runs of writer_process.py, and their counts in words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

NAMES = {
    "bundle": "bundle",
    "deploy": "deployment",
    "plan": "plan",
    "blob": "compiled model",
    "texts": "text embeddings",
    "state": "merging state",
    "picture": "picture",
    "report": "report",
    "ranges": "ranges",
    "checkpoint": "fetched checkpoint",
}
SCRIPT = Path(__file__).with_name("writer_process.py")
SEED = "SAMCLIP_CRASH_SEED"  # environment variable: the seed of the moments of kills
TIMEOUT = 3600  # seconds, on a busy machine


def run_writer(
    *words: object, environment: Mapping[str, str] | None = None
) -> tuple[dict[str, int], str]:
    """Run the process with these arguments; returns its counts and its stderr.

    Raises AssertionError with the last lines of stderr when a promise was broken.
    """
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    last = "\n".join(done.stderr.splitlines()[-12:])
    assert done.returncode == 0, f"{' '.join(command)}\n{SEED}={seed()}\n{last}"
    return json.loads(done.stdout), done.stderr


def seed() -> int:
    """Return the seed of the environment, with which a failure can be repeated."""
    return int(os.environ.get(SEED, "0"))


def sentence(found: Mapping[str, int], *names: str) -> str:
    """Return the counts of `names` in words, zeros included."""
    return ", ".join(f"{found.get(name, 0)} {name}" for name in names)
