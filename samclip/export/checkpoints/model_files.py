"""The JSON files that lie next to weights and say what the weights do not: read, or absent."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from samclip.disk.user_files import read_user_file
from samclip.errors import CheckpointError

MAX_JSON_BYTES = 2**25  # tokenizer.json of the largest vocabularies has 17 MB

Json = dict[str, object]
Value = TypeVar("Value")


def read_json(folder: Path, name: str) -> Json | None:
    """Read a JSON object from a model's folder; None if there is no such file.

    Raises CheckpointError for a file that is damaged, too large, or not an object.
    """
    return _read(folder / name, Json)


def read_json_list(folder: Path, name: str) -> list[Json]:
    """Read a list of JSON objects, as `read_json`; empty if there is no such file."""
    return _read(folder / name, list[Json]) or []


def _read(file: Path, kind: type[Value]) -> Value | None:
    if not file.exists():
        return None
    data = read_user_file(file, MAX_JSON_BYTES, "the model's settings", CheckpointError)
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(
            f"{file} next to the weights is not valid JSON: {error}; download it again"
        ) from error


def table(content: Json | None, key: str) -> Json:
    """Return the object under a key; an empty one where there is none."""
    found = None if content is None else content.get(key)
    return found if isinstance(found, dict) else {}


def require_settings(content: Json, supported: Json, where: str, advice: str) -> None:
    """Check that settings which leave no trace in the weights have the only values supported.

    A setting that is missing or null has its format's default, which is supported. Raises
    CheckpointError naming the setting; `where` names the file, `advice` says what to give instead.
    """
    for key, expected in supported.items():
        found = content.get(key)
        allowed = expected if isinstance(expected, tuple) else (expected,)
        if found is not None and found not in allowed:
            raise CheckpointError(
                f"{where} says {key} = {ascii(found)[:60]}, and only "
                f"{' or '.join(map(ascii, allowed))} is supported. {advice}"
            )
