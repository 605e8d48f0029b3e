"""Which bundle is used when none is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from samclip.errors import BundleNotFoundError
from samclip.runtime.bundles.manifest import MANIFEST_NAME
from samclip.runtime.cli.selection import choose_bundle


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAMCLIP_HOME", str(tmp_path / "bundles"))
    return tmp_path / "bundles"


def install(home: Path, *names: str) -> None:
    for name in names:
        (home / name).mkdir(parents=True)
        (home / name / MANIFEST_NAME).touch()


def test_the_name_given_wins(home: Path) -> None:
    install(home, "one")
    assert choose_bundle("other") == "other"


def test_the_only_installed_bundle_is_the_default(home: Path) -> None:
    install(home, "one")
    (home / "not-a-bundle").mkdir()
    assert choose_bundle(None) == "one"


def test_several_bundles_must_be_named(home: Path) -> None:
    install(home, "two", "one")
    with pytest.raises(BundleNotFoundError, match=r"several .*: one, two\. Name one with --bundle"):
        choose_bundle(None)


def test_no_bundle_at_all_says_how_to_get_one(home: Path) -> None:
    with pytest.raises(BundleNotFoundError, match=r"SAMCLIP_BUNDLE.*samclip-export"):
        choose_bundle(None)
