"""Releases in use: a loaded model holds its release, and no deployment removes what is held.

Graphs other than the encoder are read at their first use, from the folder that the bundle's path
led to when it was loaded. So that folder must stay for as long as the model does, however many
deployments come after it. A hold is a shared lock on the folder: the system releases it when the
process ends.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from samclip.disk.partial_files import Lock

# A release's path: DEPLOYMENT/releases/NAME, and DEPLOYMENT/deployment.json is the record.
HISTORY, RELEASES = "deployment.json", "releases"
RELEASE_NAME = re.compile(r"(?P<number>[0-9]{4,9})-[0-9a-f]{12}")
PATIENCE = 1.0  # seconds: who looks whether a release is held, holds it for a moment


def hold_release(bundle: Path) -> Lock | None:
    """Hold the bundle at `bundle`, links resolved, if it is a release; None when it is not one.

    Also None where the folder cannot be locked; then only the newest releases are safe.
    """
    is_release = bundle.parent.name == RELEASES and RELEASE_NAME.fullmatch(bundle.name)
    if not is_release or not os.path.lexists(bundle.parents[1] / HISTORY):
        return None
    with contextlib.suppress(OSError):
        return Lock(bundle, shared=True, patience=PATIENCE)
    return None


@contextmanager
def unused(release: Path) -> Iterator[bool]:
    """Yield whether no process holds a release; none can begin to while the block runs.

    Where there are no locks nothing is known of it, and it counts as used by nobody.
    """
    try:
        lock = Lock(release)
    except OSError:
        yield False
        return
    with closing(lock):
        yield lock.is_ours is not False


def is_held(release: Path) -> bool:
    """Whether a process holds a release now."""
    with unused(release) as free:
        return not free
