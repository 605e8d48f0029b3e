"""The folder of a deployment: its releases, its two links, and the lock that one process holds.

::

    street/                          the deployment
        current  -> releases/0002-9f86d081884c
        previous -> releases/0001-2c26b46b68ff
        releases/0001-2c26b46b68ff/  whole bundles
        deployment.json              the record

A release's number orders releases without a clock, which boards without a battery do not have; the
digits after it are those of its bundle's digest. Links are followed nowhere but here, and only to
folders in `releases`.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from samclip.disk.partial_files import (
    NAME,
    Lock,
    as_write_error,
    is_safely_owned,
    remove_abandoned,
    replace_link,
    sync_folder,
)
from samclip.disk.paths import user_path
from samclip.errors import DeployBusyError, DeployError
from samclip.runtime.bundles.files import is_ignored
from samclip.runtime.bundles.holds import HISTORY, RELEASE_NAME, RELEASES
from samclip.runtime.deploy.history import (
    History,
    Release,
    Switch,
    read_history,
    write_history,
)

CURRENT, PREVIOUS = "current", "previous"
PATIENCE = 0.5  # seconds: who looks whether the folder is busy, holds it for a moment

_logger = logging.getLogger("samclip")


@dataclass(frozen=True)
class Standing:
    """The names of the release that is served and of the one to roll back to, and the record.

    Each is None when there is none.
    """

    current: str | None
    previous: str | None
    history: History


@dataclass(frozen=True)
class DeploymentFolder:
    """A folder that bundles are deployed to; `path` is absolute, links resolved."""

    path: Path

    def release(self, name: str) -> Path:
        """Return the folder of a release."""
        return self.path / RELEASES / name

    def has(self, name: str | None) -> bool:
        """Whether the folder of a release is there; raises DeployError for another thing there."""
        if name is None:
            return False
        try:
            status = self.release(name).lstat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _unreadable(self.release(name), error) from error
        if not stat.S_ISDIR(status.st_mode):
            raise DeployError(
                f"{self.release(name)} is a link or a file; expected the folder of a release. "
                "Remove it."
            )
        return True

    def names(self) -> tuple[str, ...]:
        """List the releases whose folders are there, by number; other entries are left out."""
        try:
            with os.scandir(self.path / RELEASES) as entries:
                found = [
                    entry.name
                    for entry in entries
                    if RELEASE_NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
                ]
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise _unreadable(self.path / RELEASES, error) from error
        return tuple(sorted(found, key=number_of))

    def current(self) -> str | None:
        """Return the name of the release that is served; None before the first deployment."""
        return self._follow(CURRENT)

    def standing(self) -> Standing:
        """Read which releases are current and previous, and the record; raises DeployError."""
        current, history = self.current(), self.history()
        switch = history.switch
        if switch is not None and switch.current == current:
            return Standing(current, switch.previous, history)
        previous = self._follow(PREVIOUS)
        return Standing(current, None if previous == current else previous, history)

    def history(self) -> History:
        """Read the record; raises DeployError."""
        return read_history(self.path)

    def switch_to(self, release: Release) -> Standing:
        """Make a release current and the current one previous, as one step; return what is now.

        Raises WriteError or DeployError, and then `current` is what it was.
        """
        before = self.standing()
        stays = before.current == release.name or not self.has(before.current)
        previous = before.previous if stays else before.current
        if previous == release.name:
            previous = None
        here = {*self.names()}
        known = before.history.with_release(release).releases
        history = History(
            releases=tuple(one for one in known if one.name in here),
            switch=Switch(current=release.name, previous=previous),
        )
        with as_write_error(self.path / CURRENT):
            write_history(self.path, history)
            if before.current != release.name:
                self._lead_current_to(release.name)
        after = Standing(release.name, previous, history)
        try:
            self._mend_previous(after)
        except OSError as error:  # the record has it, and the next deployment mends the link
            _logger.warning("the link %s is out of date: %s", self.path / PREVIOUS, error.strerror)
        return after

    def tidy(self) -> None:
        """Finish a switch that was interrupted, and remove half-written files and folders.

        Only for the holder of the lock. Raises DeployError, WriteError.
        """
        with as_write_error(self.path):
            remove_abandoned(self.path)
            remove_abandoned(self.path / RELEASES)
            self._mend_previous(self.standing())

    def _lead_current_to(self, name: str) -> None:
        try:
            replace_link(self.path / CURRENT, f"{RELEASES}/{name}")
        except OSError as error:
            if self.current() != name:
                raise
            _logger.warning("%s leads to %s, not yet safely: %s", CURRENT, name, error.strerror)

    def _mend_previous(self, standing: Standing) -> None:
        """Make the link `previous` what the record says."""
        wanted = standing.previous
        if wanted == self._follow(PREVIOUS):
            return
        if wanted is None:
            (self.path / PREVIOUS).unlink(missing_ok=True)
            sync_folder(self.path)
        else:
            replace_link(self.path / PREVIOUS, f"{RELEASES}/{wanted}")

    def _follow(self, name: str) -> str | None:
        """Return the release that a link names; raises DeployError for any other entry."""
        path = self.path / name
        try:
            target = path.readlink().as_posix()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DeployError(
                f"{path} is a {'folder' if path.is_dir() else 'file'} and not a link; expected a "
                f"link to a folder in {RELEASES}. It was not made by a deployment: move it away."
            ) from error
        folder, _, release = target.rpartition("/")
        if folder != RELEASES or RELEASE_NAME.fullmatch(release) is None:
            raise DeployError(
                f"{path} leads to {target!r}; expected {RELEASES}/ and the name of a release. "
                "Somebody else made this link: remove it, or deploy to another folder."
            )
        self.has(release)
        return release


def _unreadable(path: Path, error: OSError) -> DeployError:
    return DeployError(
        f"{path} cannot be read: {error.strerror}. Correct its permissions, or mend the disk."
    )


def number_of(name: str) -> int:
    """Return the number of a release by its name."""
    return int(name.partition("-")[0])


def find_deployment(path: str | os.PathLike[str]) -> DeploymentFolder:
    """Return the deployment in the folder `path`, to be read; raises DeployError without one."""
    folder = resolve_folder(path)
    if not folder.is_dir() or not (folder / HISTORY).is_file():
        raise DeployError(
            f"nothing was deployed to {folder}: it has no {HISTORY}. Give the folder that a bundle "
            "was deployed to, the one that holds current."
        )
    return DeploymentFolder(folder)


@contextmanager
def changing(path: str | os.PathLike[str], *, make: bool) -> Iterator[DeploymentFolder]:
    """Open the deployment in `path` for one process to change; what was interrupted is finished.

    `make`: whether it may be made, in a folder that is empty or absent. Raises DeployError for a
    folder that holds something else or that others may write to, DeployBusyError while another
    process changes it, WriteError when the disk fails.
    """
    folder = resolve_folder(path)
    if not make:
        find_deployment(folder)
    with as_write_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(folder, patience=PATIENCE)
    with closing(lock):
        _check_lock(lock, folder)
        with as_write_error(folder):
            _check_owner(folder)
            _check_contents(folder)
            if not os.path.lexists(folder / HISTORY):
                remove_abandoned(folder)
                write_history(folder, History())
            (folder / RELEASES).mkdir(exist_ok=True)
            _check_owner(folder / RELEASES)
        deployment = DeploymentFolder(folder)
        deployment.tidy()
        yield deployment


def is_being_changed(folder: DeploymentFolder) -> bool:
    """Whether a process deploys to the folder now; False where that cannot be known."""
    try:
        with closing(Lock(folder.path, shared=True)) as lock:
            return lock.is_ours is False
    except OSError:
        return False


def resolve_folder(path: str | os.PathLike[str]) -> Path:
    """Return the path of a deployment folder, links resolved; it need not exist.

    Raises DeployError where there can be none, InputError for what is not a path.
    """
    if os.name == "nt":
        raise DeployError(
            "deployments switch between releases by a symbolic link, which Windows makes only with "
            "special rights. Deploy on Linux or macOS; on Windows copy the bundle and load it by "
            "its path."
        )
    given = user_path(path, "the deployment folder")
    try:
        folder = given.absolute().resolve()
    except (OSError, RuntimeError) as error:
        raise DeployError(
            f"the deployment folder {given} cannot be used: {error}. Give the path of a folder."
        ) from error
    if os.path.lexists(folder) and not folder.is_dir():
        raise DeployError(f"{folder} is not a folder. Give one that bundles may be deployed to.")
    return folder


def _check_lock(lock: Lock, folder: Path) -> None:
    if lock.is_ours is False:
        raise DeployBusyError(
            f"another process is deploying to {folder}, and one may at a time. Nothing was "
            "changed. Wait for it to end, and try again."
        )
    if lock.is_ours is None:
        raise DeployError(
            f"the file system of {folder} has no locks, so two deployments could not be kept "
            "apart. Deploy to a local disk."
        )


def _check_owner(folder: Path) -> None:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise DeployError(
            f"{folder} is a link or a file; expected a folder of releases. Somebody else made it: "
            "remove it, or deploy to another folder."
        )
    if not is_safely_owned(status):
        raise DeployError(
            f"{folder} belongs to another user, or everybody may write to it, so its contents "
            "could be exchanged. Deploy as its owner, or make it yours alone (chown, chmod o-w)."
        )


def _check_contents(folder: Path) -> None:
    """Refuse a folder that holds something other than a deployment."""
    if os.path.lexists(folder / HISTORY):
        return
    names = sorted(entry.name for entry in folder.iterdir())
    found = [name for name in names if not is_ignored(name) and not NAME.fullmatch(name)]
    if found:
        raise DeployError(
            f"{folder} holds {found[0]!r} and has no {HISTORY}, so it is not a deployment. Give "
            "an empty or new folder."
        )
