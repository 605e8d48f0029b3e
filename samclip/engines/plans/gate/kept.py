"""Verdicts that hold on this machine: a plan's own, or one that was kept when it was loaded first.

A plan may have been built elsewhere, for several GPUs. So it is judged where it runs, and the
verdict is kept by the plan's bytes, GPU, driver and library: TensorRT for RTX compiles on the
device, and another driver may make other kernels of the same plan.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import msgspec

from samclip.disk.cache_folder import make_private_folder
from samclip.disk.partial_files import remove_abandoned, write_file
from samclip.engines.backend_names import TENSORRT
from samclip.engines.plans.gate.verdict import JudgedOn, Verdict
from samclip.engines.plans.own_files import MODE, read_own
from samclip.engines.plans.record import Record, Sha256, digest_of, with_digest
from samclip.engines.plans.sidecar import Sidecar
from samclip.engines.plans.store import plan_folder
from samclip.errors import PlanDamagedError

FOLDER_NAME = "verdicts"
MAX_BYTES = 1_000_000

_logger = logging.getLogger("samclip")


class KeptVerdict(Record, frozen=True, kw_only=True):
    """A verdict, the plan and machine that it is about, and the SHA-256 of these with ""."""

    plan: Sha256
    machine: JudgedOn
    verdict: Verdict
    digest: str = ""


def verdict_here(sidecar: Sidecar, machine: JudgedOn | None) -> Verdict:
    """Return the verdict that holds for a plan on `machine`; an unjudged one when there is none."""
    own = sidecar.gate
    if own.state in {"skipped", "failed"} or (own.state == "passed" and _holds(sidecar, machine)):
        return own
    kept = None if machine is None else read_verdict(sidecar.plan.sha256, machine)
    return kept or msgspec.structs.replace(own, state="unjudged")


def _holds(sidecar: Sidecar, machine: JudgedOn | None) -> bool:
    """Whether a plan was judged on such a machine.

    The kernels of TensorRT's plans are in their bytes, whatever the driver, and `misfit` has
    compared library and GPU.
    """
    judged = sidecar.gate.machine
    if sidecar.library == TENSORRT or judged is None or machine is None:
        return sidecar.library == TENSORRT
    return judged == machine


def keep_verdict(plan: str, machine: JudgedOn, verdict: Verdict) -> None:
    """Keep a verdict for later loads; an error of the disk is only logged."""
    kept = KeptVerdict(plan=plan, machine=machine, verdict=verdict)
    try:
        path = _path(plan, machine)
        make_private_folder(path.parent)
        remove_abandoned(path.parent)
        write_file(path, msgspec.json.encode(with_digest(kept)), MODE)
    except OSError as error:
        _logger.warning(
            "the verdict on a plan is not kept, and it is judged at the next load again: %s",
            error.strerror or error,
        )


def read_verdict(plan: str, machine: JudgedOn) -> Verdict | None:
    """Return the verdict that was kept; None when there is none, or none that is whole."""
    try:
        path = _path(plan, machine)
        kept = msgspec.json.decode(read_own(path, MAX_BYTES), type=KeptVerdict)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    except PlanDamagedError as error:
        _logger.warning("a verdict is not used: %s", error)
        return None
    is_whole = kept.digest == digest_of(kept)
    return kept.verdict if is_whole and (kept.plan, kept.machine) == (plan, machine) else None


def _path(plan: str, machine: JudgedOn) -> Path:
    key = hashlib.sha256(plan.encode() + msgspec.json.encode(machine)).hexdigest()
    return plan_folder() / FOLDER_NAME / f"{key[:32]}.json"
