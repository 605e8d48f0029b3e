"""The state of a deployment: its releases, which one is served, and what stands in the way."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

from samclip.errors import BundleError
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.holds import is_held
from samclip.runtime.deploy.folder import (
    DeploymentFolder,
    Standing,
    find_deployment,
    is_being_changed,
)
from samclip.runtime.deploy.history import Release

Role = Literal["current", "previous", "kept", "unfinished"]


@dataclass(frozen=True)
class ReleaseState:
    """One release on the disk.

    `role`: "unfinished" for one that never served; `size` in bytes, None where it cannot be opened,
    and `fault` says why; `in_use`: whether a running process has loaded it.
    """

    name: str
    role: Role
    record: Release | None
    size: int | None
    fault: str
    in_use: bool


@dataclass(frozen=True)
class DeploymentState:
    """A deployment folder; `busy`: whether a process is changing it now."""

    folder: Path
    current: str | None
    previous: str | None
    releases: tuple[ReleaseState, ...]
    busy: bool


def read_state(to: str | PathLike[str]) -> DeploymentState:
    """Read the state of the deployment in the folder `to`, and change nothing.

    Manifests and sizes are checked, contents are not read. Raises DeployError.
    """
    folder = find_deployment(to)
    busy = is_being_changed(folder)
    now = folder.standing()
    releases = tuple(_examine(folder, name, now, busy) for name in folder.names())
    return DeploymentState(folder.path, now.current, now.previous, releases, busy)


def _examine(folder: DeploymentFolder, name: str, now: Standing, busy: bool) -> ReleaseState:
    place, record = folder.release(name), now.history.find(name)
    roles: dict[str | None, Role] = {now.previous: "previous", now.current: "current"}
    size, fault = None, ""
    try:
        manifest = Bundle.open_unsigned(place).manifest
        size = sum(entry.size for entry in manifest.files.values())
    except BundleError as error:
        fault = str(error)
    role = roles.get(name, "kept" if record is not None else "unfinished")
    return ReleaseState(name, role, record, size, fault, not busy and is_held(place))
