"""Writing of bundles: a directory under the bundle's name is always complete."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path

import msgspec

from samclip.disk.directory_swap import partial_directory, put_in_place
from samclip.disk.partial_files import sync_tree
from samclip.disk.paths import user_path
from samclip.engines.steps import ChangeSettings
from samclip.errors import ExportError
from samclip.runtime.bundles.files import CHUNK_BYTES, check_path, check_paths, is_ignored
from samclip.runtime.bundles.manifest import (
    DIGEST_NAME,
    MANIFEST_NAME,
    FileEntry,
    Manifest,
)
from samclip.runtime.bundles.manifest_file import (
    check_manifest,
    decode_manifest,
    digest_line,
    encode_manifest,
)
from samclip.runtime.bundles.recovery import recover_bundle


def write_bundle(
    target: str | PathLike[str],
    manifest: Manifest,
    files: Mapping[str, bytes | Path],
    overwrite: bool = False,
) -> Path:
    """Write a bundle of `files` (by path in the bundle: bytes, or a file to copy) to `target`.

    `manifest.files` is filled in here. Of two writers to one name the first wins, with
    `overwrite` the last; readers only ever see complete bundles. Raises ExportError when `target`
    is taken or the disk fails; ManifestError or UnsafePathError for a manifest or a path that no
    reader would accept. After an error nothing on the disk has changed. Returns the path written.
    """
    check_paths(files)
    path = check_target(target, overwrite)
    try:
        with partial_directory(path) as partial:
            _fill(partial, manifest, files)
            put_in_place(partial, path, overwrite)
    except FileExistsError as error:
        raise _taken_error(path) from error
    except OSError as error:
        raise _unwritable_error(path, error) from error
    return path


def check_target(target: str | PathLike[str], overwrite: bool) -> Path:
    """Check that a bundle may be written to `target`, and make the folder around it.

    Long work calls this before it begins. Returns the absolute path. Raises ExportError when the
    place is taken or cannot be written to, UnsafePathError for a name that no reader would accept,
    InputError for a path that is none.
    """
    path = _absolute(user_path(target, "the bundle"))
    check_path(path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        recover_bundle(path)
        _check_place(path, overwrite)
    except FileExistsError as error:
        raise _taken_error(path) from error
    except OSError as error:
        raise _unwritable_error(path, error) from error
    return path


def _absolute(path: Path) -> Path:
    """Return `path` from the root; raises ExportError where the working folder was removed."""
    try:
        return path.absolute()
    except OSError as error:
        raise ExportError(
            f"{path} cannot be written: the working folder is gone ({error.strerror}). Change to "
            "one that exists, or give an absolute path."
        ) from error


def _taken_error(path: Path) -> ExportError:
    return ExportError(
        f"{path} exists already. Choose another name, or overwrite it on purpose.",
        steps=(ChangeSettings(("overwrite",)),),
    )


def _unwritable_error(path: Path, error: OSError) -> ExportError:
    return ExportError(
        f"the bundle {path} could not be written: {error}. Nothing there has changed: make room, "
        "correct permissions, or choose another place, and write it again."
    )


def _check_place(path: Path, overwrite: bool) -> None:
    """Refuse to overwrite anything but a bundle; an empty directory may always be filled."""
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        raise ExportError(
            f"{path} is a link or not a directory, so it is not replaced. Choose another name."
        )
    if entries := [entry.name for entry in path.iterdir()]:
        if not overwrite:
            raise FileExistsError(path)
        if MANIFEST_NAME not in entries and not all(map(is_ignored, entries)):
            raise ExportError(
                f"{path} holds something other than a bundle, so it is not replaced. "
                "Choose another name, or empty it first."
            )


def _fill(partial: Path, manifest: Manifest, files: Mapping[str, bytes | Path]) -> None:
    entries = {name: write_entry(partial / name, _chunks(files[name])) for name in sorted(files)}
    complete = msgspec.structs.replace(manifest, files=entries)
    check_manifest(complete)
    encoded = encode_manifest(complete)
    decode_manifest(encoded)  # refuse to write what no reader would accept
    write_entry(partial / MANIFEST_NAME, [encoded])
    write_entry(partial / DIGEST_NAME, [digest_line(encoded)])
    sync_tree(partial)


def write_entry(path: Path, chunks: Iterable[bytes]) -> FileEntry:
    """Write a new file of a bundle through to the disk; return its size and SHA-256.

    The folder around it is made. Raises OSError, also for a file that is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return FileEntry(size=size, sha256=digest.hexdigest())


def _chunks(source: bytes | Path) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    if not source.is_file():
        raise ExportError(f"{source} is not a plain file, so it cannot go into a bundle.")
    with source.open("rb") as file:
        yield from iter(lambda: file.read(CHUNK_BYTES), b"")
