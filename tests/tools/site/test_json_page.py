"""The page about JSON and its schemas: as the records say, and as reports are.

What the commands of `samclip` print is checked by the fixture `run` of `tests/cli`, for every test
that asks for --json.
"""

from __future__ import annotations

import json
from pathlib import Path

import made_reports
import pytest
from json_schemas import SCHEMAS, check, schema_name, validator
from jsonschema import Draft202012Validator, ValidationError

from samclip.benchmarks.records import Report
from samclip.benchmarks.report import write_report
from tools.site.json_page import PAGE, make_files
from tools.site.json_records import RECORDS


def test_the_page_and_the_schemas_are_as_the_records_say() -> None:
    files = make_files()
    assert {path.stem for path in SCHEMAS.glob("*.json")} == set(RECORDS)
    stale = [name for name, text in files.items() if (PAGE.parent / name).read_text() != text]
    assert not stale, "run `python -m tools.site --write`"


@pytest.mark.parametrize("name", RECORDS)
def test_schemas_are_valid_and_refuse_unknown_fields(name: str) -> None:
    schema = json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    errors = [error.validator for error in validator(name).iter_errors({"surprise": 1})]
    assert {"additionalProperties", "required"} <= set(errors)


@pytest.mark.parametrize(
    "report",
    [
        made_reports.latency("one", "two"),
        made_reports.memory("one"),
        made_reports.roofline("one"),
        made_reports.profile("one"),
        made_reports.accuracy("one", "two"),
    ],
    ids=lambda report: report.benchmark,
)
def test_reports_of_benchmarks_fit_their_schema(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path / "report.json")
    value = json.loads((tmp_path / "report.json").read_text())
    check("bench", value)
    with pytest.raises(ValidationError, match="surprise"):
        check("bench", {**value, "surprise": 1})


def test_each_command_has_its_schema() -> None:
    assert schema_name(["engine", "list", "--json"]) == "engine-list"
    assert schema_name(["deploy", "--status", "--to", "x", "--json"]) == "deploy-status"
    assert schema_name(["classify", "x.jpg", "--json"]) == "classify"
    assert schema_name(["classify", "x.jpg"]) is None
