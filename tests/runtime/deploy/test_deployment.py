"""Deployments of whole bundles: what is served, what is kept, what is refused, what stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from bundle_copies import write_renamed
from coloured_bundle import write_coloured_bundle
from recorded_progress import RecordedProgress
from tiny_bundle import write_tiny_bundle

import samclip
from samclip.disk import places
from samclip.errors import (
    BackendUnavailableError,
    BundleNotFoundError,
    DeployBusyError,
    DeployError,
    InputError,
    IntegrityError,
    ManifestError,
    SamclipError,
    SignatureError,
    WriteError,
)
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.holds import HISTORY
from samclip.runtime.bundles.manifest import DIGEST_NAME, MANIFEST_NAME, SCHEMA_VERSION
from samclip.runtime.bundles.manifest_file import digest_line
from samclip.runtime.deploy import deployment, first_run
from samclip.runtime.deploy.deployment import DeploySettings, Outcome, deploy, roll_back
from samclip.runtime.deploy.first_run import FirstRun, RunTask
from samclip.runtime.deploy.folder import changing, find_deployment
from samclip.runtime.deploy.history import Switch, read_history, write_history
from samclip.runtime.deploy.status import read_state

PLAIN = DeploySettings(build=False)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[RunTask]:
    """No release is run: each passes, and the tasks are collected."""
    tasks: list[RunTask] = []

    def run(task: RunTask) -> FirstRun:
        tasks.append(task)
        return FirstRun(backend="onnxruntime", masks=1)

    monkeypatch.setattr(deployment, "run_once", run)
    return tasks


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a small bundle of a name."""
    return lambda name: write_tiny_bundle(tmp_path / "bundles" / name, overwrite=True, name=name)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A deployment folder that does not exist yet, and a cache of the test's own."""
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "models" / "street"


def snapshot(folder: Path) -> dict[str, object]:
    """Everything below a folder: links by their targets, files by their bytes."""
    return {
        str(path.relative_to(folder)): (
            path.readlink() if path.is_symlink() else path.is_dir() or path.read_bytes()
        )
        for path in sorted(folder.rglob("*"))
    }


def served(place: Path) -> str:
    return Bundle.open(place / "current").manifest.name


def test_a_bundle_is_run_and_served_and_the_same_again_changes_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_coloured_bundle(tmp_path / "bundle")
    progress = RecordedProgress()
    outcome = deploy(source, place, progress=progress)
    assert outcome.changed
    assert outcome.first_run is not None
    assert outcome.first_run.masks == 1
    with samclip.load(place / "current") as model:
        assert outcome.first_run.backend == model.backend == outcome.release.ran_on
        assert model.bundle.path == place / "releases" / outcome.release.name
    shutil.rmtree(source)  # nothing of it is needed
    monkeypatch.setattr(deployment, "run_once", None)  # and would fail
    before = snapshot(place)
    again = deploy(place / "current", place)
    assert not again.changed
    assert again.release == outcome.release
    assert snapshot(place) == before


def test_a_loaded_model_keeps_its_release_through_later_deployments(
    place: Path, tmp_path: Path, photo_path: Path, answers: list[RunTask]
) -> None:
    source = write_coloured_bundle(tmp_path / "bundle")
    first = deploy(source, place, PLAIN).release.name
    model = samclip.load(place / "current")  # its mask decoder is not read yet
    for name in ("b", "c", "d"):
        outcome = deploy(write_renamed(source, tmp_path / name, name), place, PLAIN)
    assert outcome.in_use == (first,)
    (held,) = [one for one in read_state(place).releases if one.in_use]
    assert (held.name, held.role) == (first, "kept")
    assert len(model.encode(photo_path).segment(points=[(300, 200)]).packed) == 1
    model.close()
    assert deploy(write_renamed(source, tmp_path / "e", "e"), place, PLAIN).removed[0] == first
    assert served(place) == "e"


def test_a_rollback_serves_the_previous_release_and_again_the_newer(
    place: Path, tiny: Callable[[str], Path], answers: list[RunTask]
) -> None:
    with pytest.raises(DeployError, match="nothing was deployed"):
        roll_back(place, PLAIN)
    deploy(tiny("a"), place, DeploySettings(build=False, backend="onnxruntime", precision="fp32"))
    with pytest.raises(DeployError, match="no previous release"):
        roll_back(place, PLAIN)
    deploy(tiny("b"), place, PLAIN)
    assert roll_back(place, PLAIN).release.bundle == served(place) == "a"
    assert (answers[-1].backend, answers[-1].precision) == ("onnxruntime", "fp32")  # as deployed
    assert roll_back(place, PLAIN).release.bundle == served(place) == "b"
    previous = find_deployment(place).standing().previous
    assert previous is not None
    (place / "releases" / previous / "encoder.onnx").write_bytes(b"worn out")
    before = snapshot(place)
    with pytest.raises(IntegrityError):
        roll_back(place, PLAIN)
    assert snapshot(place) == before


