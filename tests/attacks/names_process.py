"""A process that classifies with thousands of names; prints as JSON the memory that they take.

`python names_process.py BUNDLE BACKEND COUNT`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from mixed_calls import photos
from soak_process import rss

import samclip


def main(arguments: Sequence[str]) -> None:
    bundle, backend, count = arguments
    with samclip.load(bundle, backend, threads=2) as model, model.encode(photos()[0]) as scene:
        scene.classify(["a name"])
        scene.semantic(["a name", "another"])
        before = rss()
        names = model.vocabulary([f"name number {number}" for number in range(int(count))])
        embedded = rss()
        answers = [scene.classify(names), scene.semantic(names), scene.classify(names)]
    found = {"names": len(names.names), "embedding": embedded - before, "all": rss() - before}
    print(json.dumps({**found, "answers": len(answers)}))


if __name__ == "__main__":
    main(sys.argv[1:])
