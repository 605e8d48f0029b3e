"""A process that fuzzes one target with atheris, which follows the branches that an input takes.

    python tests/attacks/native_fuzzer.py TARGET FOLDER [options of libFuzzer, as -runs=N -seed=N]
    python tests/attacks/native_fuzzer.py TARGET FILE

FOLDER takes the inputs that reach new branches, and starts with sound ones. FILE, as libFuzzer
leaves one after a finding, is run once.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))


def main() -> None:
    name, place, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["samclip"]):
        from fuzz_targets import TARGETS, feed, seeds

        target = TARGETS[name]
        feed(target, seeds(name)[0])  # imports the rest of what it needs
    if Path(place).is_dir():
        for number, seed in enumerate(seeds(name)):
            (Path(place) / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], place, *options], lambda data: feed(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
