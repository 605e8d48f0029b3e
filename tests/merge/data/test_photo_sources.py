import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from photo_sources import COLOURS, ListSource, write_photo, write_photos

from samclip.errors import ImageError, InputError
from samclip.merge.data.photo_sources import (
    FolderSource,
    JoinedSource,
    PhotoSource,
    PickedSource,
    split,
)


def keys(source: PhotoSource) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def test_a_folder_is_searched_at_every_depth(tmp_path: Path) -> None:
    write_photos(tmp_path, ["b.png", "a/x.PNG", "a/deep/y.png", ".hidden.png", ".git/z.png"])
    (tmp_path / "notes.txt").write_text("no photo")
    source = FolderSource(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in source.paths] == [
        "a/deep/y.png",
        "a/x.PNG",
        "b.png",
    ]
    assert source.key(2) == hashlib.sha256((tmp_path / "b.png").read_bytes()).hexdigest()
    assert source.photo(2).shape == (32, 48, 3)
    assert tuple(source.photo(2)[0, 0]) == COLOURS[0]


def test_excluded_files_and_doubles_are_left_out(tmp_path: Path) -> None:
    write_photos(tmp_path, ["a.png", "val/b.png", "val/deep/c.png", "d.png"])
    write_photo(tmp_path / "copy of a.png", COLOURS[0])
    source = FolderSource(tmp_path, exclude=["val/*"])
    assert [path.name for path in source.paths] == ["a.png", "d.png"]


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no image"):
        FolderSource(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        FolderSource(tmp_path / "absent")


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    source = FolderSource(write_photos(tmp_path, ["a.png"]))
    write_photo(tmp_path / "a.png", (1, 2, 3))
    with pytest.raises(ImageError, match="changed since it was listed"):
        source.photo(0)


def test_a_damaged_file_is_named_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no jpeg")
    source = FolderSource(tmp_path)
    with pytest.raises(ImageError, match=r"a\.jpg is not of the formats"):
        source.photo(0)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        os.truncate(file.fileno(), 2**29 + 1)  # sparse: takes no room
    with pytest.raises(ImageError, match="at most 536,870,912 are read"):
        FolderSource(tmp_path)


def test_joined_sources_count_a_photo_once(tmp_path: Path) -> None:
    first = FolderSource(write_photos(tmp_path / "one", ["a.png", "b.png"]))
    second = FolderSource(write_photos(tmp_path / "two", ["p.png", "q.png", "r.png"]))
    joined = JoinedSource([first, second])
    assert keys(joined) == [*keys(first), second.key(2)]
    assert np.array_equal(joined.photo(2), second.photo(2))


def test_a_split_divides_by_content() -> None:
    source = ListSource(1000)
    train, held = split(source, 0.2, seed=0)
    assert sorted(keys(train) + keys(held)) == sorted(keys(source))
    assert abs(len(held) - 200) < 51  # four standard deviations
    backwards = PickedSource(source, range(999, 499, -1))
    assert set(keys(split(backwards, 0.2, seed=0)[1])) == set(keys(held)) & set(keys(backwards))
    assert set(keys(held)) < set(
        keys(split(source, 0.3, seed=0)[1])
    )  # all those held before, and more
    assert set(keys(held)) != set(keys(split(source, 0.2, seed=1)[1]))
    assert len(split(source, 0.0, seed=0)[1]) == 0


def test_a_share_that_is_none_is_refused() -> None:
    for holdout in (-0.1, 1.0):
        with pytest.raises(InputError, match="expected 0 up to below 1"):
            split(ListSource(1), holdout, seed=0)
