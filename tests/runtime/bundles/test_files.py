"""The paths that a bundle may list."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samclip.errors import UnsafePathError
from samclip.runtime.bundles.files import check_path, check_paths, parent_folders


@given(st.text())
def test_a_path_that_passes_stays_inside(path: str) -> None:
    try:
        check_path(path)
    except UnsafePathError:
        return
    pure = PurePosixPath(path)
    assert not pure.is_absolute()
    assert ".." not in pure.parts
    assert str(pure) == path  # nothing to normalise away


@given(st.lists(st.from_regex(r"[a-z0-9_\-]{1,8}", fullmatch=True), min_size=1, max_size=4))
def test_plain_names_pass(parts: list[str]) -> None:
    reserved = {"con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in range(10))}
    if not reserved.intersection(parts):
        check_path("/".join(parts))


def test_messages_name_the_path_and_the_remedy() -> None:
    with pytest.raises(UnsafePathError, match=r"'a/\.\./b' has the component '\.\.'.*rename"):
        check_path("a/../b")


@pytest.mark.parametrize(
    "paths",
    [("a", "A"), ("x/a", "X/b"), ("straße", "STRASSE"), ("a", "a/b"), ("a/b/c", "a/b"), ("é", "É")],
)
def test_colliding_paths_are_refused(paths: tuple[str, str]) -> None:
    for order in (paths, paths[::-1]):
        with pytest.raises(UnsafePathError, match="Rename one"):
            check_paths(order)


@pytest.mark.parametrize("path", ["manifest.json", "manifest.sha256", "Manifest.JSON"])
def test_the_manifests_own_names_are_refused(path: str) -> None:
    with pytest.raises(UnsafePathError, match="may not list"):
        check_paths([path])
    check_paths([f"folder/{path}"])


def test_parent_folders() -> None:
    assert parent_folders(["a/b/c", "d", "a/e"]) == {"a", "a/b"}
