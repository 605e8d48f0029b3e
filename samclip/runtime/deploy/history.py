"""The record of a deployment folder: its releases, and the switch between two of them.

`deployment.json` marks a folder as one that deployments may change. The link `current` alone
decides what is served. The record says where each release comes from, and lets the links `current`
and `previous` change as one: a switch is written here first. One that was interrupted is either not
begun, and both links are right, or done, and `previous` means what the switch says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from samclip.disk.cache_folder import read_private_file
from samclip.disk.partial_files import write_file
from samclip.errors import DeployError
from samclip.runtime.bundles.holds import HISTORY, RELEASE_NAME

SCHEMA = 1
MAX_BYTES = 1_000_000

Name = Annotated[str, msgspec.Meta(pattern=f"^{RELEASE_NAME.pattern}$")]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """One release: a bundle that has served from this folder, or was about to.

    `bundle`: its manifest's name; `identity`: the SHA-256 of its manifest and signature;
    `deployed`: the time in UTC, ISO 8601; `backend` and `precision`: what was asked for; `ran_on`:
    the backend that answered its first run; `plans`: how many TensorRT plans it has.
    """

    name: Name
    bundle: str
    identity: Digest
    deployed: str
    backend: str
    precision: str | None
    ran_on: str
    plans: int
    samclip: str


class Switch(msgspec.Struct, frozen=True, kw_only=True):
    """What `previous` shall mean once `current` is that release."""

    current: Name
    previous: Name | None


class History(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of `deployment.json`; releases in the order of their first deployment."""

    schema: Annotated[int, msgspec.Meta(ge=1, le=SCHEMA)] = SCHEMA
    releases: tuple[Release, ...] = ()
    switch: Switch | None = None

    def find(self, name: str | None) -> Release | None:
        """Return the record of a release; None when there is none."""
        return next((release for release in self.releases if release.name == name), None)

    def with_release(self, release: Release) -> History:
        """Return this history with `release` added, in place of an older record of its name."""
        names = [one.name for one in self.releases]
        if release.name not in names:
            return msgspec.structs.replace(self, releases=(*self.releases, release))
        found = tuple(release if one.name == release.name else one for one in self.releases)
        return msgspec.structs.replace(self, releases=found)


def read_history(folder: Path) -> History:
    """Read the record of a deployment folder; raises DeployError when it cannot be used."""
    path = folder / HISTORY
    try:
        return msgspec.json.decode(read_private_file(path, MAX_BYTES, shared=True), type=History)
    except OSError as error:
        raise DeployError(
            f"{path} cannot be read: {error.strerror or error}. Expected the record of this "
            "folder's deployments. Correct its permissions."
        ) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DeployError(
            f"{path} is not a record of deployments of schema {SCHEMA}: {error}. If a newer "
            'samclip wrote it, use that one. If it is damaged, write {"schema": 1} into it: the '
            "releases that the links current and previous name are kept, and others are removed."
        ) from error


def write_history(folder: Path, history: History) -> None:
    """Write the record, whole or not at all; raises OSError."""
    data = msgspec.json.format(msgspec.json.encode(history), indent=1) + b"\n"
    write_file(folder / HISTORY, data, 0o644)
