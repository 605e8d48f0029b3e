"""Where annotations and photos lie in a folder: samclip's layout, COCO's, or LVIS's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath

from samclip.errors import InputError
from samclip.runtime.results.coco import ImageRecord

ANNOTATIONS, IMAGES = "instances.json", "images"
GUESSES = (
    ANNOTATIONS,
    "annotations/instances_val2017.json",
    "annotations/lvis_v1_val.json",
    "lvis_v1_val.json",
)


@dataclass(frozen=True)
class CocoLayout:
    """The file of annotations, and the folders in which photos are looked for, in this order."""

    annotations: Path
    roots: tuple[Path, ...]

    def photo(self, image: ImageRecord) -> Path:
        """Find the file of an image; raises InputError when it is nowhere in the folders."""
        for root in self.roots:
            for name in image.names:
                if _leads_inside(name) and _is_file(root / name):
                    return root / name
        raise InputError(
            f"there is no photo {' or '.join(image.names) or image.id}, which "
            f"{self.annotations.name} names. Looked in {', '.join(map(str, self.roots))}."
        )


def _leads_inside(name: str) -> bool:
    path = PurePath(name)
    return not path.is_absolute() and ".." not in path.parts


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is longer than the system's may be
        return False


def find_layout(folder: Path, annotations: Path | None = None) -> CocoLayout:
    """Find annotations and photos; `annotations`: the file, absolute or below `folder`.

    Photos lie in images/, in the folder itself, or there in the split that ends the name of the
    annotations: val2017/ for instances_val2017.json. Raises InputError.
    """
    if annotations is None:
        file = next((f for name in GUESSES if (f := folder / name).is_file()), folder / ANNOTATIONS)
    else:
        file = next((f for f in (folder / annotations, annotations) if f.is_file()), annotations)
    split = file.stem.rpartition("_")[2]
    names = (IMAGES, ".", split, f"{IMAGES}/{split}")
    return CocoLayout(file, tuple(folder / name for name in names if (folder / name).is_dir()))
