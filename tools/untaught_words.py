"""Photos and objects for words that no label taught samclip-tiny, as data sets for samclip-bench.

    python -m tools.untaught_words configs/samclip_tiny_untaught.json --photos data --output words

It writes three things to the new folder. photos/WORD/ holds up to four photos of each word that has
any: those listed, of a listed folder the first by file name. classes.txt has all words, as
`samclip-bench accuracy images photos --classes classes.txt` reads them. objects/ is a folder in
COCO's form, whose categories are all words too, for `samclip-bench accuracy names objects`. It has
outlined objects of more than 1,024 pixels that are called one of the words, in up to eight photos a
word, in the order of the hashes of their files.

The words are checked first. A word is refused where its last word is the last one of a taught text,
its synonyms included, or of a name of ImageNet's classes, on which the encoder was trained, both
without a plural's s; and where the cosine of the text encoder is 0.7 or more with one of these.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samclip.benchmarks.scores import LARGE_AREA
from samclip.cli.terminal import out, say
from samclip.errors import InputError, did_you_mean
from samclip.export.checkpoints.imagenet_classes import imagenet_names
from samclip.export.checkpoints.metadata import METADATA_KEY, MergedMetadata, decode_metadata
from samclip.export.rebuilding.architecture import CHECKPOINT_FILE
from samclip.merge.config.stages import LabelSource
from samclip.merge.data.label_sources import parse_concepts, read_label_source
from samclip.runtime.loading import load
from samclip.runtime.model import Model
from samclip.runtime.pixels.mask_ops import encode_rle, mask_box
from samclip.runtime.pixels.photo_listing import list_photos
from samclip.runtime.text.vocabulary import unit_rows

BOUND = 0.7  # of cosines: above, words are near to synonyms
PHOTOS, OBJECT_PHOTOS = 4, 8  # of a word, at most
CONCEPTS = Path(__file__).parents[1] / "configs" / "samclip_tiny_taught.txt"
Rows = NDArray[np.float32]


class Words(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`photos`: for each word, photos and folders of photos; `objects`: sources of outlines."""

    photos: dict[str, list[str]]
    objects: list[LabelSource] = []


