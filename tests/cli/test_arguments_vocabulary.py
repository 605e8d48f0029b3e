"""Names from the command line and from files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from samclip.cli.arguments import MAX_LABELS_BYTES, read_names, require_names
from samclip.errors import InputWarning, VocabularyError


def test_names_split_at_commas_and_keep_their_order() -> None:
    assert read_names([" car, bus ,,", "traffic light"], None) == ["car", "bus", "traffic light"]


def test_labels_are_lines_and_follow_the_names(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes("\ufeffwashbasin, sink\r\n\n  überholverbot \n🐈\n".encode())
    assert read_names(["car"], file) == ["car", "washbasin, sink", "überholverbot", "🐈"]


def test_nothing_given_is_none() -> None:
    assert read_names(None, None) is None
    assert read_names([], None) is None


@pytest.mark.parametrize("names", [[""], [" , ,"]])
def test_only_empty_names_are_refused(names: list[str]) -> None:
    with pytest.raises(VocabularyError, match="no name was given"):
        read_names(names, None)


def test_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("\n\n")
    with pytest.raises(VocabularyError, match="no name was given"):
        read_names(None, tmp_path / "labels.txt")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"nowhere\.txt cannot be read: No such file"):
        read_names(None, tmp_path / "nowhere.txt")


def test_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(VocabularyError, match=r"not UTF-8 text.*at byte 3"):
        read_names(None, tmp_path / "latin.txt")


def test_huge_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(MAX_LABELS_BYTES + 1)
    with pytest.raises(VocabularyError, match=r"10,000,001 bytes"):
        read_names(None, tmp_path / "huge.txt")


@pytest.mark.skipif(os.name == "nt", reason="pipes and devices")
def test_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    for path, kind in ((tmp_path / "pipe.txt", "a pipe"), (Path("/dev/zero"), "a device")):
        with pytest.raises(VocabularyError, match=f"is {kind}; expected a plain file"):
            read_names(None, path)


def test_bytes_that_the_locale_does_not_know_are_utf8() -> None:
    assert read_names(["caf\udcc3\udca9,\udcff"], None) == ["caf\udcc3\udca9", "\udcff"]
    assert read_names(["caf\udcc3\udca9"], None) == ["café"]


def test_require_names_teaches_the_flags() -> None:
    assert require_names(["a"], "classify") == ["a"]
    with pytest.raises(VocabularyError, match=r"classify needs names.*--names.*--labels"):
        require_names(None, "classify")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("# pets\ncat\ndog\n", "'# pets'"),
        ("cat,\ndog,\n", "'cat,', 'dog,'"),
        ("cat,dog,cup\n", "'cat,dog,cup'"),
        ("0\tcat\n1\tdog\n", r"'0\\tcat'"),
        ("id,name\n0,cat\n1,dog\n", "'0,cat'"),
        ("names:\n  0: cat\n  1: dog\n", "'names:', '0: cat'"),
        ("- cat\n- dog\n", "'- cat'"),
        ('[\n  "cat",\n  "dog"\n]\n', "'\"cat\",'.*and 1 more"),
        ("n02123045 tabby, tabby cat\nn02110341 dalmatian\n", "'n02110341 dalmatian'"),
    ],
)
def test_files_of_another_form_are_warned_of(text: str, shown: str, tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text(text)
    with pytest.warns(InputWarning, match=f"look like a list in another form.*{shown}.*one name a"):
        names = read_names(None, file)
    assert names == [line.strip() for line in text.splitlines()]


def test_names_of_another_form_are_warned_of(tmp_path: Path) -> None:
    for text in ("cat;dog", '["cat", "dog"]', "'cat','dog'"):
        with pytest.warns(InputWarning, match=r"look like a list.*--names 'car,bus'"):
            read_names([text], None)
    file = tmp_path / "coco.names"
    file.write_text("cat\n")
    with pytest.warns(InputWarning, match="is a file. For the names in it, write --labels"):
        assert read_names([str(file)], None) == [str(file)]
    read_names(["don't walk, 5 o'clock, 7-up, AC/DC, notes.txt"], None)


def test_utf16_without_its_mark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wide.txt").write_bytes("cat\ndog\n".encode("utf-16-be"))
    with pytest.raises(VocabularyError, match=r"holds NUL characters, as UTF-16"):
        read_names(None, tmp_path / "wide.txt")
