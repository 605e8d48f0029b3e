"""Which bundle is used when none is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from samclip.errors import BundleNotFoundError
from samclip.runtime.cli.selection import MANIFEST, choose_bundle, installed_bundles
from samclip.runtime.manifest import MANIFEST_NAME


def install(home: Path, *names: str) -> None:
    for name in names:
        (home / name).mkdir(parents=True)
        (home / name / MANIFEST).touch()


def test_the_name_given_wins(tmp_path: Path) -> None:
    install(tmp_path, "one")
    assert choose_bundle("other", tmp_path) == "other"


def test_the_only_installed_bundle_is_the_default(tmp_path: Path) -> None:
    install(tmp_path, "one")
    (tmp_path / "not-a-bundle").mkdir()
    assert choose_bundle(None, tmp_path) == str(tmp_path / "one")


def test_several_bundles_must_be_named(tmp_path: Path) -> None:
    install(tmp_path, "two", "one")
    assert [path.name for path in installed_bundles(tmp_path)] == ["one", "two"]
    with pytest.raises(BundleNotFoundError, match=r"several .*: one, two\. Name one with --bundle"):
        choose_bundle(None, tmp_path)


def test_no_bundle_at_all_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match=r"SAMCLIP_BUNDLE.*samclip-export"):
        choose_bundle(None, tmp_path / "nowhere")


def test_the_manifest_is_called_as_the_schema_says() -> None:
    assert MANIFEST == MANIFEST_NAME  # repeated there to keep msgspec out of `samclip --help`
