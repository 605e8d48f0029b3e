"""Deployments: a bundle becomes the one that is served, or the one before it does again.

Everything that can fail comes before the switch: the copy, its signature, its plans and their gate,
its first run. The switch is one rename. Programs that run keep the release that they loaded, and
what they start next takes the new one.
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path

import msgspec

from samclip.engines.plans.request import BuiltPlan
from samclip.engines.registry import AUTO, get_backend
from samclip.errors import DeployError, InputError, SamclipError
from samclip.progress import SILENT, Progress
from samclip.runtime.backend_choice import check_precision
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.home import find_bundle
from samclip.runtime.bundles.signature import PublicKey, chosen_public_key
from samclip.runtime.deploy.first_run import SECONDS, FirstRun, RunTask, run_once
from samclip.runtime.deploy.folder import DeploymentFolder, Standing, changing, resolve_folder
from samclip.runtime.deploy.history import Release
from samclip.runtime.deploy.release_plans import build_for_release, drop_plans
from samclip.runtime.deploy.releases import (
    choose_kept,
    copy_release,
    find_release,
    identify_bundle,
    next_name,
    remove_releases,
)
from samclip.version import __version__

_logger = logging.getLogger("samclip")

LEAST_KEPT = 2  # the release that serves, and the one to roll back to


@dataclass(frozen=True)
class DeploySettings:
    """How to deploy.

    `backend` and `precision`: as `samclip.load` takes them, None for "auto" and the bundle's own
    choice, or at a rollback for what the release was deployed with; `build`: whether TensorRT plans
    are built and judged; `keep`: how many releases stay, with the current and the previous one;
    `public_key`: the key file that must have signed the bundle, None for the one that
    $SAMCLIP_PUBLIC_KEY names; `seconds`: how long the first run may take.
    """

    backend: str | None = None
    precision: str | None = None
    build: bool = True
    keep: int = LEAST_KEPT
    public_key: str | PathLike[str] | None = None
    seconds: float = SECONDS


@dataclass(frozen=True)
class Outcome:
    """What a deployment came to.

    `changed`: False where the bundle was served already, and nothing was done; `previous`: the
    release to roll back to; `plans`: those of the release; `first_run`: None where nothing was
    done; `removed`: releases that were removed, and `in_use` those that a running process holds.
    """

    folder: Path
    release: Release
    previous: str | None
    changed: bool
    plans: tuple[BuiltPlan, ...] = ()
    first_run: FirstRun | None = None
    removed: tuple[str, ...] = ()
    in_use: tuple[str, ...] = ()


def deploy(
    bundle: str | PathLike[str],
    to: str | PathLike[str],
    settings: DeploySettings | None = None,
    progress: Progress = SILENT,
) -> Outcome:
    """Deploy a bundle, by path or name, to the folder `to`, which is made if need be.

    The bundle is copied and verified, its plans are built and judged, and it answers once in
    another process; then `current` leads to it. A bundle that is served already with these settings
    is left alone. After an error `current` is what it was. Raises BundleError for the bundle,
    PlanBuildError, PlanGateError and BackendUnavailableError for its plans, DeployError for the
    folder and the first run, DeployBusyError, WriteError, InputError.
    """
    asked = _checked(settings or DeploySettings())
    key = chosen_public_key(asked.public_key)
    source = Bundle.open(find_bundle(bundle), key)
    check_precision(asked.precision, source)
    _check_place(source, to)
    with changing(to, make=True) as folder:
        return _Change(folder, asked, key, progress).deploy(source)


def roll_back(
    to: str | PathLike[str],
    settings: DeploySettings | None = None,
    progress: Progress = SILENT,
) -> Outcome:
    """Serve the previous release again, after the checks of a deployment; `previous` swaps with it.

    Its plans are judged already and fit, or are built again. Raises as `deploy` does, and
    DeployError when there is no previous release.
    """
    asked = _checked(settings or DeploySettings())
    key = chosen_public_key(asked.public_key)
    with changing(to, make=False) as folder:
        return _Change(folder, asked, key, progress).roll_back()


@dataclass
class _Change:
    """One deployment or rollback, while its process holds the folder."""

    folder: DeploymentFolder
    settings: DeploySettings
    key: PublicKey | None
    progress: Progress

    def deploy(self, source: Bundle) -> Outcome:
        identity = identify_bundle(source.path)
        name = find_release(self.folder, identity)
        backend, precision = self.settings.backend or AUTO, self.settings.precision
        now = self.folder.standing()
        served = now.history.find(name) if name == now.current else None
        if served is not None and (served.backend, served.precision) == (backend, precision):
            return Outcome(self.folder.path, served, now.previous, changed=False)
        kept = choose_kept(self.folder, now, None)
        self._remove_others(kept if name is None else [*kept, name])
        try:
            if name is None:
                name = next_name(self.folder, identity)
                copy_release(source, self.folder.release(name), self.key, self.progress)
            return self._serve(name, backend, precision)
        except BaseException:
            self._remove_failed(name, kept)
            raise

    def roll_back(self) -> Outcome:
        now = self.folder.standing()
        name = now.previous
        if name is None or not self.folder.has(name):
            raise DeployError(
                f"there is no previous release in {self.folder.path} to roll back to"
                f"{'' if name is None else f': {name} was removed'}. Deploy the bundle that is to "
                "be served."
            )
        known = now.history.find(name)
        backend, precision = self.settings.backend, self.settings.precision
        if known is not None:
            backend, precision = backend or known.backend, precision or known.precision
        Bundle.open(self.folder.release(name), self.key).verify()
        return self._serve(name, backend or AUTO, precision)

    def _serve(self, name: str, backend: str, precision: str | None) -> Outcome:
        """Build, try and switch; the release is whole, and its files are verified."""
        place = self.folder.release(name)
        bundle = Bundle.open(place, self.key)
        library: str | None = None
        plans: tuple[BuiltPlan, ...] = ()
        if self.settings.build:
            library, plans = build_for_release(bundle, backend, precision, self.progress)
        with self.progress.stage("first run"):
            run = run_once(self._task(place, backend, precision))
        if library is not None and run.backend != library:
            raise DeployError(
                f"plans were built for {library}, and {place} runs on {run.backend} all the same: "
                f"{' '.join(run.passed_over)} It is not deployed. Mend that, or deploy it without "
                "plans."
            )
        release = self.folder.history().find(name) or Release(
            name=name,
            bundle=bundle.manifest.name,
            identity=identify_bundle(place),
            deployed=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            backend=backend,
            precision=precision,
            ran_on=run.backend,
            plans=len(plans),
            samclip=__version__,
        )
        release = msgspec.structs.replace(
            release, backend=backend, precision=precision, ran_on=run.backend, plans=len(plans)
        )
        now = self.folder.switch_to(release)
        removed, used = self._remove_old(now)
        return Outcome(self.folder.path, release, now.previous, True, plans, run, removed, used)

    def _remove_old(self, now: Standing) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Remove releases beyond those to keep; a failure costs room, and not the deployment."""
        try:
            return self._remove_others(choose_kept(self.folder, now, self.settings.keep))
        except (SamclipError, OSError) as error:
            _logger.warning("old releases were not removed, the next deployment does: %s", error)
            return (), ()

    def _task(self, place: Path, backend: str, precision: str | None) -> RunTask:
        key = None if self.key is None else os.path.abspath(self.key.path)  # noqa: PTH100
        return RunTask(
            bundle=str(place),
            backend=backend,
            precision=precision,
            public_key=key,
            seconds=self.settings.seconds,
        )

    def _remove_failed(self, name: str | None, kept: list[str]) -> None:
        """Remove a release that never served; the error that is under way says more than another.

        `kept`: those that have served.
        """
        with contextlib.suppress(SamclipError, OSError):
            if name != self.folder.current():
                self._remove_others(kept)

    def _remove_others(self, kept: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        removed, used = remove_releases(self.folder, kept)
        drop_plans(map(self.folder.release, removed), map(self.folder.release, (*kept, *used)))
        return removed, used


def _checked(settings: DeploySettings) -> DeploySettings:
    if settings.keep < LEAST_KEPT:
        raise InputError(
            f"{settings.keep} releases cannot be kept: with fewer than {LEAST_KEPT} there is none "
            "to roll back to. Keep more."
        )
    if not settings.seconds > 0:
        raise InputError(f"the first run takes more than {settings.seconds!r} s. Give it more.")
    if settings.backend not in {None, AUTO}:
        get_backend(str(settings.backend))
    check_precision(settings.precision)
    return settings


def _check_place(source: Bundle, to: str | PathLike[str]) -> None:
    """Refuse a deployment folder in the bundle, which holds its own files alone."""
    place = resolve_folder(to)
    if place.is_relative_to(source.path):
        raise DeployError(
            f"the deployment folder {place} lies in the bundle {source.path}, which holds only its "
            "own files. Deploy to a folder outside it."
        )
