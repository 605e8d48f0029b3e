"""Fuzzes one target with atheris, which follows the branches that an input takes.

    python tests/attacks/native_fuzzer.py TARGET FOLDER [options of libFuzzer, as -runs=N -seed=N]
    python tests/attacks/native_fuzzer.py TARGET FILE

FOLDER takes the inputs that reach new branches, and is begun with sound ones; FILE, as libFuzzer
leaves one after a finding, is run once.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

for folder in ("", "runtime"):
    sys.path.insert(0, str(Path(__file__).parent.parent / folder))

with atheris.instrument_imports(include=["samclip"]):
    from fuzz_targets import TARGETS, feed, seeds


def main() -> None:
    name, place, *options = sys.argv[1:]
    if Path(place).is_dir():
        for number, seed in enumerate(seeds(name)):
            (Path(place) / f"seed-{number}").write_bytes(seed)
    target = TARGETS[name]
    target(seeds(name)[0])  # imports what it needs before anything is counted
    atheris.Setup([sys.argv[0], place, *options], lambda data: feed(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
