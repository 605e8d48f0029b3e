"""Plans on the disk: a plan file exactly as TensorRT wrote it, and its sidecar next to it.

A plan's name ends in the first digits of a SHA-256 of its bytes, its graph and its settings. So a
new plan never overwrites one that is being read, nor another graph's plan of the same bytes, as
plans without weights may be. The sidecar is put in place last and makes the plan valid. Plans are
executable: only the user's own files, which nobody else can write to, are ever read.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from samclip.disk.cache_folder import CacheUnusableError, cache_dir, make_private_folder
from samclip.disk.partial_files import (
    ABANDONED_SECONDS,
    lock_abandoned,
    locked_partial,
    make_empty_file,
    remove_abandoned,
    sync_file,
    write_file,
)
from samclip.engines.backend_names import target_name
from samclip.engines.plans.own_files import MODE, VerifiedFile, open_verified, read_own
from samclip.engines.plans.sidecar import (
    MAX_SIDECAR_BYTES,
    PlanFile,
    Sidecar,
    decode_sidecar,
    encode_sidecar,
    rebuild_step,
)
from samclip.engines.steps import BuildPlans, RemovePlan
from samclip.errors import PlanDamagedError

PLAN_SUFFIX, SIDECAR_SUFFIX = ".plan", ".plan.json"
KERNELS_SUFFIX = ".kernels"  # of what TensorRT for RTX compiled of a plan on a GPU
FOLDER_NAME = "engines"
BESIDE_SUFFIX = ".engines"
FOLDER_MODE = 0o755  # other users run the plans that root has built
OWN_NAME = re.compile(r"[.][0-9a-f]{12}[.]plan$")

_logger = logging.getLogger("samclip")


@dataclass(frozen=True)
class StoredPlan:
    """A plan file; `sidecar` is None when that cannot be used, and `fault` says why.

    `size` is that of both files in bytes.
    """

    path: Path
    size: int
    sidecar: Sidecar | None
    fault: PlanDamagedError | None = None


def plan_folder() -> Path:
    """Return the folder of plans: `engines` in `$SAMCLIP_CACHE_DIR` or the user's cache.

    Raises CacheUnusableError, an OSError, where no home folder is known.
    """
    return cache_dir() / FOLDER_NAME


def folder_beside(origin: str | Path) -> Path:
    """Return the folder for plans next to a bundle, which itself holds only its own files."""
    path = Path(origin)
    return path.with_name(path.name + BESIDE_SUFFIX)


def search_folders(origin: str = "") -> tuple[Path, ...]:
    """Return the folders in which the plans of the bundle at `origin` are looked for."""
    beside = (folder_beside(origin),) if origin else ()
    try:
        return (plan_folder(), *beside)
    except CacheUnusableError:  # so no plan was built there either
        return beside


def list_plans(folders: Iterable[Path]) -> list[StoredPlan]:
    """List the plans in `folders`, newest first; only sidecars are read."""
    found = [_look_at(path) for folder in folders for path in _plans_in(folder)]
    known = [plan for plan in found if plan is not None]
    return sorted(known, key=lambda plan: plan.sidecar.built if plan.sidecar else "", reverse=True)


def read_plan(stored: StoredPlan) -> bytes:
    """Read a plan's bytes: exactly those whose size and SHA-256 its sidecar has.

    Raises PlanDamagedError; FileNotFoundError when it was removed meanwhile.
    """
    sidecar = _sound_sidecar(stored)
    data = read_own(stored.path, sidecar.plan.size)
    _check(stored.path, sidecar, len(data), hashlib.sha256(data).hexdigest())
    return data


def open_plan(stored: StoredPlan) -> VerifiedFile:
    """Open a plan, to read the same bytes in pieces; raises what `read_plan` does."""
    sidecar = _sound_sidecar(stored)
    file = open_verified(stored.path)
    _check(stored.path, sidecar, file.size, file.sha256)
    return file


def _sound_sidecar(stored: StoredPlan) -> Sidecar:
    if stored.sidecar is None:
        raise stored.fault or PlanDamagedError(
            f"the plan {stored.path} has no sidecar. Build it again.", steps=(BuildPlans(),)
        )
    return stored.sidecar


def _check(path: Path, sidecar: Sidecar, size: int, sha256: str) -> None:
    """Compare a plan's size and digest with its sidecar; of a larger one a byte more was read."""
    expected = sidecar.plan
    if size != expected.size:
        longer = "more than " if size > expected.size else ""
        came, wanted = f"{longer}{min(size, expected.size):,} bytes", f"{expected.size:,}"
    else:
        came, wanted = f"SHA-256 {sha256}", f"SHA-256 {expected.sha256}"
    if came != wanted:
        raise PlanDamagedError(
            f"the plan {path} has {came}, its sidecar says {wanted}: it was cut off or changed. "
            "It is not loaded. Build it again.",
            steps=(rebuild_step(sidecar, force=True),),
        )


