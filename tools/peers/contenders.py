"""The contenders: bundles on backends first, then peers; each becomes one worker process."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from samclip.errors import InputError
from samclip.export.checkpoints.fetch import fetch_checkpoint
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.home import find_bundle
from tools.peers.catalogue import PEERS, WORKERS, Peer, PeerExport
from tools.peers.environments import Report, prepare_environment
from tools.peers.worker_process import Answer, WorkerProcess

Started = tuple[WorkerProcess, dict[str, Any]]  # and what it is asked to load
BUNDLE_WORKER = WORKERS / "samclip_bundle.py"


@dataclass(frozen=True)
class PeerPlan:
    """Settings that all share: `image_size` of peers, `threads`, folders, and weights.

    `checkpoint`: of a SAM ViT-B, for the peers that run the reference encoder; None: random
    weights, drawn by `seed`.
    """

    image_size: int
    threads: int
    folder: Path
    scratch: Path
    checkpoint: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class Contender:
    """A bundle or a peer. `start` makes all that it needs, and starts its process.

    `bundle`: its folder, for a bundle of samclip.
    """

    name: str
    what: str
    image_size: int
    start: Callable[[Report], Started] = field(repr=False)
    bundle: Path | None = None


def choose_peers(only: Sequence[str]) -> tuple[Peer, ...]:
    """Take the peers of these names, all for none; raises InputError for an unknown one."""
    known = {peer.name: peer for peer in PEERS}
    for name in only:
        if name not in known:
            raise InputError(f"there is no peer {name!r}; there are: {', '.join(known)}.")
    return tuple(known[name] for name in dict.fromkeys(only)) if only else PEERS


def peer_contender(peer: Peer, plan: PeerPlan) -> Contender:
    """Make a contender of a peer."""

    def start(report: Report) -> Started:
        checkpoint = plan.checkpoint if peer.takes_checkpoint else None
        if peer.checkpoint is not None:
            checkpoint = fetch_checkpoint(peer.checkpoint, report=report)
        folder = None
        if peer.export is not None:
            folder = make_export(peer.export, plan, checkpoint, report)
        python = prepare_environment(peer.environment, plan.folder / "environments", report)
        process = WorkerProcess([str(python), "-I"], peer.worker, plan.threads)
        return process, _request(plan, plan.image_size, checkpoint, folder, dict(peer.options))

    return Contender(peer.name, peer.what, plan.image_size, start)


def bundle_contenders(
    bundles: Sequence[str | None], backends: Sequence[str], precision: str | None, plan: PeerPlan
) -> tuple[Contender, ...]:
    """Make contenders of bundles, on each of the backends; raises as `Bundle.open`."""
    found: dict[str, Contender] = {}
    for bundle in bundles:
        for backend in backends:
            contender = _bundle(bundle, backend, precision, plan)
            name = contender.name if len(backends) == 1 else f"{contender.name} {backend}"
            alike = sum(other == name or other.startswith(f"{name} #") for other in found)
            name = f"{name} #{alike + 1}" if alike else name
            found[name] = replace(contender, name=name)
    return tuple(found.values())


def make_export(
    export: PeerExport, plan: PeerPlan, checkpoint: Path | None, report: Report
) -> Path:
    """Return the folder of exported files, which are made the first time; raises PeerError."""
    request = _request(plan, plan.image_size, checkpoint, None, {})
    folder = plan.folder / "exports" / f"{export.name}-{plan.image_size}-{_key(export, request)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if not folder.is_dir():
            python = prepare_environment(export.environment, plan.folder / "environments", report)
            report(f"{export.name}: exporting at {plan.image_size} px")
            with (
                tempfile.TemporaryDirectory(dir=folder.parent) as made,
                WorkerProcess([str(python), "-I"], export.worker, plan.threads) as worker,
            ):
                files = Path(made) / "files"
                files.mkdir()
                worker.ask({**request, "do": "export", "folder": str(files)}, Answer)
                shutil.move(files, folder)
    return folder


def _bundle(bundle: str | None, backend: str, precision: str | None, plan: PeerPlan) -> Contender:
    path = find_bundle(bundle)
    manifest = Bundle.open(path).manifest
    size = manifest.preprocessing.image_size
    options = {
        "bundle": str(path),
        "backend": backend,
        "precision": precision,
        "scratch": str(plan.scratch),
    }

    def start(report: Report) -> Started:
        del report
        process = WorkerProcess([sys.executable], BUNDLE_WORKER, plan.threads)
        return process, _request(plan, size, None, None, options)

    return Contender(manifest.name, "samclip", size, start, path)


def _request(
    plan: PeerPlan,
    image_size: int,
    checkpoint: Path | None,
    folder: Path | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    return {
        "do": "load",
        "image_size": image_size,
        "threads": plan.threads,
        "seed": plan.seed,
        "checkpoint": None if checkpoint is None else str(checkpoint),
        "folder": None if folder is None else str(folder),
        "options": options,
    }


def _key(export: PeerExport, request: dict[str, Any]) -> str:
    """Hash what exported files depend on: packages, the worker's code, and the weights."""
    checkpoint = request["checkpoint"]
    state = Path(checkpoint).stat() if checkpoint is not None else None
    facts = {
        "environment": export.environment.key,
        "worker": hashlib.sha256(export.worker.read_bytes()).hexdigest(),
        "request": {**request, "threads": None},
        "weights": None if state is None else [state.st_size, state.st_mtime_ns],
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
