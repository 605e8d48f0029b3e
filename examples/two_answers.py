"""Two answers from one encoder pass: the object at a point, and a name for every pixel.

python examples/two_answers.py photo.jpg 290 210 --names "cup,table,spoon" --output answers/
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import samclip


def main(arguments: Sequence[str] | None = None) -> None:
    """Answer both, and write both pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photo", type=Path)
    parser.add_argument("x", type=float)
    parser.add_argument("y", type=float)
    parser.add_argument("--names", required=True)
    parser.add_argument("--bundle", default=None)
    parser.add_argument("--output", type=Path, default=Path("answers"))
    options = parser.parse_args(arguments)
    names = options.names.split(",")
    options.output.mkdir(exist_ok=True)

    with samclip.load(options.bundle) as model, model.encode(options.photo) as scene:
        masks = scene.segment(points=[(options.x, options.y)], names=names)
        labels = scene.semantic(names, background=0.5)
        print(f"at the point: {(masks.names or ('nothing',))[0]}")
        for name in labels.present:
            print(f"{name}: {labels.mask(name).mean():.0%} of the photo")
        print(f"encoder passes: {model.encoder_passes}")
    masks.save(options.output / "masks.png")
    labels.save(options.output / "labels.png")


if __name__ == "__main__":
    main()
