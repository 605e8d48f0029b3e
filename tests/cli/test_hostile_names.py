"""Files whose names a terminal would act on, or that are not UTF-8, through whole commands."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cli_fakes import FakeModel, Run, write_image

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")

NAME = "a\udcff\x1b]0;title\x07[red]\n.png"
SHOWN = r"a\xff\x1b]0;title\x07[red]\n.png"
TASKS = [("segment", "--point", "4,4"), ("classify", "--names", "x\x1b[2Jy,z"), ("everything",)]


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("task", TASKS, ids=[task[0] for task in TASKS])
def test_people_see_escapes(run: Run, task: tuple[str, ...], tmp_path: Path) -> None:
    image = write_image(tmp_path / "in" / NAME)
    result = run(*task, image)
    assert result.exit_code == 0, result.stderr
    assert SHOWN in result.stdout
    assert "\x1b" not in result.stdout + result.stderr
    assert "\x07" not in result.stdout + result.stderr


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("task", TASKS, ids=[task[0] for task in TASKS])
def test_machines_get_valid_json(run: Run, task: tuple[str, ...], tmp_path: Path) -> None:
    image = write_image(tmp_path / "in" / NAME)
    result = run(*task, image, "--json")
    assert result.exit_code == 0, result.stderr
    (line,) = result.stdout.splitlines()
    record = json.loads(line)
    assert record["image"].endswith("a\\xff\x1b]0;title\x07[red]\n.png")
    json.dumps(record, ensure_ascii=False).encode()  # fails on a lone surrogate
    assert line.isprintable()


def test_errors_show_it_too(run: Run, model: FakeModel, tmp_path: Path) -> None:
    for arguments in (
        [tmp_path / NAME],
        [tmp_path / NAME, "--labels", tmp_path / NAME],
        [write_image(tmp_path / "b.png"), "--output", tmp_path / "none\x1b[2J" / "x.gif"],
    ):
        result = run("everything", *arguments)
        assert result.exit_code == 2
        assert "\x1b" not in result.stderr
        assert r"\x1b" in result.stderr
    assert model.calls == []


def test_a_bad_image_in_a_series(run: Run, model: FakeModel, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "b.png")
    (tmp_path / "in" / NAME).write_bytes(b"no image")
    result = run("everything", tmp_path / "in", "--json")
    assert result.exit_code == 1
    failed, answered = (json.loads(line) for line in result.stdout.splitlines())
    assert failed["error"]["type"] == "ImageError"
    assert "error" not in answered
    assert "\x1b" not in result.stderr
    assert SHOWN in result.stderr
    assert len(model.calls) == 1
