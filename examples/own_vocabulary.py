"""Names of your trade, with synonyms, embedded once and kept for all photos.

    python examples/own_vocabulary.py labels.txt photos/*.jpg

A line of the file is a name, with its synonyms after semicolons: `cup; mug; coffee cup`. The
synonym that fits best counts, and the answer has the line's first name.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import samclip


def read_labels(path: Path) -> dict[str, list[str]]:
    """Read names and their synonyms."""
    found: dict[str, list[str]] = {}
    for line in path.read_text("utf-8").splitlines():
        first, *others = [part.strip() for part in line.split(";") if part.strip()] or [""]
        if first:
            found[first] = others
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the three best names of each photo."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("labels", type=Path)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--bundle", default=None)
    options = parser.parse_args(arguments)
    labels = read_labels(options.labels)

    with samclip.load(options.bundle) as model:
        synonyms = {name: others for name, others in labels.items() if others}
        vocabulary = model.vocabulary(list(labels), synonyms=synonyms)
        for photo in options.photos:
            with model.encode(photo) as scene:
                best = scene.classify(vocabulary).top(3)
            print(f"{photo.name}: " + ", ".join(f"{name} {share:.0%}" for name, share in best))


if __name__ == "__main__":
    main()
