"""Fresh Python processes that measure something in themselves, and print it as JSON."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from samclip.errors import EngineRunError


def run_python(
    what: str,
    code: str,
    *arguments: str,
    timeout: float,
    retry: str,
    compiled: Path | None = None,
) -> str:
    """Run `code` in a new process to its end, and return what it prints.

    `compiled` is a folder that keeps compiled modules for the next process, whatever the
    environment says of them; an installation has them from the start. When the process fails,
    raises EngineRunError, which names the process, `what`, its last line, and the command that
    shows what is wrong, `retry`.
    """
    command = [sys.executable, "-c", code, *arguments]
    environment = dict(os.environ)
    if compiled is not None:
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["PYTHONPYCACHEPREFIX"] = str(compiled)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, env=environment
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineRunError(
            f"{what} failed ({done.returncode}): {last}. Run `{retry}` with the same bundle and "
            "backend to see what is wrong."
        )
    return done.stdout