def test_the_newest_releases_are_kept_and_an_older_one_is_served_without_a_copy(
    place: Path, tiny: Callable[[str], Path], answers: list[RunTask]
) -> None:
    settings = DeploySettings(build=False, keep=3)
    names = [deploy(tiny(name), place, settings).release.name for name in "abcd"]
    state = read_state(place)
    assert [release.role for release in state.releases] == ["kept", "previous", "current"]
    assert deploy(tiny("b"), place, settings).release.name == names[1]
    state = read_state(place)
    assert (state.current, state.previous) == (names[1], names[3])
    assert {release.name for release in state.releases} == {*names[1:]}
    outcome = deploy(tiny("e"), place, PLAIN)
    assert outcome.removed == (names[2], names[3])
    assert outcome.previous == names[1]


def test_a_release_that_is_damaged_is_deployed_again(
    place: Path, tiny: Callable[[str], Path], answers: list[RunTask]
) -> None:
    first = deploy(tiny("a"), place, PLAIN).release.name
    (place / "releases" / first / "encoder.onnx").write_bytes(b"worn out")
    (release,) = read_state(place).releases
    assert "encoder.onnx" in release.fault
    again = deploy(tiny("a"), place, PLAIN)
    assert again.changed
    assert again.release.name != first
    assert served(place) == "a"


@pytest.mark.parametrize(
    ("child", "message"),
    [
        ("import os; os.abort()", "signal SIGABRT"),
        ("import sys; sys.exit('no driver')", "exit code 1, which said: no driver"),
        ("import time; time.sleep(60)", r"no answer within 0\.5 s"),
    ],
)
def test_a_release_that_crashes_hangs_or_fails_is_not_served(
    child: str,
    message: str,
    place: Path,
    tiny: Callable[[str], Path],
    answers: list[RunTask],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deploy(tiny("a"), place, PLAIN)
    before = snapshot(place)
    monkeypatch.setattr(deployment, "run_once", first_run.run_once)
    monkeypatch.setattr(first_run, "START", child)
    with pytest.raises(DeployError, match=message) as caught:
        deploy(tiny("b"), place, DeploySettings(build=False, seconds=0.5))
    assert "what served before still does" in str(caught.value)
    assert snapshot(place) == before


def test_the_errors_of_a_release_reach_the_caller(place: Path, tiny: Callable[[str], Path]) -> None:
    """The small bundle's encoder has no input `image`: the real child says so."""
    with pytest.raises(DeployError, match=r"does not run on this device: .*Error"):
        deploy(tiny("a"), place, PLAIN)
    assert read_state(place).releases == ()
    assert read_state(place).current is None


def make_foreign(place: Path) -> None:
    (place / "photos").mkdir(parents=True)


def make_file(place: Path) -> None:
    place.parent.mkdir(parents=True)
    place.write_text("a file")


def make_open(place: Path) -> None:
    place.mkdir(parents=True)
    place.chmod(0o777)


def make_linked_releases(place: Path) -> None:
    make_empty(place)
    (place / "releases").rmdir()
    (place / "releases").symlink_to(place.parent)


def make_current_a_folder(place: Path) -> None:
    make_empty(place)
    (place / "current").mkdir()
    (place / "current" / "mine").write_text("mine")


def make_current_lead_away(place: Path) -> None:
    make_empty(place)
    (place / "current").symlink_to("../../bundles")


def make_newer_record(place: Path) -> None:
    make_empty(place)
    (place / HISTORY).write_text('{"schema": 2}')


def make_empty(place: Path) -> None:
    with changing(place, make=True):
        pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_foreign, "holds 'photos'"),
        (make_file, "is not a folder"),
        (make_open, "everybody may write to it"),
        (make_linked_releases, "is a link or a file"),
        (make_current_a_folder, "is a folder and not a link"),
        (make_current_lead_away, "leads to '../../bundles'"),
        (make_newer_record, "newer samclip"),
    ],
)
def test_folders_that_are_not_deployments_are_refused_and_left_as_they_are(
    make: Callable[[Path], None],
    message: str,
    place: Path,
    tiny: Callable[[str], Path],
    answers: list[RunTask],
) -> None:
    make(place)
    before = snapshot(place.parent)
    with pytest.raises(DeployError, match=message):
        deploy(tiny("a"), place, PLAIN)
    assert snapshot(place.parent) == before
    assert not answers


