"""`samclip deploy`: what it prints for people and programs, and which options go together."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cli_fakes import Run
from tiny_bundle import write_tiny_bundle

from samclip.runtime.deploy import deployment
from samclip.runtime.deploy.first_run import FirstRun


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A deployment folder that does not exist yet; each release passes its first run."""
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / "cache"))
    run = FirstRun(backend="onnxruntime", masks=1, load_seconds=1.25, answer_seconds=0.5)
    monkeypatch.setattr(deployment, "run_once", lambda _: run)
    return tmp_path / "street"


def test_deploy_status_and_rollback(run: Run, place: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        bundle = write_tiny_bundle(tmp_path / name, name=name)
        result = run("deploy", bundle, "--to", place, "--no-build")
        assert result.exit_code == 0, result.stderr
        assert f"{place}/current is 000" in result.stdout
        assert "runs on onnxruntime: loaded in 1.2 s, answered in 0.5 s" in result.stdout
    again = run("deploy", bundle, "--to", place, "--json")
    assert json.loads(again.stdout)["changed"] is False
    assert "is served already" in run("deploy", bundle, "--to", place).stdout
    table = re.sub(r"\s+", " ", run("deploy", "--status", "--to", place).stdout)
    assert re.search(r"0002-\w{12} two current .* 0001-\w{12} one previous", table)
    state = json.loads(run("deploy", "--status", "--to", place, "--json").stdout)
    rolled = json.loads(run("deploy", "--rollback", "--to", place, "--no-build", "--json").stdout)
    assert (rolled["current"], rolled["previous"]) == (state["previous"], state["current"])
    assert rolled["release"]["bundle"] == "one"
    info = run("info", place / "current", "--json")
    assert json.loads(info.stdout)["path"] == str(place / "releases" / rolled["current"])


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        ([], "give one of", 2),
        (["--status", "--rollback"], "give one of", 2),
        (["bundle", "--status"], "give one of", 2),
        (["nowhere"], "no bundle 'nowhere'", 2),
        (["bundle", "--keep", "1"], "keep", 2),
        (["bundle", "--backend", "tensorrt"], "tensorrt", 1),
        (["--status"], "nothing was deployed to", 1),
        (["--rollback"], "nothing was deployed to", 1),
    ],
)
def test_what_cannot_be_done_is_refused(
    arguments: list[str], message: str, code: int, run: Run, place: Path, tmp_path: Path
) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    words = [bundle if word == "bundle" else word for word in arguments]
    result = run("deploy", *words, "--to", place)
    assert result.exit_code == code
    assert message in re.sub(r"[\s│]+", " ", result.stderr)
    assert not (place / "current").exists()
