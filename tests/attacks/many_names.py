"""A process that names things out of 10,000 names; prints, as JSON, the memory that they took.

`python many_names.py BUNDLE BACKEND COUNT`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from mixed_calls import photos
from soaking import rss

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
    told = {"names": len(names.names), "embedding": embedded - before, "all": rss() - before}
    print(json.dumps({**told, "answers": len(answers)}))


if __name__ == "__main__":
    main(sys.argv[1:])
