from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_data import Made, rectangle, save, stripes, write_coco

from samclip.benchmarks.data.coco import read_coco
from samclip.benchmarks.data.image_folder import read_image_folder
from samclip.errors import InputError
from tools.untaught_words import check_words, find_known, main, read_words

ROOT = Path(__file__).resolve().parent.parent.parent
LIST = ROOT / "configs" / "samclip_tiny_untaught.json"


def test_no_label_and_no_class_of_imagenet_is_among_the_words() -> None:
    words = read_words(LIST)
    assert len(words.photos) == 100
    check_words(list(words.photos), "samclip-tiny")


def test_known_words_are_refused_by_their_last_word_or_by_their_meaning() -> None:
    words = ["wild cats", "sea gull", "octopus"]
    cosines = np.asarray([[0.1, 0.2], [0.3, 0.7], [0.69, 0.1]], np.float32)
    found = find_known(words, ["tabby cat", "bird"], cosines)
    assert found == {
        "wild cats": "ends as 'tabby cat'",
        "sea gull": "is near to 'bird' (cosine 0.70)",
    }


def test_a_synonym_of_a_taught_name_is_refused() -> None:
    with pytest.raises(InputError, match=r"2 of the words .*'lorry' ends as 'lorry'.*'puppy' is"):
        check_words(["lorry", "puppy", "octopus"], "samclip-tiny")


def test_photos_and_objects_are_what_the_measurements_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    for number in range(6):
        save(stripes(0), data / "nouns" / "octopus" / f"{number}.png")
    save(stripes(1), data / "more" / "1.png")
    objects = [
        Made("green", rectangle(0, 0, 64, 64)),
        Made("green", rectangle(100, 0, 120, 20)),  # too small
        Made("red", rectangle(160, 0, 224, 64)),
    ]
    write_coco(data / "coco", {"a.png": (stripes(0), objects), "b.png": (stripes(0), objects[2:])})
    annotations = data / "coco" / "instances.json"
    annotations.write_text(annotations.read_text().replace('"green"', '"octopus"'))
    file = tmp_path / "words.json"
    photos = {"water lily": ["more/1.png"], "octopus": ["more/1.png", "nouns/octopus"], "robot": []}
    file.write_text(json.dumps({"photos": photos, "objects": [{"kind": "coco", "folder": "coco"}]}))
    output = tmp_path / "untaught"
    main([str(file), "--photos", str(data), "--output", str(output), "--bundle", "samclip-tiny"])
    read = read_image_folder(output / "photos", output / "classes.txt")
    assert read.names == ("octopus", "robot", "water lily")
    files = [(photo.path.name, read.names[photo.category]) for photo in read.photos]
    first = [(f"octopus-{number}.png", "octopus") for number in range(3)]
    assert files == [("more-1.png", "octopus"), *first, ("more-1.png", "water lily")]
    coco = read_coco(output / "objects")
    assert coco.names == ("water lily", "octopus", "robot")
    [photo] = coco.photos
    [found] = photo.objects
    assert (coco.names[found.category], found.box, found.area) == ("octopus", (0, 0, 64, 64), 4096)
    assert np.array_equal(found.mask(), rectangle(0, 0, 64, 64))
    shown = capsys.readouterr().out
    assert "5 photos of 2 of the 3 words" in shown
    assert "1 objects of 1 of the 3 words" in shown


def test_a_photo_that_is_not_there_is_named(tmp_path: Path) -> None:
    save(stripes(0), tmp_path / "anchor.png")
    file = tmp_path / "words.json"
    file.write_text(json.dumps({"photos": {"anchor": ["ancor.png"]}}))
    with pytest.raises(InputError, match=r"no photo or folder .*did you mean 'anchor.png'"):
        main([str(file), "--photos", str(tmp_path), "--output", str(tmp_path / "out")])
    file.write_text(json.dumps({"words": {}}))
    with pytest.raises(InputError, match="holds no words"):
        read_words(file)
