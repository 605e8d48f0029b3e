"""Writing a bundle, so that its name always means a whole one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path

import msgspec

from samclip.disk.directory_swap import partial_directory, put_in_place, recover
from samclip.disk.partial_files import sync_folder
from samclip.engines.steps import ChangeSettings
from samclip.errors import ExportError
from samclip.runtime.bundles.files import CHUNK_BYTES, check_path, check_paths
from samclip.runtime.bundles.manifest import (
    DIGEST_NAME,
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    decode_manifest,
    encode_manifest,
)
from samclip.runtime.bundles.manifest_file import check_references, digest_line


def write_bundle(
    target: str | PathLike[str],
    manifest: Manifest,
    files: Mapping[str, bytes | Path],
    overwrite: bool = False,
) -> Path:
    """Write a bundle of `files` (by path in the bundle: bytes, or a file to copy) to `target`.

    `manifest.files` is filled in here. Of two writers to one name the first wins, with
    `overwrite` the last; readers only ever see whole bundles. Raises ExportError when `target`
    is taken or the disk fails; ManifestError or UnsafePathError for a manifest or a path that no
    reader would take. Then nothing that was there has changed. Returns the path written.
    """
    check_paths(files)
    path = check_target(target, overwrite)
    try:
        with partial_directory(path) as partial:
            _fill(partial, manifest, files)
            put_in_place(partial, path, overwrite)
    except FileExistsError as error:
        raise _taken(path) from error
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def check_target(target: str | PathLike[str], overwrite: bool) -> Path:
    """Tell whether a bundle may be written to `target`, and make the folder around it.

    Long work asks before it begins. Returns the absolute path. Raises ExportError when the place
    is taken or cannot be written to, UnsafePathError for a name that no reader would take.
    """
    path = Path(target).expanduser().absolute()
    check_path(path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        recover(path)
        _check_place(path, overwrite)
    except FileExistsError as error:
        raise _taken(path) from error
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def _taken(path: Path) -> ExportError:
    return ExportError(
        f"{path} exists already. Choose another name, or overwrite it on purpose.",
        steps=(ChangeSettings(("overwrite",)),),
    )


def _unwritable(path: Path, error: OSError) -> ExportError:
    return ExportError(
        f"the bundle {path} could not be written: {error}. What is there is whole, as "
        "it was: make room, correct permissions, or choose another place, and write it again."
    )


def _check_place(path: Path, overwrite: bool) -> None:
    """Refuse to overwrite what is no bundle; an empty directory may always be filled."""
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        raise ExportError(
            f"{path} is a link or no directory, so it is not replaced. Choose another name."
        )
    if any(path.iterdir()):
        if not overwrite:
            raise FileExistsError(path)
        if not os.path.lexists(path / MANIFEST_NAME):
            raise ExportError(
                f"{path} holds something else than a bundle, so it is not replaced. "
                "Choose another name, or empty it first."
            )


def _fill(partial: Path, manifest: Manifest, files: Mapping[str, bytes | Path]) -> None:
    entries = {name: _write(partial / name, files[name]) for name in sorted(files)}
    complete = msgspec.structs.replace(manifest, files=entries)
    check_references(complete)
    encoded = encode_manifest(complete)
    decode_manifest(encoded)  # what no reader would take must not be written
    _write(partial / MANIFEST_NAME, encoded)
    _write(partial / DIGEST_NAME, digest_line(encoded))
    for folder, _, _ in os.walk(partial):
        sync_folder(Path(folder))


def _write(path: Path, content: bytes | Path) -> FileEntry:
    """Write one file through to the disk, and give its size and SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for chunk in [content] if isinstance(content, bytes) else _chunks(content):
            digest.update(chunk)
            size += len(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return FileEntry(size=size, sha256=digest.hexdigest())


def _chunks(source: Path) -> Iterator[bytes]:
    if not source.is_file():
        raise ExportError(f"{source} is not a plain file, so it cannot go into a bundle.")
    with source.open("rb") as file:
        yield from iter(lambda: file.read(CHUNK_BYTES), b"")
