"""Put names with their embeddings into a bundle, so that asking for them needs no text tower.

    python -m tools.bake_names samclip/assets/bundles/samclip-tiny configs/common_names.txt

The names of that file are the classes of COCO (80), Cityscapes (19) and ADE20K (150), each once, as
these data sets spell them, of synonyms the first. The bundle's own tower embeds them, with ONNX
Runtime, in the bundle's templates. All else stays as it is, byte for byte. `samclip-export
--vocabulary` does the same for a new bundle.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from samclip.cli.arguments import read_names
from samclip.export.baked_names import with_names
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.writing import write_bundle


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, and write the bundle once more."""
    parser = argparse.ArgumentParser(prog="python -m tools.bake_names", description=__doc__)
    parser.add_argument("bundle", type=Path, help="the bundle's folder, which is replaced")
    parser.add_argument("names", type=Path, help="a file with one name a line")
    parser.add_argument("--dtype", choices=("fp32", "fp16"), default="fp16")
    given = parser.parse_args(arguments)
    bundle = Bundle.open_unsigned(given.bundle)
    names = tuple(dict.fromkeys(read_names(None, given.names) or ()))
    text, files = with_names(bundle, names, given.dtype)
    old = bundle.manifest.text
    former = set() if old is None else {old.labels, old.label_embeddings}
    kept = {name: bundle.read(name) for name in bundle.manifest.files if name not in former}
    manifest = replace(bundle.manifest, text=text, files={})
    write_bundle(given.bundle, manifest, {**kept, **files}, overwrite=True)


if __name__ == "__main__":
    main()
