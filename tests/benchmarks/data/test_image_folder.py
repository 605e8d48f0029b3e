from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from made_data import save, stripes

from samclip.benchmarks.data.image_folder import keep_only, read_image_folder
from samclip.errors import InputError, VocabularyError

PHOTO = stripes(0)


def place(folder: Path, *names: str) -> Path:
    for name in names:
        save(PHOTO, folder / name)
    return folder


def test_flat_files_carry_class_and_name(tmp_path: Path) -> None:
    place(tmp_path, "n00000002_great_white_shark.png", "n00000001_tench.png")
    found = read_image_folder(tmp_path)
    assert found.keys == ("n00000001", "n00000002")
    assert found.names == ("tench", "great white shark")
    assert [photo.category for photo in found.photos] == [0, 1]


def test_folders_are_classes(tmp_path: Path) -> None:
    place(tmp_path, "cat/2.png", "cat/1.png", "n00000009_old_dog/a.png")
    found = read_image_folder(tmp_path)
    assert dict(zip(found.keys, found.names, strict=True)) == {"cat": "cat", "n00000009": "old dog"}
    assert [photo.category for photo in found.photos] == [0, 0, 1]


@pytest.mark.parametrize("separator", [" ", "\t"])
def test_a_list_names_classes_that_have_no_photo_too(tmp_path: Path, separator: str) -> None:
    place(tmp_path, "n00000002/x.png")
    listing = tmp_path / "classes.txt"
    lines = ("n00000002", "tench, Tinca tinca"), ("n00000001", "great white shark")
    listing.write_text("\n".join(separator.join(line) for line in lines) + "\n")
    found = read_image_folder(tmp_path, listing)
    assert found.names == ("great white shark", "tench")  # in the order of the keys
    assert [photo.category for photo in found.photos] == [1]


def test_lists_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    place(tmp_path, "n00000002_tench.png")
    listing = tmp_path / "classes.txt"
    listing.write_text("n00000003 shark\n")
    with pytest.raises(InputError, match="did you mean 'n00000003'"):
        read_image_folder(tmp_path, listing)
    listing.write_text("tench\n")
    with pytest.raises(InputError, match="no key and name"):
        read_image_folder(tmp_path, listing)
    with pytest.raises(VocabularyError, match=r"nowhere\.txt cannot be read: No such file"):
        read_image_folder(tmp_path, tmp_path / "nowhere.txt")


def test_only_the_photos_listed_stay_and_all_classes(tmp_path: Path) -> None:
    place(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png", "owl/3.png")
    listing = tmp_path / "only.txt"
    listing.write_text("cat/1.png\n3.png\n")
    kept = keep_only(read_image_folder(tmp_path), listing)
    assert [photo.path.relative_to(tmp_path).as_posix() for photo in kept.photos] == [
        "cat/1.png",
        "owl/3.png",
    ]
    assert kept.names == ("cat", "dog", "owl")
    (tmp_path / "dog/1.png").write_bytes(b"of its own")
    listing.write_text(
        f"{hashlib.sha256(b'of its own').hexdigest()}\n{'0' * 64}"
    )  # photos of other folders are passed over
    assert [photo.category for photo in keep_only(read_image_folder(tmp_path), listing).photos] == [
        1
    ]
    listing.write_text("0" * 64)
    with pytest.raises(InputError, match="lists no photo"):
        keep_only(read_image_folder(tmp_path), listing)
    listing.write_text("cat/1.png\ncat/9.png\n")
    with pytest.raises(InputError, match=r"'cat/9\.png'"):
        keep_only(read_image_folder(tmp_path), listing)


def test_folders_without_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no photo"):
        read_image_folder(tmp_path)
    with pytest.raises(InputError, match="no folder"):
        read_image_folder(tmp_path / "nowhere")
    place(tmp_path, "holiday.png")
    with pytest.raises(InputError, match=r"class of .*holiday\.png is unknown"):
        read_image_folder(tmp_path)


def test_photos_are_known_by_content_and_the_rest_is_counted(tmp_path: Path) -> None:
    place(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png")
    (tmp_path / "cat" / "2.png").rename(tmp_path / "cat" / "2.jfif")
    (tmp_path / "dog" / "notes.txt").write_text("no photo")
    (tmp_path / "dog" / "gone.png").symlink_to("nowhere.png")
    found = read_image_folder(tmp_path)
    assert [photo.path.name for photo in found.photos] == ["1.png", "2.jfif", "1.png"]
    assert found.listing.counts == {"links that lead nowhere": 1, "files that are not images": 1}
    (tmp_path / "list.txt").write_text("dog/1.png")
    assert keep_only(found, tmp_path / "list.txt").listing is found.listing
