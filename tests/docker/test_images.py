"""The container files: linted, pinned, guarded; and the steps of the CPU image, run."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from container_tools import import_tool, tools
from free_ports import free_port
from tree import ROOT
from typer.main import get_command

from samclip.cli.main import app

FOLDER = ROOT / "docker"
IMAGES = sorted(path.name for path in FOLDER.glob("*.Dockerfile"))
SERVERS = ("cpu.Dockerfile", "gpu.Dockerfile")
PATIENCE = 300  # seconds, on a busy machine
INSTALL = 1800  # seconds of pip, likewise: it fetches and writes some 500 MB


@cache
def instructions(name: str) -> list[tuple[str, str]]:
    """The instructions of a file and their values, in order."""
    parser = import_tool("dockerfile_parse").DockerfileParser(
        fileobj=io.BytesIO((FOLDER / name).read_bytes()), env_replace=False
    )
    return [
        (one["instruction"], one["value"])
        for one in parser.structure
        if one["instruction"] != "COMMENT"
    ]


def values(name: str, kind: str) -> list[str]:
    """The values of all instructions of one kind."""
    return [value for instruction, value in instructions(name) if instruction == kind]


def test_hadolint_has_nothing_to_say() -> None:
    files = [str(FOLDER / name) for name in IMAGES]
    command = [str(tools() / "bin" / "hadolint"), "--config", str(FOLDER / "hadolint.yaml")]
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    wrong = "FROM python\nRUN pip install numpy\n"  # it is hadolint, and it reads its settings
    done = subprocess.run([*command, "-"], input=wrong, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert {"DL3006", "DL3013", "DL3042"} <= set(re.findall(r"DL\d+", done.stdout))


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_pinned_and_unprivileged(name: str) -> None:
    steps = instructions(name)
    bases = [value for value in values(name, "ARG") if value.startswith("BASE=")]
    assert len(bases) == 1
    assert re.search(r":[\w.-]*\d+\.\d+\.\d+", bases[0]), "a tag with three numbers"
    assert set(values(name, "FROM")) <= {"${BASE}", "${BASE} AS build"}
    for command in values(name, "RUN"):
        for install in re.findall(r"pip install .*?(?=&&|$)", command):
            assert "--constraint" in install, install
            for package in re.findall(r"'([\w-]+(?:\[[\w,]+\])?)(?:[<>~=][^']*)?'", install):
                assert f"{package}==" in install, install
        for package in re.findall(r"apt-get install [^&|;]*", command):
            assert "--no-install-recommends" in package
            assert "rm -rf /var/lib/apt/lists" in command
    users = [index for index, (kind, _) in enumerate(steps) if kind == "USER"]
    assert users, "it runs as root"
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", steps[users[-1]][1])
    after = {kind for kind, _ in steps[users[-1] :]}
    assert not after & {"RUN", "COPY", "ADD", "FROM"}
    assert {"HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT", "CMD"} <= after
    assert values(name, "VOLUME") == ["/cache"]
    assert any("SAMCLIP_CACHE_DIR=/cache TMPDIR=/cache" in each for each in values(name, "ENV"))
    assert json.loads(values(name, "ENTRYPOINT")[0]) == ["samclip"]
    arguments: list[str] = json.loads(values(name, "CMD")[-1])
    command: Any = get_command(app).commands[arguments[0]]  # type: ignore[attr-defined]
    command.make_parser(command.context_class(command)).parse_args(arguments[1:])


def test_what_is_copied_is_there_and_not_ignored() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]
    for name in IMAGES:
        for value in values(name, "COPY"):
            if value.startswith("--from="):
                continue
            *sources, _ = value.split()
            for source in sources:
                assert (ROOT / source).exists(), source
                assert any(fnmatch(source, pattern) for pattern in kept), source


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_is_asked_whether_it_is_ready(name: str) -> None:
    (check,) = values(name, "HEALTHCHECK")
    assert "http://127.0.0.1:8000/readyz" in check
    arguments = json.loads(values(name, "CMD")[-1])
    assert arguments[:5] == ["serve", "--host", "0.0.0.0", "--port", "8000"]
    assert "--token-file" in arguments  # nobody from elsewhere asks without one
    assert "--open-to-all" not in arguments
    assert values(name, "EXPOSE") == ["8000"]


@pytest.mark.slow
def test_the_steps_of_the_cpu_image_make_a_server_that_needs_no_root(tmp_path: Path) -> None:
    """Its install runs in an environment, its command as another user who owns /cache alone."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root, to become the image's user")
    place = Path("/opt") if os.access("/opt", os.W_OK) else tmp_path
    root = place / f"samclip-image-{os.getpid()}"
    try:
        run_image(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def run_image(root: Path) -> None:
    source, venv, cache = root / "src", root / "samclip", root / "cache"
    source.mkdir(parents=True)
    steps = instructions("cpu.Dockerfile")
    start = steps.index(("FROM", "${BASE}"))
    build, final = steps[:start], steps[start:]
    arguments = dict(value.split("=", 1) for kind, value in build if kind == "ARG")
    where = {"/opt/samclip": str(venv), "/src": str(source), "/cache": str(cache)}
    environment = {**os.environ, **arguments, "PATH": f"{venv / 'bin'}:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    for kind, value in build:
        if kind == "COPY":
            *files, _ = value.split()
            for file in files:
                if (ROOT / file).is_dir():
                    skipped = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(ROOT / file, source / file, ignore=skipped)
                else:
                    shutil.copy(ROOT / file, source)
        elif kind == "RUN":
            line = value
            for path, instead in where.items():
                line = re.sub(rf"(?<![\w/]){path}(?![\w])", instead, line)
            line = line.replace("python -m venv", f"{shlex.quote(sys.executable)} -m venv")
            subprocess.run(
                ["sh", "-ec", line], cwd=source, env=environment, check=True, timeout=INSTALL
            )
    serve_image(root, venv, cache, final)


def may_be_entered(path: Path) -> bool:
    """Whether other users may enter the folders above a path, links resolved."""
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


def serve_image(root: Path, venv: Path, cache: Path, final: list[tuple[str, str]]) -> None:
    """Run the command of an image, as its user where that one may run this interpreter."""
    user, group = (int(part) for part in dict(final)["USER"].split(":"))
    become = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs"]
    cache.mkdir(mode=0o700)
    if may_be_entered(venv / "bin" / "python"):
        os.chown(cache, user, group)
    else:
        become = []
    token = root / "token"
    token.write_text("0123456789abcdef0123456789abcdef")
    port = free_port()
    command = json.loads(dict(final)["CMD"])
    words = [str(port) if word == "8000" else word for word in command]
    words = [str(token) if word.startswith("/run/secrets") else word for word in words]
    words[words.index("0.0.0.0")] = "127.0.0.1"
    guarded = {
        "PATH": f"{venv / 'bin'}:/usr/bin:/bin",
        "HOME": str(cache),
        "SAMCLIP_CACHE_DIR": str(cache),
        "TMPDIR": str(cache),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    before = set(venv.rglob("*"))
    server = subprocess.Popen(
        [*become, str(venv / "bin" / "samclip"), *words, "--threads", "1"], env=guarded, cwd=cache
    )
    try:
        (check,) = (value for kind, value in final if kind == "HEALTHCHECK")
        health = json.loads(check[check.index("[") :])
        health = [word.replace(":8000", f":{port}") for word in health]
        end = time.monotonic() + PATIENCE
        asked = [*become, *health]
        while subprocess.run(asked, env=guarded, check=False, stderr=subprocess.DEVNULL).returncode:
            assert server.poll() is None
            assert time.monotonic() < end
            time.sleep(0.5)
        address = f"http://127.0.0.1:{port}"
        photo = (ROOT / "samclip" / "assets" / "photos" / "coffee.jpg").read_bytes()
        with httpx.Client(base_url=address, timeout=PATIENCE, trust_env=False) as client:
            assert client.get("/metrics").status_code == 401
            client.headers["Authorization"] = f"Bearer {token.read_text()}"
            question = {"names": "a cup of coffee,a cat"}
            answer = client.post("/v1/classify", files={"image": photo}, data=question)
            assert answer.status_code == 200, answer.text
            assert answer.json()["task"] == "classify"
    finally:
        server.send_signal(signal.SIGTERM)
        ended = server.wait(60)
    assert ended == 0
    assert set(venv.rglob("*")) == before  # the environment may be read-only
    assert subprocess.run([*become, *health], env=guarded, check=False).returncode == 1