def test_bundles_and_settings_that_cannot_be_deployed_are_refused(
    place: Path, tiny: Callable[[str], Path], answers: list[RunTask], tmp_path: Path
) -> None:
    pytest.importorskip("cryptography")
    key = tmp_path / "maker.pub"
    key.write_text(PUBLIC_KEY)
    deploy(tiny("a"), place, PLAIN)
    left = snapshot(place)
    older, bundle = tiny("older"), tiny("b")
    manifest = (older / MANIFEST_NAME).read_bytes()
    now, before = (f'"schema_version": {SCHEMA_VERSION - n}'.encode() for n in (0, 1))
    assert now in manifest
    manifest = manifest.replace(now, before)
    (older / MANIFEST_NAME).write_bytes(manifest)
    (older / DIGEST_NAME).write_bytes(digest_line(manifest))
    cases: list[tuple[type[SamclipError], Path | str, Path, DeploySettings]] = [
        (BundleNotFoundError, "nowhere", place, PLAIN),
        (ManifestError, older, place, PLAIN),
        (SignatureError, bundle, place, DeploySettings(build=False, public_key=key)),
        (DeployError, bundle, bundle / "street", PLAIN),
        (DeployError, bundle, bundle, PLAIN),
        (InputError, bundle, place, DeploySettings(keep=1)),
        (InputError, bundle, place, DeploySettings(precision="fp12")),
        (InputError, bundle, place, DeploySettings(backend="tensorflow")),
        (InputError, bundle, place, DeploySettings(seconds=0)),
        (BackendUnavailableError, bundle, place, DeploySettings(backend="tensorrt")),
    ]
    for error, source, to, settings in cases:
        with pytest.raises(error):
            deploy(source, to, settings)
    assert snapshot(place) == left
    assert not (bundle / "street").exists()


PUBLIC_KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl maker\n"
)


def test_two_deployments_at_once_are_refused_and_a_full_disk_is_seen_first(
    place: Path,
    tiny: Callable[[str], Path],
    answers: list[RunTask],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    met: list[Outcome | SamclipError] = []

    def run(task: RunTask) -> FirstRun:
        assert read_state(place).busy
        with pytest.raises(DeployBusyError, match="another process is deploying") as caught:
            deploy(tiny("b"), place, PLAIN)
        met.append(caught.value)
        return FirstRun(backend="onnxruntime")

    monkeypatch.setattr(deployment, "run_once", run)
    deploy(tiny("a"), place, PLAIN)
    assert met
    assert not read_state(place).busy
    before = snapshot(place)
    usage = shutil.disk_usage(place)._replace(free=100)
    monkeypatch.setattr(places.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(WriteError, match="100 are free"):
        deploy(tiny("b"), place, PLAIN)
    assert snapshot(place) == before


def interrupted(place: Path) -> Iterator[tuple[str, str, str | None]]:
    """Interrupt a switch from b to c before each of its steps; yields what must be meant then."""
    folder = find_deployment(place)
    a, b, c = folder.names()
    history = read_history(place)
    yield b, a, None
    write_history(place, msgspec.structs.replace(history, switch=Switch(current=c, previous=b)))
    yield b, a, c
    (place / "current").unlink()
    (place / "current").symlink_to(f"releases/{c}")
    yield c, b, c


def test_a_switch_that_was_interrupted_is_not_begun_or_done(
    place: Path, tiny: Callable[[str], Path], answers: list[RunTask]
) -> None:
    settings = DeploySettings(build=False, keep=3)
    for name in "abc":
        deploy(tiny(name), place, settings)
    roll_back(place, settings)
    folder = find_deployment(place)
    a, b, c = folder.names()
    (place / "previous").unlink()
    (place / "previous").symlink_to(f"releases/{a}")
    write_history(place, msgspec.structs.replace(read_history(place), switch=None))
    for current, previous, _ in interrupted(place):
        standing = folder.standing()
        assert (standing.current, standing.previous) == (current, previous)
    with changing(place, make=False):  # and the link is mended
        pass
    assert (place / "previous").readlink().name == b
    assert roll_back(place, settings).release.name == b
    assert find_deployment(place).standing().previous == c
