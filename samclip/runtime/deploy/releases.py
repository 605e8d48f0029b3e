"""Releases on the disk: copied from a bundle file by file, found again, and removed."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from samclip.disk.directory_swap import discard, partial_directory, put_in_place
from samclip.disk.partial_files import as_write_error, sync_tree
from samclip.disk.places import try_place
from samclip.errors import BundleError, IntegrityError
from samclip.progress import Progress, track
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.files import CHUNK_BYTES, open_plain_file
from samclip.runtime.bundles.holds import unused
from samclip.runtime.bundles.manifest import DIGEST_NAME, MANIFEST_NAME, SIGNATURE_NAME
from samclip.runtime.bundles.signature import PublicKey, is_signed
from samclip.runtime.bundles.writing import write_entry
from samclip.runtime.deploy.folder import DeploymentFolder, Standing, number_of

NAME_DIGITS = 12  # of the identity, in a release's name


def identify_bundle(root: Path) -> str:
    """Return the SHA-256 of a bundle's manifest and signature, which cover all that it holds."""
    digest = hashlib.sha256()
    for name in own_files(root):
        digest.update(b"".join(_read(root, name)))
    return digest.hexdigest()


def next_name(folder: DeploymentFolder, identity: str) -> str:
    """Return the name of a new release: the next number, and digits of the bundle's identity."""
    known = [*folder.names(), *(one.name for one in folder.history().releases)]
    number = max(map(number_of, known), default=0) + 1
    return f"{number:04}-{identity[:NAME_DIGITS]}"


def find_release(folder: DeploymentFolder, identity: str) -> str | None:
    """Return the newest whole release of a bundle of this identity; None when there is none."""
    for name in folder.names()[::-1]:
        if not name.endswith(f"-{identity[:NAME_DIGITS]}"):
            continue
        with contextlib.suppress(BundleError):
            bundle = Bundle.open_unsigned(folder.release(name))
            bundle.verify()
            if identify_bundle(bundle.path) == identity:
                return name
    return None


def copy_release(bundle: Bundle, place: Path, key: PublicKey | None, progress: Progress) -> None:
    """Copy a bundle to the free path `place`, which appears whole or not at all.

    Each file is written through to the disk and compared with the manifest. The copy is then opened
    and read back as any client would, its signature by `key` included. Raises WriteError when the
    disk fails, BundleError as `Bundle.open` and `verify` do.
    """
    entries = bundle.manifest.files
    with as_write_error(place):
        try_place(place, sum(entry.size for entry in entries.values()))
        with partial_directory(place) as partial:
            for name in track(progress, [*own_files(bundle.path), *entries], "copying"):
                written = write_entry(partial / name, _read(bundle.path, name))
                if name in entries and written != entries[name]:
                    raise IntegrityError(
                        f"{name!r} of {bundle.path} changed while it was copied. Deploy it again."
                    )
            sync_tree(partial)
            with progress.stage("verifying"):
                Bundle.open(partial, key).verify()
            put_in_place(partial, place, overwrite=False)


def remove_releases(
    folder: DeploymentFolder, kept: Iterable[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Remove all releases but `kept` and those in use; return the names of removed and in use."""
    kept_names = {*kept}
    removed: list[str] = []
    used: list[str] = []
    for name in folder.names():
        if name in kept_names:
            continue
        with unused(folder.release(name)) as is_free:
            if is_free:
                discard(folder.release(name), folder.release(name))
        (removed if is_free else used).append(name)
    return tuple(removed), tuple(used)


def choose_kept(folder: DeploymentFolder, standing: Standing, count: int | None) -> list[str]:
    """Return the releases to keep: current, previous, then the newest that have served.

    None for all of these.
    """
    known = {release.name for release in standing.history.releases}
    served = [name for name in folder.names()[::-1] if name in known]
    wanted = (standing.current, standing.previous, *served)
    return list(dict.fromkeys(filter(None, wanted)))[:count]


def own_files(root: Path) -> list[str]:
    """List the files of a bundle that its manifest does not list: itself, digest and signature."""
    return [MANIFEST_NAME, DIGEST_NAME, *([SIGNATURE_NAME] if is_signed(root) else [])]


def _read(root: Path, name: str) -> Iterator[bytes]:
    with open_plain_file(root, name) as (file, _):
        yield from iter(lambda: file.read(CHUNK_BYTES), b"")
