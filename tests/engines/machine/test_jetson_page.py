"""The page on Jetsons and the container file, compared with the table of JetPacks in the code."""

from __future__ import annotations

import json
import re

import pytest
from pages import ROOT, sections

from samclip.cli.findings import SWAP_COMMANDS
from samclip.engines.machine.jetpacks import (
    NEWER_SINCE,
    NEWER_TENSORRT,
    OLDEST_TENSORRT,
    RECOMMENDED,
    RELEASES,
    SHARED_PACKAGES,
    SHARED_RELEASE,
    SHARED_REPOSITORY,
    SHARED_VERSION,
)
from samclip.engines.registry import probes

PAGE = ROOT / "docs" / "deploy" / "jetson.md"
TEXT = PAGE.read_text("utf-8")
DOCKERFILE = (ROOT / "docker" / "jetson.Dockerfile").read_text("utf-8")


def test_the_page_has_the_table_of_the_code() -> None:
    (section,) = (one for one in sections(PAGE) if one.title == "Which JetPack")
    (table,) = section.tables()
    found = [row[:6] for row in table.body]
    assert found == [
        (one.label, one.linux, one.boards, one.tensorrt, one.cuda, one.python) for one in RELEASES
    ]
    for row, release in zip(table.body, RELEASES, strict=True):
        assert row[6].startswith("plans") is release.builds_plans, row
        assert ("gate" in row[6]) is bool(release.known), row
        assert ("CPU only" in row[6]) is not release.builds_plans, row


def test_the_page_says_what_doctor_says() -> None:
    words = " ".join(TEXT.split())
    assert f"Take JetPack {RECOMMENDED} or newer" in words
    assert f"JetPack {NEWER_SINCE} on" in words
    assert f"TensorRT {NEWER_TENSORRT}" in words
    assert f"plans need TensorRT {OLDEST_TENSORRT}." in words
    assert SWAP_COMMANDS in words
    assert "Pin the clocks **before building plans** and before measuring" in words


def test_the_container_pins_the_tensorrt_of_a_jetpack() -> None:
    (release,) = (one for one in RELEASES if one.prefix == SHARED_RELEASE)
    assert SHARED_VERSION.startswith(f"{release.tensorrt}-")
    assert f"ARG TENSORRT={SHARED_VERSION}\n" in DOCKERFILE
    assert f"ARG REPOSITORY={SHARED_REPOSITORY}\n" in DOCKERFILE
    pinned = re.findall(r'"([\w-]+)=\$\{TENSORRT\}"', DOCKERFILE)
    assert tuple(pinned) == SHARED_PACKAGES
    words = " ".join(TEXT.split())
    assert f"{SHARED_VERSION} of NVIDIA's repository {SHARED_REPOSITORY}" in words


def test_the_container_has_a_user_a_health_check_that_runs_and_a_stop() -> None:
    lines = DOCKERFILE.splitlines()
    assert lines.index("USER 1000:1000") > DOCKERFILE[: DOCKERFILE.index("VOLUME")].count("\n")
    assert "STOPSIGNAL SIGTERM" in lines
    (command,) = (line.strip() for line in lines if line.strip().startswith('CMD ["python"'))
    program, flag, code = json.loads(command.removeprefix("CMD "))
    assert (program, flag) == ("python", "-c")
    with pytest.raises(SystemExit) as ended:
        exec(code, {})
    assert ended.value.code is not probes()["tensorrt"].available
