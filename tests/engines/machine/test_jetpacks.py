"""The JetPack by its release file, by dpkg's list, and by neither."""

from __future__ import annotations

from pathlib import Path

import pytest
from machine_trees import DPKG, ORIN_NANO, THOR, dpkg, write_tree

from samclip.engines.machine.jetpacks import (
    JETPACKS,
    RELEASES,
    SERIES,
    JetPack,
    find_jetpack,
    installed_packages,
)
from samclip.engines.machine.jetpacks import parse_release as parse


def find(tmp_path: Path, tree: dict[str, str]) -> JetPack:
    files = write_tree(tmp_path, tree)
    return find_jetpack(files, installed_packages(files))


def test_orin_nano(tmp_path: Path) -> None:
    assert find(tmp_path, ORIN_NANO) == JetPack("36.4.3", "6.2", "10.3.0.30", "3.10")


def test_thor(tmp_path: Path) -> None:
    assert find(tmp_path, THOR) == JetPack("38.2.2", "7.0", "10.13.3.9", "3.12")


def test_a_container_without_the_release_file_is_known_by_its_package(tmp_path: Path) -> None:
    assert find(tmp_path, {DPKG: ORIN_NANO[DPKG]}).version == "6.2"


def test_nothing_is_known_of_nothing(tmp_path: Path) -> None:
    assert find(tmp_path, {}) == JetPack(None, None, None, None)


@pytest.mark.parametrize(
    ("line", "l4t", "version"),
    [
        ("# R35 (release), REVISION: 4.1, GCID: 1", "35.4.1", "5.1.2"),
        ("# R36 (release), REVISION: 4.0, GCID: 1", "36.4.0", "6.1"),
        ("# R36 (release), REVISION: 4.7, GCID: 1", "36.4.7", "6.2.1"),
        ("# R39 (release), REVISION: 2.1, GCID: 1", "39.2.1", "7.2.1"),
        ("# R36 (release), REVISION: 9.9, GCID: 1", "36.9.9", "6.x"),  # newer than the table
        ("# R38 (release), REVISION: 4, GCID: 1", "38.4.0", "7.1"),
        ("# R77 (release), REVISION: 1.0, GCID: 1", "77.1.0", None),
        ("something else", None, None),
    ],
)
def test_release_lines(line: str, l4t: str | None, version: str | None, tmp_path: Path) -> None:
    found = find(tmp_path, {"/etc/nv_tegra_release": line})
    assert (found.l4t, found.version) == (l4t, version)


def test_a_jetpack_newer_than_the_table_is_named_by_its_package(tmp_path: Path) -> None:
    tree = {
        "/etc/nv_tegra_release": "# R36 (release), REVISION: 9.0",
        DPKG: dpkg(nvidia_jetpack="6.7.1+b3"),
    }
    assert find(tmp_path, tree).version == "6.7.1"


def test_a_release_that_only_its_package_names(tmp_path: Path) -> None:
    tree = {
        "/etc/nv_tegra_release": "# R39 (release), REVISION: 2.9",
        DPKG: dpkg(nvidia_jetpack="7.2.2+b3"),
    }
    assert find(tmp_path, tree) == JetPack("39.2.9", "7.2.2", "10.16", "3.12")


def test_every_jetpack_of_the_archive_has_its_release_and_python() -> None:
    for version in JETPACKS.values():
        release = JetPack(None, version, None, None).release
        assert release is not None, version
        assert release.builds_plans is (version >= "6.1")
    prefixes = [release.prefix for release in RELEASES]
    assert prefixes == sorted(prefixes, reverse=True)  # the newest first, as the page has them


def test_table_and_series_agree() -> None:
    for l4t, version in JETPACKS.items():
        assert parse(f"# R{l4t.partition('.')[0]} (release), REVISION: {l4t[3:]}") == l4t
        assert SERIES[int(l4t[:2])][0] == version[0]


def test_removed_packages_do_not_count(tmp_path: Path) -> None:
    tree = {
        DPKG: "Package: libnvinfer8\nStatus: deinstall ok config-files\nVersion: 8.5.2-1\n\n"
        "Package: libnvinfer10\nStatus: install ok installed\nVersion: 10.3.0.30-1\n"
    }
    assert installed_packages(write_tree(tmp_path, tree)) == {"libnvinfer10": "10.3.0.30-1"}


@pytest.mark.parametrize(
    "text", ["", "Version: 1", "Package:\nVersion: 1", "\0\0: \n::\n", "x" * 99]
)
def test_an_odd_list_of_packages_is_empty(text: str, tmp_path: Path) -> None:
    assert installed_packages(write_tree(tmp_path, {DPKG: text})) == {}
