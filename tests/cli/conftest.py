"""Fixtures of the tests of commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_fakes import FakeModel, Run, write_image
from json_schemas import check_output
from typer.testing import CliRunner, Result


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeModel:
    """A fake model, which `samclip.load` returns for any bundle; the current folder is fresh."""
    fake = FakeModel()
    monkeypatch.setattr("samclip.load", fake.load)
    monkeypatch.setenv("SAMCLIP_BUNDLE", "fake")
    monkeypatch.delenv("SAMCLIP_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)
    return fake


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A small image file, alone in its folder."""
    return write_image(tmp_path / "in" / "street.png")


@pytest.fixture
def run() -> Run:
    """A function that runs the command; its result has exit code, stdout and stderr.

    What --json prints is held to the schemas of the documentation.
    """
    from samclip.cli.main import app

    def invoke(*arguments: object) -> Result:
        texts = [str(argument) for argument in arguments]
        result = CliRunner().invoke(app, texts)
        check_output(texts, result.stdout)
        return result

    return invoke