def write_plan(folder: Path, data: bytes, sidecar: Sidecar) -> StoredPlan:
    """Write a plan and its sidecar, whose `plan` is filled in; both appear whole or not at all."""
    make_private_folder(folder, FOLDER_MODE)
    remove_leftovers(folder)
    digest = hashlib.sha256(data).hexdigest()
    complete = msgspec.structs.replace(sidecar, plan=PlanFile(size=len(data), sha256=digest))
    path = folder / f"{_stem(complete)}.{_identity(complete)[:12]}{PLAN_SUFFIX}"
    encoded = encode_sidecar(complete)
    with locked_partial(path, make_empty_file(MODE)) as partial:  # until the sidecar is there
        partial.write_bytes(data)
        sync_file(partial)
        partial.replace(path)
        write_file(sidecar_path(path), encoded, MODE)
    return StoredPlan(path, len(data) + len(encoded), decode_sidecar(encoded, path.name))


def replace_sidecar(stored: StoredPlan, sidecar: Sidecar) -> StoredPlan:
    """Put another sidecar in the place of a plan's, at once; the plan stays as it is."""
    encoded = encode_sidecar(sidecar)
    write_file(sidecar_path(stored.path), encoded, MODE)
    size = sidecar.plan.size + len(encoded)
    return StoredPlan(stored.path, size, decode_sidecar(encoded, stored.path.name))


def remove_plan(path: Path) -> None:
    """Remove a plan, the sidecar first: without it the plan counts as absent."""
    for file in (sidecar_path(path), path, *kernel_files(path)):
        with contextlib.suppress(FileNotFoundError):
            file.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove the remains of writers that died: partial files, plans without sidecars, kernels."""
    remove_abandoned(folder)
    for path in folder.glob(f"*{PLAN_SUFFIX}"):
        if OWN_NAME.search(path.name) is None or sidecar_path(path).exists():
            continue
        with contextlib.suppress(OSError), lock_abandoned(path) as has_lost_its_writer:
            if has_lost_its_writer and not sidecar_path(path).exists():
                path.unlink()
    for path in folder.glob(f"*{KERNELS_SUFFIX}"):
        if not path.with_name(f"{path.name.rsplit('.', 3)[0]}{PLAN_SUFFIX}").exists():
            with contextlib.suppress(OSError):
                path.unlink()


def kernel_files(plan: Path, beginning: str = "") -> list[Path]:
    """List the files of compiled kernels next to a plan whose keys begin so."""
    start = f"{plan.name.removesuffix(PLAN_SUFFIX)}.{beginning}"
    try:
        found = [path for path in plan.parent.iterdir() if path.name.startswith(start)]
    except OSError:
        return []
    return sorted(path for path in found if path.name.endswith(KERNELS_SUFFIX))


def sidecar_path(plan: Path) -> Path:
    """Return the path of a plan's sidecar."""
    return plan.with_name(plan.name.removesuffix(PLAN_SUFFIX) + SIDECAR_SUFFIX)


def _plans_in(folder: Path) -> Iterator[Path]:
    """Yield the plans of a folder: those of sidecars, and plan files that may have none."""
    names = set()
    try:
        names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:  # a load goes on with the other folders, and other backends
        _logger.warning("the plans in %s cannot be listed: %s", folder, error.strerror)
        return
    stems = {name.removesuffix(SIDECAR_SUFFIX) for name in names if name.endswith(SIDECAR_SUFFIX)}
    stems |= {name.removesuffix(PLAN_SUFFIX) for name in names if name.endswith(PLAN_SUFFIX)}
    yield from (folder / f"{stem}{PLAN_SUFFIX}" for stem in sorted(stems))


def _look_at(path: Path) -> StoredPlan | None:
    """Read a plan's sidecar; None when both files have gone meanwhile, or are being written."""
    sizes = [_size(file) for file in (path, sidecar_path(path))]
    if sizes[1] is None:
        age = _age(path)
        if age is None or age < ABANDONED_SECONDS:
            return None
    size = sum(filter(None, sizes))
    try:
        data = read_own(sidecar_path(path), MAX_SIDECAR_BYTES)
        sidecar = decode_sidecar(data, str(sidecar_path(path)))
    except PlanDamagedError as error:
        return StoredPlan(path, size, None, error)
    except FileNotFoundError:
        fault = PlanDamagedError(
            f"the plan {path} has no sidecar. Remove it.", steps=(RemovePlan(path.stem),)
        )
        return StoredPlan(path, size, None, fault)
    if sizes[0] is None:
        fault = PlanDamagedError(
            f"the plan {path} is missing, and only its sidecar is there. Build it again.",
            steps=(rebuild_step(sidecar),),
        )
        return StoredPlan(path, size, None, fault)
    return StoredPlan(path, size, sidecar)


def _stem(sidecar: Sidecar) -> str:
    """Return the readable part of a plan's name: its graph, library and GPUs."""
    graph, targets = sidecar.graph, map(target_name, sidecar.target.capabilities)
    parts = [graph.name, graph.attention, graph.precision]
    parts += [f"{sidecar.library}-{sidecar.library_version}", "+".join(targets)]
    return ".".join(part for part in parts if part)


def _identity(sidecar: Sidecar) -> str:
    """Return a digest of all that makes plans differ: bytes, graph, target and settings."""
    built = (sidecar.graph, sidecar.target, sidecar.options, sidecar.axes)
    facts = (sidecar.plan, *built, sidecar.attention_kernels, sidecar.asked)
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


def _size(path: Path) -> int | None:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return None


def _age(path: Path) -> float | None:
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return None
