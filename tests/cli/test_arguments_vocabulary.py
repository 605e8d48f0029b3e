"""Names from the command line and from files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from samclip.cli.arguments import MAX_LABELS_BYTES, read_names, require_names
from samclip.errors import VocabularyError


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
