"""Files around the code: links, scripts, versions, and no text about one machine."""

from __future__ import annotations

import importlib.machinery
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINKS = ("benchmarks", "engines", "export", "runtime")
# Paths that exist on one machine only; spelled so that this file does not match itself.
MACHINE_PATHS = re.compile(r"(?<![\w.$}/-])/(?:tmp|work|root|home/\w+|Users/\w+)\b")
REGISTRY_HOSTS = re.compile(r"(?:pypi|pythonhosted|npmjs|debian)\.(?:org|com)")
BINARY = {".jpg", ".png", ".onnx", ".gz", ".pdf", ".ttf", ".mp4"}
BUNDLES = ROOT / "samclip" / "assets" / "bundles"  # made by export; test_packaging.py looks at them


def tracked_files() -> list[Path]:
    """Files under version control, links and bundles left out."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: an sdist or an archive")
    command = ["git", "ls-files", "-z"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in listing.split("\0") if name]
    plain = [path for path in paths if path.is_file() and not path.is_symlink()]
    return [path for path in plain if not path.is_relative_to(BUNDLES)]


def tracked_texts() -> list[Path]:
    return [path for path in tracked_files() if path.suffix not in BINARY]


@pytest.mark.parametrize("name", LINKS)
def test_top_level_links_point_into_the_package(name: str) -> None:
    link = ROOT / name
    if not link.is_symlink():
        pytest.skip("archives lose links, and nothing depends on them")
    assert link.readlink() == Path("samclip") / name
    assert (link / "__init__.py").is_file()


def test_no_text_names_a_path_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked_texts()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if MACHINE_PATHS.search(line) or REGISTRY_HOSTS.search(line)
    ]
    found = [line for line in found if not line.startswith("tests/test_project_files.py")]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("open('/tmp" + "/x')", True),
        ("see /home" + "/alice/notes", True),
        ("a/tmp/b and $HOME/tmp and tmp_path / 'x'", False),
        ("https://example.com/work", False),
    ],
)
def test_the_pattern_knows_paths_of_one_machine(text: str, bad: bool) -> None:
    assert bool(MACHINE_PATHS.search(text)) is bad


def test_texts_are_utf8_with_plain_line_ends() -> None:
    for path in tracked_texts():
        data = path.read_bytes()
        data.decode("utf-8")
        assert b"\r" not in data, f"{path} has carriage returns"
        assert not data or data.endswith(b"\n"), f"{path} does not end with a line end"


def test_no_large_file_is_tracked() -> None:
    limit = 3_000_000  # bytes: a checkpoint or a bundle by mistake is far larger
    large = [path for path in tracked_files() if path.stat().st_size > limit]
    assert not large


@pytest.mark.parametrize("script", ["scripts/check", "scripts/demo", ".ci/run"])
def test_scripts_run_under_bash_and_can_be_executed(script: str) -> None:
    path = ROOT / script
    assert path.read_text("utf-8").startswith("#!/usr/bin/env bash\n")
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_ci_runs_the_check_script_and_reports_timings_and_vulnerabilities() -> None:
    lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    assert commands[0] == "scripts/check"
    assert [line.split()[:3] for line in commands[1:]] == [
        [".venv/bin/samclip-bench", "latency", "--quick"],
        ["scripts/audit-dependencies", "||", "echo"],  # reported, but no failure
    ]


def test_changelog_knows_this_version() -> None:
    from samclip import __version__

    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert "## [Unreleased]" in text or f"## [{__version__}]" in text


def test_the_address_of_the_repository_is_in_one_place() -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    (address,) = re.findall(r'^Repository = "(.+)"$', project, re.MULTILINE)
    found = [path for path in tracked_texts() if address in path.read_text("utf-8")]
    assert found == [ROOT / "pyproject.toml"]


def test_citation_has_this_version_and_licence() -> None:
    import yaml

    from samclip import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert (citation["version"], citation["license"]) == (__version__, "Apache-2.0")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_publishing_needs_no_secret_and_checks_the_packages() -> None:
    import yaml

    text = (ROOT / ".github" / "workflows" / "publish.yml").read_text("utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert "id-token" not in jobs["build"]["permissions"]
    assert "twine check --strict" in str(jobs["build"]["steps"])
    assert "secrets." not in text


def test_the_site_is_built_by_the_check_script() -> None:
    assert "\nrun tools.site\n" in (ROOT / "scripts" / "check").read_text("utf-8")


@pytest.mark.parametrize("package", ["triton", "tensorrt", "openvino", "ray", "torch", "onnx"])
def test_no_folder_of_tests_is_taken_for_a_package(package: str) -> None:
    """Tests may be on PYTHONPATH, and torch takes a folder `triton` there for the compiler."""
    assert importlib.machinery.PathFinder.find_spec(package, [str(ROOT / "tests")]) is None


def test_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert (ROOT / "NOTICE").read_text("utf-8").startswith("samclip\n")


def test_every_requirement_of_the_references_is_pinned_by_its_hash() -> None:
    text = (ROOT / "requirements-reference.txt").read_text("utf-8").replace("\\\n", "")
    wanted = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert wanted
    pin = r"[\w-]+==[\d.]+ +--hash=sha256:[0-9a-f]{64}"
    assert all(re.fullmatch(pin, line) for line in wanted)
    assert "--require-hashes" in (ROOT / "scripts" / "check").read_text("utf-8")
