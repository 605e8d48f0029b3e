"""Layouts of published data sets: folders of photos and label maps, and the classes in these.

PASCAL VOC 2012 as its development kit unpacks; PASCAL Context as the detail API's conversion
writes it into VOC 2010; ADE20K as SceneParsing's ADEChallengeData2016; COCO-Stuff 164k as
stuffthingmaps, next to COCO's photos or in the folders that mmsegmentation asks for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from samclip.disk.user_files import read_user_text
from samclip.errors import InputError

CLASSES_FOLDER = Path(__file__).parents[1] / "assets" / "classes"
BACKGROUND = "background"
MAX_LISTING_BYTES = 100_000_000
CONVERTED = "_labelTrainIds"  # mmsegmentation's copies of COCO-Stuff's maps, by other numbers


@dataclass(frozen=True)
class LabelClass:
    """A class: its number and name in label maps, and the texts that it is asked for by.

    Texts are the name as people write it, with its synonyms: "dining table" for "diningtable".
    """

    value: int
    name: str
    texts: tuple[str, ...]


@cache
def read_class_list(file: str) -> tuple[LabelClass, ...]:
    """Read a list that comes with samclip: a line for each class, value, name, texts.

    Tabs lie between these, commas between texts; a class without texts is asked for by its name.
    """
    lines = (CLASSES_FOLDER / file).read_text("utf-8").splitlines()
    found = []
    for line in lines:
        if not line.startswith("#"):
            value, name, *texts = line.split("\t")
            synonyms = tuple(texts[0].split(", ")) if texts else (name,)
            found.append(LabelClass(int(value), name, synonyms))
    return tuple(found)


@dataclass(frozen=True)
class Layout:
    """A data set: the file of its classes, and where things lie below its folder.

    `void`: the number of no class. `photos`, `labels`: folders, of which the first that exists
    counts, with `{split}` in their names; `listing`: the text file with the stems of a split's
    photos, None where each split has separate folders.
    """

    title: str
    classes_file: str
    void: int
    photos: tuple[str, ...]
    labels: tuple[str, ...]
    listing: str | None
    split: str

    @property
    def classes(self) -> tuple[LabelClass, ...]:
        """The classes, in the order of their indices."""
        return read_class_list(self.classes_file)

    def fits(self, folder: Path) -> bool:
        """Whether `folder` has label maps where this layout has those of its split."""
        return self._first(folder, self.labels, self.split) is not None

    def pairs(self, folder: Path, split: str | None) -> Iterator[tuple[Path, Path]]:
        """Find the photos of a split, None for the default one, with their maps, in name order.

        Raises InputError for what is missing.
        """
        split = split or self.split
        photos, labels = (self._folder(folder, of, split) for of in (self.photos, self.labels))
        for stem in self._stems(folder, labels, split):
            photo, label = photos / f"{stem}.jpg", labels / f"{stem}.png"
            for path in (photo, label):
                if not path.is_file():
                    raise InputError(
                        f"there is no {path}, though {self.title} has it in {split!r}. Add it."
                    )
            yield photo, label

    def _stems(self, folder: Path, labels: Path, split: str) -> list[str]:
        if self.listing is None:
            stems = [path.stem for path in labels.glob("*.png")]
            return sorted(stem for stem in stems if not stem.endswith(CONVERTED))
        listing = folder / self.listing.format(split=split)
        advice = f"Expected the names of the photos of {split!r}."
        return sorted(read_user_text(listing, MAX_LISTING_BYTES, "the list", advice=advice).split())

    def _folder(self, folder: Path, names: tuple[str, ...], split: str) -> Path:
        found = self._first(folder, names, split)
        if found is None:
            tried = " or ".join(f"{name.format(split=split)}/" for name in names)
            raise InputError(f"{folder} has no {tried}. Expected the layout of {self.title}.")
        return found

    @staticmethod
    def _first(folder: Path, names: tuple[str, ...], split: str) -> Path | None:
        paths = (folder / name.format(split=split) for name in names)
        return next((path for path in paths if path.is_dir()), None)


LAYOUTS = {
    "context": Layout(
        title="PASCAL Context",
        classes_file="context.txt",
        void=255,
        photos=("JPEGImages",),
        labels=("SegmentationClassContext",),
        listing="ImageSets/SegmentationContext/{split}.txt",
        split="val",
    ),
    "voc": Layout(
        title="PASCAL VOC",
        classes_file="voc.txt",
        void=255,
        photos=("JPEGImages",),
        labels=("SegmentationClass",),
        listing="ImageSets/Segmentation/{split}.txt",
        split="val",
    ),
    "ade20k": Layout(
        title="ADE20K",
        classes_file="ade20k.txt",
        void=0,
        photos=("images/{split}",),
        labels=("annotations/{split}",),
        listing=None,
        split="validation",
    ),
    "coco-stuff": Layout(
        title="COCO-Stuff",
        classes_file="coco_stuff.txt",
        void=255,
        photos=("images/{split}", "{split}"),
        labels=("annotations/{split}", "stuffthingmaps/{split}"),
        listing=None,
        split="val2017",
    ),
}
