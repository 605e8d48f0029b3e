"""On the machine with the GPU: what prepare.py packed, unpacked into a folder of packages.

    python3 tests/gpu/unpack.py .gpu/wheels .gpu/onnxruntime --site $HOME/site

Standard library only. Wheels are unzipped, not installed. ONNX Runtime looks for CUDA's libraries
in the folder `nvidia` next to its own, so torch's is linked there.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import sys
import tarfile
import time
import zipfile
from pathlib import Path

BUNDLE, NVIDIA = "bundle", "nvidia"
PIECE = re.compile(r"(.+)\.piece-\d+-of-(\d+)")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="as prepare.py filled them")
    parser.add_argument("--site", type=Path, required=True, help="the folder to fill")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    options.site.mkdir(parents=True, exist_ok=True)
    for folder in options.folders:
        unpack(folder, options.site)
    linked = link_nvidia(options.site)
    print(f"{options.site}: {', '.join(sorted(path.name for path in options.site.iterdir()))}")
    print(f"torch's {NVIDIA}: {linked or 'not found'}; {time.monotonic() - begun:.0f} s")
    return 0


def unpack(folder: Path, site: Path) -> None:
    """Unpack a folder of wheels and archives, or copy a bundle to SITE/bundle.

    Raises FileNotFoundError for a folder that holds neither: it was not carried.
    """
    if (folder / "manifest.json").is_file():
        shutil.copytree(folder, site / BUNDLE, dirs_exist_ok=True)
        return
    wheels, archives = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.xz"))
    if not wheels and not archives:
        raise FileNotFoundError(f"{folder} holds neither wheels nor archives: was it carried?")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(site)
    for archive in archives:
        with tarfile.open(archive, "r:xz") as packed:
            packed.extractall(site, filter="data")
    join_pieces(site)


def piece_name(name: str, number: int, count: int) -> str:
    """Return what piece `number`, from 1 on, of a file of `count` pieces is called."""
    return f"{name}.piece-{number}-of-{count}"


def join_pieces(site: Path) -> None:
    """Join the files whose pieces are all there; other pieces wait for the next call."""
    for first in sorted(site.rglob("*.piece-1-of-*")):
        found = PIECE.fullmatch(first.name)
        if found is None:
            continue
        name, count = found[1], int(found[2])
        pieces = [first.with_name(piece_name(name, n, count)) for n in range(1, count + 1)]
        if not all(piece.exists() for piece in pieces):
            continue
        partial = first.with_name(f"{name}.partial")
        with partial.open("wb") as whole:
            for piece in pieces:
                with piece.open("rb") as part:
                    shutil.copyfileobj(part, whole)
        partial.replace(first.with_name(name))
        for piece in pieces:
            piece.unlink()


def link_nvidia(site: Path) -> Path | None:
    """Link the folder of NVIDIA's packages into `site`; None where there is none."""
    link = site / NVIDIA
    if link.exists():
        return link.resolve()
    spec = importlib.util.find_spec(NVIDIA)
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    for place in map(Path, places):
        if any(place.glob("*/lib/lib*.so*")):
            link.symlink_to(place.resolve())
            return place.resolve()
    return None


if __name__ == "__main__":
    sys.exit(main())
