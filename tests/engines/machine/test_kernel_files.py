"""Reading the files of a machine, whatever they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from machine_trees import write_tree

from samclip.engines.machine import kernel_files as machine_files
from samclip.engines.machine.kernel_files import MachineFiles


def test_texts_lose_what_ends_them(tmp_path: Path) -> None:
    files = write_tree(tmp_path, {"/proc/device-tree/model": "NVIDIA Jetson\0", "/etc/n": " 5 \n"})
    assert files.text("/proc/device-tree/model") == "NVIDIA Jetson"
    assert files.number("/etc/n") == 5


def test_files_that_cannot_be_read_are_empty(tmp_path: Path) -> None:
    files = write_tree(tmp_path, {"/folder/file": "x"}, {"/dangling": "/nowhere/at/all"})
    for name in ("/absent", "/folder", "/folder/file/below", "/a\0b", "/dangling", "/" + "x" * 999):
        assert files.text(name) == ""
        assert files.number(name) is None
        assert files.fields(name) == {}
    assert files.folders("/folder/file") == files.folders("/absent") == ()
    assert files.link("/folder/file") == ""


@pytest.mark.parametrize("content", ["", "-5", "5.0", "five", "\u0665", "5 6", "\xff"])
def test_odd_numbers_are_none(content: str, tmp_path: Path) -> None:
    assert write_tree(tmp_path, {"/n": content}).number("/n") is None


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\xff\xfe: \x80\n")
    assert list(MachineFiles(tmp_path).fields("/f")) == ["\ufffd\ufffd"]


def test_a_file_without_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_files, "MAX_BYTES", 8)
    assert write_tree(tmp_path, {"/f": "x" * 100}).text("/f") == "x" * 8


def test_links_and_lists(tmp_path: Path) -> None:
    files = write_tree(tmp_path, {"/d/b": "", "/d/a": ""}, {"/target": "/lib/graphical.target"})
    assert files.folders("/d") == files.folders("/d/") == ("/d/a", "/d/b")
    assert files.link("/target") == "/lib/graphical.target"
    assert files.exists("/target")
    assert not files.exists("/absent")


def test_this_machine() -> None:
    assert "MemTotal" in MachineFiles().fields("/proc/meminfo")
