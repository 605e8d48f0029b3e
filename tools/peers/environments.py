"""Environments of peers: a venv each, made by Python's own tools, verified, and used again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from samclip.benchmarks.report import write_whole
from samclip.disk.cache_folder import cache_dir
from samclip.errors import PeerError

Report = Callable[[str], None]
STAMP = "installed.json"
REPORTED = ("Collecting ", "Downloading ", "Installing ")  # of pip's lines
LIST_PACKAGES = (
    "import json, importlib.metadata as m; "
    "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
)
LEAKING = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Environment:
    """Packages as pip's requirements; those of `bare` come without what they ask for."""

    name: str
    requirements: tuple[str, ...]
    bare: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """A hash of the packages and of the version of Python."""
        text = json.dumps([self.requirements, self.bare, sys.version, sys.base_prefix])
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def default_folder() -> Path:
    """Return the folder of environments and exported files: `peers/` in samclip's cache."""
    return cache_dir() / "peers"


def prepare_environment(environment: Environment, folder: Path, report: Report) -> Path:
    """Return the Python of an environment, which is made the first time or when it has changed.

    Raises PeerError when a package cannot be installed.
    """
    home = folder / f"{environment.name}-{environment.key}"
    home.parent.mkdir(parents=True, exist_ok=True)
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    with FileLock(folder / f".{home.name}.lock"):
        if not _is_complete(home, python):
            if home.exists():
                report(f"{environment.name}: what is in {home} is not whole; it is made again")
                shutil.rmtree(home)
            _make(environment, home, python, report)
    return python


def clean_environment(threads: int) -> dict[str, str]:
    """Return the variables of a worker, which finds no packages of this process."""
    return {**_variables(), "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def _is_complete(home: Path, python: Path) -> bool:
    """Whether all packages were installed, and are still there in the same versions."""
    try:
        noted = json.loads((home / STAMP).read_bytes())
        return bool(noted == _packages(python))
    except (OSError, ValueError, subprocess.CalledProcessError):
        return False


def _packages(python: Path) -> dict[str, str]:
    command = [str(python), "-I", "-c", LIST_PACKAGES]
    done = subprocess.run(command, capture_output=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _make(environment: Environment, home: Path, python: Path, report: Report) -> None:
    report(f"{environment.name}: making an environment in {home}")
    _run([sys.executable, "-m", "venv", str(home)], environment.name, report)
    install = [str(python), "-I", "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    install.append("--no-compile")  # Python compiles what is imported, a small part of it all
    for options, packages in (((), environment.requirements), (("--no-deps",), environment.bare)):
        if packages:
            _run([*install, *options, *packages], environment.name, report)
    write_whole(home / STAMP, json.dumps(_packages(python), indent=1, sort_keys=True).encode())


def _run(command: Sequence[str], name: str, report: Report) -> None:
    """Run a step and report its progress; raises PeerError with its last lines."""
    last: deque[str] = deque(maxlen=8)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_variables()
    ) as process:
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        for line in process.stdout:
            last.append(line.rstrip())
            if line.startswith(REPORTED):
                report(f"{name}: {line.rstrip()[:120]}")
    if process.returncode:
        raise PeerError(
            f"the environment could not be made: {' / '.join(last)}. Check that pip reaches a "
            "package index that has these packages for this Python and machine."
        )


def _variables() -> dict[str, str]:
    """Return this process's variables, without those that would lead to its packages."""
    return {name: value for name, value in os.environ.items() if name not in LEAKING}
