"""Names of bundles: the user's home before the package, and the default."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tiny_bundle import tiny_files, write_tiny_bundle

import samclip
from samclip.engines.steps import ExportBundle
from samclip.errors import BundleNotFoundError, UnsafePathError
from samclip.runtime import assets
from samclip.runtime.assets import DEFAULT_BUNDLE, is_packaged
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.home import bundle_home, find_bundle, list_bundles


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `home` and `package/bundles`, neither of which exists yet."""
    monkeypatch.setenv("SAMCLIP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(assets, "ASSETS", tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def packaged(places: Path) -> Path:
    return write_tiny_bundle(places / "package" / "bundles" / DEFAULT_BUNDLE)


def test_names_are_looked_up_in_the_home(places: Path) -> None:
    assert list_bundles() == {}
    with pytest.raises(BundleNotFoundError, match="none yet"):
        find_bundle("mine")
    path = write_tiny_bundle(places / "home" / "mine")
    (places / "home" / "rubbish").mkdir()
    assert bundle_home() == places / "home"
    assert list_bundles() == {"mine": path}
    assert find_bundle("mine") == path
    with pytest.raises(BundleNotFoundError, match=r"did you mean 'mine'.*there are: mine"):
        find_bundle("mime")


def test_a_path_goes_before_a_name(places: Path) -> None:
    write_tiny_bundle(places / "home" / "tiny")
    local = write_tiny_bundle(places / "tiny")
    assert find_bundle("tiny").absolute() == local


def test_default_home_is_in_the_users_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAMCLIP_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "/xdg")
    assert bundle_home() == Path("/xdg/samclip/bundles")


def test_a_packaged_bundle_is_found_by_name_and_by_default(packaged: Path) -> None:
    assert find_bundle(DEFAULT_BUNDLE) == find_bundle() == packaged
    assert list_bundles() == {DEFAULT_BUNDLE: packaged}
    assert samclip.load(backend="onnxruntime", threads=1).bundle.path == packaged.resolve()


def test_the_users_own_bundle_of_that_name_goes_first(packaged: Path, places: Path) -> None:
    own = write_tiny_bundle(places / "home" / DEFAULT_BUNDLE)
    assert find_bundle(DEFAULT_BUNDLE) == find_bundle() == own
    assert list_bundles() == {DEFAULT_BUNDLE: own}


def test_the_default_is_no_folder_that_is_called_so_by_chance(packaged: Path, places: Path) -> None:
    (places / DEFAULT_BUNDLE).mkdir()
    assert find_bundle() == packaged


def test_without_a_default_bundle_the_error_says_what_to_do(places: Path) -> None:
    write_tiny_bundle(places / "home" / "mine")
    expected = r"built without it.*known names: mine.*export this one .*home.samclip-tiny"
    for name in (None, DEFAULT_BUNDLE):
        with pytest.raises(BundleNotFoundError, match=expected) as caught:
            samclip.load(name)
        output = str(places / "home" / DEFAULT_BUNDLE)
        assert ExportBundle((("checkpoint", None), ("output", output))) in caught.value.steps


def test_a_read_only_installation_works(packaged: Path) -> None:
    folders = [packaged, *(p for p in packaged.rglob("*") if p.is_dir())]
    files = [path for path in packaged.rglob("*") if path.is_file()]
    for path in (*files, *folders):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        Bundle.open(find_bundle()).verify()
    finally:
        for path in folders:
            path.chmod(0o755)


def test_hard_links_of_an_installer_are_accepted_in_packaged_bundles_alone(
    packaged: Path, places: Path
) -> None:
    own = write_tiny_bundle(places / "own")
    for bundle in (packaged, own):
        for name in (*tiny_files(), "manifest.json"):
            os.link(bundle / name, places / f"{bundle.name} {name.replace('/', ' ')}")
    Bundle.open(packaged).verify()
    assert not is_packaged(own)
    with pytest.raises(UnsafePathError, match="hard links"):
        Bundle.open(own)


def test_symbolic_links_are_refused_in_packaged_bundles_too(packaged: Path, places: Path) -> None:
    (packaged / "decoder.onnx").rename(places / "outside")
    (packaged / "decoder.onnx").symlink_to(places / "outside")
    with pytest.raises(UnsafePathError, match="symbolic link"):
        Bundle.open(packaged)


def test_a_damaged_packaged_bundle_is_refused(packaged: Path) -> None:
    data = bytearray((packaged / "decoder.onnx").read_bytes())
    data[-1] ^= 1
    (packaged / "decoder.onnx").write_bytes(data)
    with pytest.raises(samclip.IntegrityError):
        Bundle.open(packaged).verify()


def test_out_of_an_archive_the_error_says_so(tmp_path: Path) -> None:
    """zipimport runs the code, but a bundle is a directory."""
    package = Path(samclip.__file__).parent
    with zipfile.ZipFile(tmp_path / "samclip.zip", "w") as archive:
        for path in package.rglob("*.py"):
            archive.write(path, path.relative_to(package.parent))
    code = (
        "from samclip.errors import BundleNotFoundError\n"
        "from samclip.runtime.bundles.home import find_bundle\n"
        "try: find_bundle()\n"
        "except BundleNotFoundError as error: print(error)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "samclip.zip")}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "runs from an archive" in result.stdout
    assert "unpacked" in result.stdout
