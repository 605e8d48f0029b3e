"""Parts in separate processes, each with a limit; whatever ends one, its rows stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from report import FAILED, NotHereError, PartResult, Row, is_absence, part_file

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "tests" / "support"
GRACE = 5.0  # seconds between the limit that a part keeps itself and the one that ends it
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


def environment(site: Path | None, dry_run: bool) -> dict[str, str]:
    """Return the variables of a part: this tree comes first, then unpacked packages.

    In the environment, so that processes which a part starts find both. The dry run's stand-ins
    come last.
    """
    places = [ROOT, *([] if site is None else [site.resolve()])]
    given = os.environ.get("PYTHONPATH", "")
    last = [SUPPORT] if dry_run else []
    paths = [*map(str, places), *given.split(os.pathsep), *map(str, last)]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
    }


def start_part(
    name: str, command: list[str], folder: Path, limit: float, variables: dict[str, str]
) -> PartResult:
    """Run a part in a process, end it at its limit, and read the rows that it left."""
    part_file(folder, name).unlink(missing_ok=True)
    begun = time.monotonic()
    # A separate process group, so that processes of the part end with it; no new session: those
    # outlive a call on a borrowed machine.
    process = subprocess.Popen(command, env=variables, preexec_fn=os.setpgrp)  # noqa: PLW1509
    try:
        code = process.wait(limit + GRACE)
        ending = "" if code == 0 else f"the process ended with code {code}"
    except subprocess.TimeoutExpired:
        ending = f"stopped: not done after its limit of {limit:.0f} s"
    finally:
        _end(process)
    path = part_file(folder, name)
    result = PartResult.from_file(path) if path.exists() else PartResult(name)
    if ending:
        result.state = FAILED
        result.error = f"{result.error}\n{ending}".strip()
        result.seconds = round(time.monotonic() - begun, 1)
        result.save(folder)
    return result


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a part, and its processes."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, KILL)
    process.wait()


def run_part(
    name: str, check: Callable[[], Callable[[Any], Iterator[Row]]], options: Any, folder: Path
) -> PartResult:
    """Run a part in this process; its file is written before the first row and after each.

    `check` imports the part: what goes wrong there is a fault of the part too.
    """
    result, begun = PartResult(name), time.monotonic()

    def save() -> None:
        result.seconds = round(time.monotonic() - begun, 1)
        result.save(folder)

    save()
    try:
        for row in check()(options):
            result.rows.append(row)
            print(f"  {row.state:8} {row.what}: {row.value} {row.unit} {row.reason}", flush=True)
            if row.error:
                print(row.error, file=sys.stderr, flush=True)
            save()
    except Exception as error:
        if is_absence(error):
            result.note = " ".join(str(error).split())
        else:
            result.error = traceback.format_exc()
    result.settle(options.must_run)
    save()
    return result


def need(condition: object, what: str) -> None:
    """Raise NotHereError unless this machine has what a part needs."""
    if not condition:
        raise NotHereError(what)
