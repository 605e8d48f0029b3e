"""Names, paths, serial numbers and addresses, none of which a board record may hold.

A record holds only the fields of its schema, none of which is meant for such a thing. Texts that
come from the machine or from an error may hold one all the same; it is removed from every text that
is not one of the schema's own words.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from samclip.benchmarks.board.record import Signature
from samclip.engines.machine.kernel_files import MachineFiles

SERIALS = (
    "/proc/device-tree/serial-number",
    "/sys/firmware/devicetree/base/serial-number",
    "/sys/class/dmi/id/product_serial",
    "/sys/class/dmi/id/board_serial",
    "/sys/class/dmi/id/chassis_serial",
    "/sys/class/dmi/id/product_uuid",
    "/etc/machine-id",
)
NETWORKS = "/sys/class/net"
USER_VARIABLES = ("USER", "LOGNAME", "USERNAME", "SUDO_USER")
NOBODY = frozenset({"", "root", "localhost", "none", "unknown", "default string"})
SHORTEST = 2  # characters of a name that is looked for
REMOVED = "[removed]"
KEPT_PATHS = ("/sys/", "/proc/", "/dev/")  # the same on every machine
_PATH = re.compile(
    r"(?<![\w.:/])(?:~|\$HOME|\.{1,2})?(?:/[\w.+@%,=:~-]+)+/?"  # absolute, or below home
    r"|\b[A-Za-z]:\\[^\s\"']*|\\\\[^\s\"']+"
)
_PATTERNS = (
    re.compile(r"\b[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}\b"),  # MAC
    re.compile(r"\b(?:GPU-)?[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\b"),  # UUID
    re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b"),  # mail
)
S = TypeVar("S", bound=msgspec.Struct)


@dataclass(frozen=True)
class Privacy:
    """Names and numbers that are to be removed from texts."""

    secrets: tuple[str, ...]

    def clean(self, text: str) -> str:
        """Return a text without them, and without paths and addresses."""
        cleaned = _PATH.sub(_keep_common, text)
        for pattern in _PATTERNS:
            cleaned = pattern.sub(REMOVED, cleaned)
        for secret in self.secrets:
            whole = rf"(?<![0-9A-Za-z]){re.escape(secret)}(?![0-9A-Za-z])"
            cleaned = re.sub(whole, REMOVED, cleaned)
        return cleaned

    def clean_record(self, record: S) -> S:
        """Return a record all of whose texts are clean, but those that the schema spells out.

        A signature is left as it is: base64 may look like a path or hold a short name, and samclip
        writes all of it.
        """
        changed = {
            field.name: self._clean(getattr(record, field.encode_name), field.type)
            for field in msgspec.structs.fields(record)
        }
        return type(record)(**changed)

    def _clean(self, value: Any, declared: Any) -> Any:
        if isinstance(value, str):
            return value if _is_literal(declared) else self.clean(value)
        if isinstance(value, msgspec.Struct):
            return value if isinstance(value, Signature) else self.clean_record(value)
        if isinstance(value, tuple):
            return tuple(self._clean(item, None) for item in value)
        if isinstance(value, dict):
            return {self.clean(key): self._clean(item, None) for key, item in value.items()}
        return value


def find_private(files: MachineFiles | None = None) -> Privacy:
    """List what must not be in a record that this machine and this user make."""
    files = MachineFiles() if files is None else files
    found = {text.strip() for text in (*_people(), *_hosts(files), *_numbers(files))}
    known = {text for text in found if len(text) >= SHORTEST and text.lower() not in NOBODY}
    return Privacy(tuple(sorted(known, key=lambda text: (-len(text), text))))


def _people() -> Iterator[str]:
    for name in USER_VARIABLES:
        yield os.environ.get(name, "")
    with contextlib.suppress(KeyError, OSError):  # a user without an entry, as in containers
        yield getpass.getuser()
    home = os.path.expanduser("~")  # noqa: PTH111 - raises nothing where there is no home
    yield from (home if Path(home).is_absolute() else "", Path(home).name)


def _hosts(files: MachineFiles) -> Iterator[str]:
    for name in (platform.node(), files.text("/etc/hostname")):
        yield name
        yield name.partition(".")[0]


def _numbers(files: MachineFiles) -> Iterable[str]:
    addresses = (f"{network}/address" for network in files.folders(NETWORKS))
    return (files.text(name) for name in (*SERIALS, *addresses))


def _keep_common(match: re.Match[str]) -> str:
    return match[0] if match[0].startswith(KEPT_PATHS) else REMOVED


def _is_literal(declared: Any) -> bool:
    """Whether a type is a choice of words, or none at all."""
    if get_origin(declared) is Literal:
        return True
    parts = [part for part in get_args(declared) if part is not type(None)]
    return bool(parts) and all(get_origin(part) is Literal for part in parts)
