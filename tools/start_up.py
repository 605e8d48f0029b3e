"""The time of a new process up to its first answers, by step, of this tree or against another.

    scripts/start-up [--rounds 9] [--against FOLDER]

Each round starts a new process in each tree, in turns. Modules are compiled and files are in the
system's cache, as after a first use; text embeddings are kept nowhere beforehand. `--against`:
another checkout, whose package is imported from there. The table is in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from samclip.benchmarks.latency.first_answer import CLASSIFY, CODE, LOAD, POINT
from samclip.benchmarks.latency.photo_pipeline import NAMES
from samclip.cli.terminal import out, say
from tools.quiet_figures import ROOT

KNOWN = "classify COCO's 80 names"  # in place of names of which one is new
FIRST = "load bundle, the first time on a machine"
PHOTO, BUNDLE = "samclip/assets/photos/coffee.jpg", "samclip/assets/bundles/samclip-tiny"
COCO = 80  # the first names of the file
Steps = dict[str, float]


def run(tree: Path, names: Sequence[str], cache: Path, *, kept: bool = True) -> Steps:
    """Start one process that imports samclip from `tree`; return seconds by step.

    `kept`: what former processes kept of graphs is there.
    """
    with tempfile.TemporaryDirectory() as texts:
        options = {"backend": "onnxruntime", "cache_dir": texts}
        work = {"bundle": str(tree / BUNDLE), "options": options, "photo": str(tree / PHOTO)}
        environment = {
            **os.environ,
            "PYTHONPATH": str(tree),
            "PYTHONPYCACHEPREFIX": str(cache / "compiled"),
            "SAMCLIP_CACHE_DIR": str(cache / "kept") if kept else texts,
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [sys.executable, "-c", CODE, repr(time.monotonic())]
        done = subprocess.run(
            [*command, json.dumps({**work, "names": names})],
            env=environment, cwd=texts, check=True, stdout=subprocess.PIPE,
        )  # fmt: skip
    steps: Steps = json.loads(done.stdout)
    return steps


def measure(trees: Sequence[Path], rounds: int) -> dict[Path, list[Steps]]:
    """Return the steps of `rounds` processes of each tree; one more of each is not counted."""
    common = (ROOT / "configs" / "common_names.txt").read_text("utf-8").splitlines()[:COCO]
    found: dict[Path, list[Steps]] = {tree: [] for tree in trees}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            for tree in trees if number % 2 else reversed(trees):
                cache = Path(folder) / str(trees.index(tree))
                steps = run(tree, NAMES, cache)
                known = run(tree, common, cache)
                first = run(tree, common, cache, kept=False)
                if number:
                    more = {KNOWN: known[CLASSIFY], FIRST: first[LOAD]}
                    found[tree].append({**steps, **more})
    return found


def rows(samples: Sequence[Steps]) -> dict[str, str]:
    """Return a cell for each step, and for the ways to the first mask and to three answers."""
    steps = [step for step in samples[0] if step not in {KNOWN, FIRST}]
    to_mask = steps[: steps.index(POINT) + 1]
    cells = {step: [one[step] for one in samples] for step in (*steps, KNOWN, FIRST)}
    cells["a new process to its first mask"] = [sum(one[s] for s in to_mask) for one in samples]
    cells["to three answers"] = [sum(one[s] for s in steps) for one in samples]
    rest = [sum(one[s] for s in steps) - one[CLASSIFY] + one[KNOWN] for one in samples]
    cells["to three answers, of COCO's 80 names"] = rest
    return {
        name: f"{median(v) * 1e3:,.0f} ({min(v) * 1e3:,.0f} - {max(v) * 1e3:,.0f})"
        for name, v in cells.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="scripts/start-up", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--against", type=Path, help="another checkout of samclip")
    given = parser.parse_args(arguments)
    trees = [ROOT] if given.against is None else [given.against.resolve(), ROOT]
    found = [rows(samples) for samples in measure(trees, given.rounds).values()]
    heads = ["here"] if given.against is None else ["there", "here"]
    say(out, f"load {os.getloadavg()[0]:.1f}; n = {given.rounds}; ms, median (least - most)\n")
    say(out, f"| step | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    for step in found[0]:
        say(out, f"| {step} | {' | '.join(cells[step] for cells in found)} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
