"""Paths as they are given on a command line: addresses are refused by name, homes are expanded."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import typer

from samclip.disk.paths import is_address, user_path
from samclip.errors import InputError


def how_to_fetch(address: str) -> str:
    """Return "Download it first." and the command, for the protocols that curl knows."""
    if not address.lower().startswith(("http://", "https://", "ftp://")):
        return "Download it first."
    name = re.split("[?#]", address)[0].rstrip("/").rpartition("/")[2] or "file"
    return f"Download it first: curl -fL -o {shlex.quote(name)} {shlex.quote(address)}"


def parse_path(given: str | Path) -> Path:
    """Read the value of an option that names a file or folder; raises typer.BadParameter.

    As a text it may be an address, whose slashes a `Path` would have merged.
    """
    text = os.fspath(given)
    if is_address(text):
        raise typer.BadParameter(f"{text} is an address, not a file. {how_to_fetch(text)}")
    try:
        return user_path(text, "it")
    except InputError as error:
        raise typer.BadParameter(str(error)) from error


def working_folder_exists() -> bool:
    """Whether the folder that relative paths start from is still there."""
    try:
        Path.cwd()
    except OSError:
        return False
    return True
