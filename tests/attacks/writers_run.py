"""Runs writer_process.py, and gives what it found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

NAMES = {
    "bundle": "bundle",
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
SEED = "SAMCLIP_CRASH_SEED"  # of the moments of kills, for the environment
TIMEOUT = 3600  # seconds, on a busy machine


def run_writer(
    *words: object, environment: Mapping[str, str] | None = None
) -> tuple[dict[str, int], str]:
    """Run it with these arguments; gives its counts and what it said on stderr.

    Raises AssertionError with its last lines when a promise was broken.
    """
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    last = "\n".join(done.stderr.splitlines()[-12:])
    assert done.returncode == 0, f"{' '.join(command)}\n{SEED}={seed()}\n{last}"
    return json.loads(done.stdout), done.stderr


def seed() -> int:
    """Tell the seed: that of the environment, so that a failure can be made again."""
    return int(os.environ.get(SEED, "0"))


def sentence(found: Mapping[str, int], *names: str) -> str:
    """Say the counts in words, those of `names` first and even when they are none."""
    return ", ".join(f"{found.get(name, 0)} {name}" for name in names)
