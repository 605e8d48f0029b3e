"""All objects of a folder of photos, with names, as one COCO file.

    python examples/folder_to_coco.py photos/ annotations.json --names "cup,spoon,table"

Two photos are worked on at the same time. A photo that cannot be read is reported and left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import samclip

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the COCO file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--names", required=True)
    parser.add_argument("--points", type=int, default=16, help="points a side that are tried")
    parser.add_argument("--least", type=float, default=0.5, help="the least probability of a name")
    parser.add_argument("--bundle", default=None)
    options = parser.parse_args(arguments)
    photos = sorted(p for p in options.photos.iterdir() if p.suffix.lower() in SUFFIXES)

    with samclip.load(options.bundle, streams=2) as model:
        vocabulary = model.vocabulary(options.names.split(","))

        def ask(scene: samclip.Scene) -> samclip.Masks:
            found = scene.everything(vocabulary, points_per_side=options.points)
            probabilities = found.name_probabilities
            return found if probabilities is None else found[probabilities >= options.least]

        def answers() -> Iterator[tuple[str, samclip.Masks]]:
            for photo, future in model.answers(photos, ask):
                try:
                    masks = future.result()
                except samclip.ImageError as error:
                    print(f"{photo.name} is left out: {error}")
                    continue
                print(f"{photo.name}: {len(masks)} masks")
                yield photo.name, masks

        samclip.write_coco(options.target, answers())


if __name__ == "__main__":
    main()