def read_words(file: Path) -> Words:
    """Read the words of a JSON file; InputError for other content."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Words)
    except msgspec.MsgspecError as error:
        raise InputError(
            f'{file} holds no words: {error}. Expected {{"photos": {{word: [path, ...]}}, '
            '"objects": [{"kind": ..., "folder": ...}]}'
        ) from error


def taught_texts(metadata: MergedMetadata, concepts: Sequence[str]) -> list[str]:
    """Return the taught names of a checkpoint, with their synonyms by `concepts`, one a line."""
    if metadata.taught is None:
        return []
    every = {texts[0]: texts for texts in parse_concepts(concepts).texts}
    return [text for name in metadata.taught.names for text in every.get(name, (name,))]


def find_known(words: Sequence[str], known: Sequence[str], near: Rows) -> dict[str, str]:
    """Return why words are known already, by word: W words, K known texts, WxK cosines `near`."""
    lasts = {_last(text): text for text in known}
    found: dict[str, str] = {}
    for word, cosines in zip(words, near, strict=True):
        place = int(cosines.argmax())
        if _last(word) in lasts:
            found[word] = f"ends as {lasts[_last(word)]!r}"
        elif cosines[place] >= BOUND:
            found[word] = f"is near to {known[place]!r} (cosine {cosines[place]:.2f})"
    return found


def _last(text: str) -> str:
    return text.lower().split()[-1].rstrip("s")


def check_words(words: Sequence[str], bundle: str | None) -> None:
    """Raise InputError for words that labels taught the bundle, or that its encoder knows."""
    with load(bundle) as model:
        description = model.bundle.read(CHECKPOINT_FILE).decode()
        content = msgspec.json.decode(description)
        metadata = decode_metadata({METADATA_KEY: content[METADATA_KEY]}, CHECKPOINT_FILE)
        concepts = CONCEPTS.read_text("utf-8").splitlines()
        known = list(dict.fromkeys([*taught_texts(metadata, concepts), *imagenet_names()]))
        texts = [_embed(model, each, metadata.embed_dim) for each in (words, known)]
    if found := find_known(words, known, texts[0] @ texts[1].T):
        listed = "; ".join(f"{word!r} {why}" for word, why in found.items())
        raise InputError(f"{len(found)} of the words are not untaught: {listed}. Leave them out.")


def _embed(model: Model, names: Sequence[str], width: int) -> Rows:
    """Embed K names by the text encoder alone, without their places among taught ones: KxD."""
    return unit_rows(model.vocabulary(list(names)).embeddings[:, :width])


def gather_photos(words: Mapping[str, Sequence[str]], photos: Path, output: Path) -> Counter[str]:
    """Copy each word's photos to `output`/photos/WORD/, and list all words in classes.txt.

    Returns how many photos each word has. Raises InputError for a path that is not there.
    """
    counts: Counter[str] = Counter()
    for word, places in words.items():
        found = [path for place in places for path in _photos(photos / place)][:PHOTOS]
        for path in found:
            folder = output / "photos" / _key(word)
            folder.mkdir(parents=True, exist_ok=True)
            # Photos of different sources may have the same name.
            shutil.copyfile(path, folder / f"{path.parent.name}-{path.name}")
        counts[word] = len(found)
    lines = [f"{_key(word)}\t{word}\n" for word in words]
    (output / "classes.txt").write_text("".join(lines), encoding="utf-8")
    return counts


def _photos(place: Path) -> list[Path]:
    if place.is_dir():
        return list(list_photos(place).paths)[:PHOTOS]
    if not place.is_file():
        names = [path.name for path in place.parent.glob("*")] if place.parent.is_dir() else []
        raise InputError(
            f"there is no photo or folder {place}{did_you_mean(place.name, names)}. Give paths "
            "below --photos."
        )
    return [place]


def _key(word: str) -> str:
    return word.replace(" ", "_")


def gather_objects(
    words: Sequence[str], sources: Sequence[LabelSource], photos: Path, output: Path
) -> Counter[str]:
    """Write objects that have one of the W words as their name to `output`/objects/.

    Returns how many objects each word has.
    """
    target = output / "objects" / "images"
    target.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    seen: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for path, regions in _outlined(words, sources, photos):
        kept = [(word, mask) for word, mask in regions if seen[word] < OBJECT_PHOTOS]
        if not kept:
            continue
        seen.update({word for word, _ in kept})
        name = f"{path.parents[1].name}-{path.name}"
        shutil.copyfile(path, target / name)
        with Image.open(path) as image:
            width, height = image.size
        images.append({"id": len(images), "file_name": name, "width": width, "height": height})
        for word, mask in kept:
            counts[word] += 1
            annotations.append(_annotation(len(annotations), images[-1]["id"], word, words, mask))
    categories = [{"id": place, "name": word} for place, word in enumerate(words)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (output / "objects" / "instances.json").write_text(json.dumps(content), encoding="utf-8")
    return counts


def _outlined(
    words: Sequence[str], sources: Sequence[LabelSource], photos: Path
) -> Iterator[tuple[Path, list[tuple[str, NDArray[np.bool_]]]]]:
    """Yield photos with the larger of their objects that have a word as their name."""
    wanted = set(words)
    for source in sources:
        folder = str(photos / source.folder)
        for photo in read_label_source(msgspec.structs.replace(source, folder=folder)):
            if wanted & set(photo.names):
                pairs = zip(photo.names, photo.read(), strict=True)
                regions = [(name, mask) for name, mask in pairs if mask is not None]
                yield (
                    photo.path,
                    [(name, mask) for name, mask in regions if name in wanted and _large(mask)],
                )


def _large(mask: NDArray[np.bool_]) -> bool:
    return int(np.count_nonzero(mask)) > LARGE_AREA


def _annotation(
    number: int, image: int, word: str, words: Sequence[str], mask: NDArray[np.bool_]
) -> dict[str, Any]:
    x0, y0, x1, y1 = map(int, mask_box(mask))
    return {
        "id": number,
        "image_id": image,
        "category_id": list(words).index(word),
        "segmentation": encode_rle(mask),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(np.count_nonzero(mask)),
        "iscrowd": 0,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Check the words and gather what shows them, by the arguments of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="the words, and where photos and objects are")
    parser.add_argument("--photos", type=Path, required=True, help="what the file's paths are in")
    parser.add_argument("--output", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--bundle", help="the bundle that the words are judged by")
    given = parser.parse_args(arguments)
    words = read_words(given.file)
    check_words(list(words.photos), given.bundle)
    given.output.mkdir(parents=True)
    photos = gather_photos(words.photos, given.photos, given.output)
    objects = gather_objects(list(words.photos), words.objects, given.photos, given.output)
    for what, counts in (("photos", photos), ("objects", objects)):
        some = [word for word, count in counts.items() if count]
        say(out, f"{counts.total()} {what} of {len(some)} of the {len(words.photos)} words")
    say(out, f"objects: {', '.join(f'{word} {count}' for word, count in sorted(objects.items()))}")


if __name__ == "__main__":
    main()
