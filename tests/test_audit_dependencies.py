"""The audit of dependencies, with every kind of answer from pip-audit, and with none."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "audit-dependencies"
SOUND = {"name": "numpy", "version": "2.0", "vulns": []}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found on PyPI"}
WEAK = {
    "name": "pillow",
    "version": "9.0.0",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-2"], "fix_versions": ["9.0.1"]}],
}
OPEN = {"name": "x", "version": "1", "vulns": [{"id": "GHSA-3", "aliases": [], "fix_versions": []}]}
NO_NETWORK = "requests.exceptions.ConnectionError: Max retries exceeded"

Answers = dict[str, tuple[int, Any, str]]  # by database: exit code, packages, standard error
Audit = Callable[..., int]


@pytest.fixture
def module() -> ModuleType:
    loader = SourceFileLoader("audit_dependencies", str(SCRIPT))
    specification = spec_from_loader(loader.name, loader)
    assert specification is not None
    made = module_from_spec(specification)
    sys.modules[loader.name] = made  # where dataclasses look their module up
    loader.exec_module(made)
    return made


@pytest.fixture
def audit(module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """Run the script with a stand-in for pip-audit that gives these answers, by database."""

    def run(answers: Answers, *arguments: str) -> int:
        program = tmp_path / "pip-audit"
        program.write_text(
            f"#!{sys.executable}\n"
            "import json, pathlib, sys\n"
            f"answers = json.loads({json.dumps(answers)!r})\n"
            f"pathlib.Path({str(tmp_path / 'arguments')!r}).write_text(' '.join(sys.argv))\n"
            "code, packages, error = answers[sys.argv[-1]]\n"
            "if packages is not None:\n"
            "    print(json.dumps({'dependencies': packages, 'fixes': []}))\n"
            "sys.stderr.write(error)\n"
            "sys.exit(code)\n"
        )
        program.chmod(0o755)
        pinned = tmp_path / "pinned.txt"
        pinned.write_text("numpy==2.0\n")
        monkeypatch.setattr(module, "pip_audit", lambda: str(program))
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(pinned), *arguments])
        return int(module.main())

    return run


def test_no_known_vulnerabilities(audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit({"pypi": (0, [SOUND, UNKNOWN], "")}) == 0
    out = capsys.readouterr().out
    assert "1 packages audited, none known" in out
    assert "not in the database: torch" in out


def test_known_vulnerabilities_fail(audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit({"pypi": (1, [SOUND, WEAK, OPEN], "Found 2 known vulnerabilities")}) == 1
    captured = capsys.readouterr()
    assert "3 packages audited, 2 known vulnerabilities" in captured.out
    assert "vulnerable: pillow 9.0.0: PYSEC-1, CVE-2; fixed in 9.0.1" in captured.err
    assert "vulnerable: x 1: GHSA-3; not fixed in any version yet" in captured.err


def test_the_second_database_is_asked_when_the_first_does_not_answer(audit: Audit) -> None:
    assert audit({"pypi": (1, None, NO_NETWORK), "osv": (1, [WEAK], "")}) == 1
    assert audit({"pypi": (0, [UNKNOWN], ""), "osv": (0, [SOUND], "")}) == 0


def test_no_database_answers(audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    """A registry's mirror has no advisories: that must not look like a clean answer."""
    assert audit({"pypi": (0, [UNKNOWN], ""), "osv": (1, None, NO_NETWORK)}) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "not audited: pypi knows none of the packages, osv does not answer" in out


def test_other_failures_are_errors(audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit({"pypi": (1, None, "ERROR: invalid specifier at line 1")}) == 2
    assert "invalid specifier" in capsys.readouterr().err


def test_findings_can_be_left_out(audit: Audit, tmp_path: Path) -> None:
    assert audit({"pypi": (0, [SOUND], "")}, "--ignore", "PYSEC-1", "--ignore", "CVE-2") == 0
    assert "--ignore-vuln PYSEC-1 --ignore-vuln CVE-2" in (tmp_path / "arguments").read_text()


def test_what_is_installed_is_listed_without_local_versions(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = [{"name": "torch", "version": "2.13.0+cpu"}, {"name": "numpy", "version": "2.4.6"}]
    monkeypatch.setattr(module, "TESTED", Path(sys.executable))
    monkeypatch.setattr(module, "run", lambda command: json.dumps(listing))
    assert module.tested_packages() == "torch==2.13.0\nnumpy==2.4.6\n"


def test_without_an_environment_the_error_has_the_remedy(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TESTED", tmp_path / "python")
    with pytest.raises(module.AuditError, match="run scripts/check first"):
        module.tested_packages()
