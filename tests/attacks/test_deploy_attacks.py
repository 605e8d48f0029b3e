"""Deployments that are killed, that meet each other, or whose folder holds planted entries.

test_crashes.py kills deployments at random moments, test_disk_faults.py at each of their calls of
the system, and fills their disk.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bundle_copies import write_renamed
from disk_writers import number_at, write_numbered_bundle
from faulty_disk import environment as faulty
from figures import Figures

from samclip.runtime.bundles.bundle import Bundle

HERE = Path(__file__).parent
SCRIPT = HERE / "deploy_process.py"


def run_script(*words: object, variables: dict[str, str] | None = None) -> dict[str, int]:
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_a_rollback_is_killed_at_each_of_its_calls(quick_folder: Path, figures: Figures) -> None:
    found = run_script("rollback", quick_folder, variables=dict(faulty()))
    assert found["points"] > 10
    assert found["new"] > 0
    figures.add(
        "SIGKILL at each call of a rollback: both releases whole, the next rollback works",
        count=found["points"],
        found=f"deployment: {found['old']} old, {found['new']} new",
    )


@pytest.mark.slow
def test_many_deploy_to_one_folder_at_once(tmp_path: Path, figures: Figures) -> None:
    found = run_script("together", tmp_path / "here", 10, 4)
    assert found["written"] >= found["rounds"]
    figures.add(
        "4 processes deploy to one folder at once: one serves, the others wait or are refused",
        count=found["rounds"],
        found=f"deployment: {found['written']} served, {found['refused']} refused",
    )


SECONDS = (0.5, 1, 2, 4)  # from the start of the command, which takes longer on a busy machine
DEPLOY = """
import sys
from samclip.commands import run
sys.argv = ["samclip", "deploy", sys.argv[1], "--to", sys.argv[2], "--no-build"]
run()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_command_is_stopped_at_any_moment(
    number: signal.Signals, coloured_bundle: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    """Stop the whole command after so many seconds, its first run included; the next one works."""
    place = tmp_path / "street"
    sources = [write_renamed(coloured_bundle, tmp_path / name, name) for name in ("a", "b")]
    command = [sys.executable, "-c", DEPLOY]
    subprocess.run([*command, str(sources[0]), str(place)], env=environment, check=True)
    for turn, seconds in enumerate(SECONDS, 1):
        before = (place / "current").readlink()
        process = subprocess.Popen(
            [*command, str(sources[turn % 2]), str(place)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        time.sleep(seconds)
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
        assert b"Traceback" not in said
        Bundle.open(place / "current").verify()
        if process.returncode != 0 and number != signal.SIGKILL:
            assert (place / "current").readlink() == before
            assert not list(place.rglob("*.partial"))
        subprocess.run([*command, str(sources[turn % 2]), str(place)], env=environment, check=True)
        assert not list(place.rglob("*.partial"))
        assert len(list((place / "releases").iterdir())) <= 2


def test_a_deployment_of_another_user_is_not_read_through_its_links(tmp_path: Path) -> None:
    """A planted link in place of a release leads nowhere, and what it led to stays."""
    from disk_writers import always_answer

    from samclip.errors import DeployError
    from samclip.runtime.deploy import deployment

    before = deployment.run_once
    always_answer()
    try:
        place, secret = tmp_path / "street", tmp_path / "secret"
        settings = deployment.DeploySettings(build=False)
        for number in (1, 2):
            write_numbered_bundle(tmp_path / str(number), number)
        write_numbered_bundle(secret, 9)
        deployment.deploy(tmp_path / "1", place, settings)
        served = place / "releases" / (place / "current").readlink().name
        served.rename(served.with_name("moved"))
        served.symlink_to(secret)
        with pytest.raises(DeployError, match="is a link or a file"):
            deployment.deploy(tmp_path / "2", place, settings)
        served.unlink()
        served.with_name("moved").rename(served)
        planted = place / "releases" / "0000-000000000000"
        planted.symlink_to(secret)
        deployment.deploy(tmp_path / "2", place, settings)
        assert planted.is_symlink()
        assert number_at(secret) == 9
        assert number_at(place / "current") == 2
    finally:
        deployment.run_once = before
