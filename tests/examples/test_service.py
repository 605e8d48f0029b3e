"""The example of a service: its answers, its reports to systemd, and the unit that starts it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from coloured_bundle import write_coloured_bundle
from tree import ROOT, load_script

from samclip.cli.main import app

PROGRAM = ROOT / "examples" / "service.py"
UNIT = ROOT / "deploy" / "systemd" / "samclip@.service"
PATIENCE = 60  # seconds, on a busy machine


class Listener:
    """Systemd's end of the socket: what was reported, with the time."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.settimeout(PATIENCE)

    def next(self) -> str:
        return self.socket.recv(4096).decode()

    def nothing_for(self, seconds: float) -> bool:
        self.socket.settimeout(seconds)
        try:
            self.next()
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(PATIENCE)
        return False


@pytest.fixture(params=["file", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Listener]]:
    address = str(tmp_path / "notify") if request.param == "file" else f"@samclip-{os.getpid()}"
    found = Listener(address)
    yield address, found
    found.socket.close()


def test_the_program_reports_answers_and_ends(
    listener: tuple[str, Listener], tmp_path: Path, photo_path: Path
) -> None:
    address, systemd = listener
    bundle = write_coloured_bundle(tmp_path / "bundle")
    inbox, outbox = tmp_path / "in", tmp_path / "out"
    words = ["--bundle", bundle, "--backend", "onnxruntime", "--inbox", inbox, "--outbox", outbox]
    variables = {
        **os.environ,
        "NOTIFY_SOCKET": address,
        "WATCHDOG_USEC": "400000",
        "SAMCLIP_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, str(PROGRAM), *map(str, words), "--names", "a cup,a dog"]
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE) as process:
        assert systemd.next() == "READY=1"
        assert systemd.next() == "WATCHDOG=1"  # there are no photos yet
        shutil.copy(photo_path, inbox / ".cup.jpg")
        (inbox / ".cup.jpg").replace(inbox / "cup.jpg")
        (inbox / "not a photo.png").write_bytes(b"words")
        until = time.monotonic() + PATIENCE
        while len(list(outbox.glob("[!.]*"))) < 4 and time.monotonic() < until:
            assert systemd.next() == "WATCHDOG=1"
        process.send_signal(signal.SIGTERM)
        while (said := systemd.next()) == "WATCHDOG=1":
            pass
        assert said == "STOPPING=1"
        assert process.wait(PATIENCE) == 0, process.stderr
    assert sorted(path.name for path in outbox.iterdir()) == [
        "cup.jpg",
        "cup.jpg.json",
        "not a photo.png",
        "not a photo.png.json",
    ]
    found = json.loads((outbox / "cup.jpg.json").read_text())
    assert set(found) == {"masks", "classify"}
    assert (
        "is not of the formats"
        in json.loads((outbox / "not a photo.png.json").read_text())["error"]
    )


def test_a_hung_engine_feeds_no_watchdog(
    listener: tuple[str, Listener], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, systemd = listener
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    service = load_script(PROGRAM)
    hangs, released = threading.Event(), threading.Event()

    def answer(*_: object) -> dict[str, object]:
        if hangs.is_set():
            released.wait(PATIENCE)
        return {}

    monkeypatch.setattr(service, "answer", answer)
    over = threading.Event()
    arguments = (None, tmp_path, tmp_path, [], service.Systemd(), over.is_set)
    thread = threading.Thread(target=service.serve, args=arguments)
    thread.start()
    assert [systemd.next() for _ in range(3)] == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]
    hangs.set()
    systemd.nothing_for(0.3)  # one that was under way
    assert systemd.nothing_for(1.0)  # five limits of the watchdog
    over.set()
    released.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_the_watchdog_of_another_process_is_not_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    systemd = load_script(PROGRAM).Systemd()
    assert systemd.interval is None
    systemd.report("READY=1")  # without systemd nothing happens


def test_the_unit_has_what_a_service_on_a_gpu_needs() -> None:
    lines = [line for line in UNIT.read_text().splitlines() if line and line[0] != "#"]
    settings = dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))
    assert settings["Type"] == "notify"
    assert {"WatchdogSec", "MemoryMax", "RestartSec"} <= set(settings)
    assert settings["Restart"] == "on-failure"
    assert settings["SupplementaryGroups"].split() == ["video", "render"]
    assert "Environment=CUDA_MODULE_LOADING=LAZY" in lines
    hides_devices = {"PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock"}
    assert not {*hides_devices, "MemoryDenyWriteExecute"} & set(settings)
    words = settings["ExecStartPre"].partition("/samclip ")[2].split()
    command = typer.main.get_command(app)
    for name in words[:2]:
        command = command.commands[name]  # type: ignore[attr-defined]
    command.make_context("build", words[2:])  # the options exist


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd here")
    unit = tmp_path / "samclip@street.service"
    unit.write_text(re.sub(r"/opt/samclip/venv/bin/\w+", "/bin/true", UNIT.read_text()))
    command = [analyze, "verify", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if unit.name in line]
    assert not said
    assert done.returncode == 0 or "samclip" not in done.stderr
