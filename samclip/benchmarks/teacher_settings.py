"""Settings of the teacher that a benchmark measures too, read from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from samclip.errors import InputError, did_you_mean


class TeacherSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A ConSE teacher: `classifier` and `text` are checkpoints by path or packaged name.

    `dense_size`: the side in pixels of the square that its pass over a whole image is made in; the
    others are those of `samclip.merge.teachers.conse.ConseOptions`.
    """

    classifier: str = "efficientnet_lite2"
    text: str = "minilm"
    top_k: int | None = 10
    temperature: float = 1.0
    centre: bool = False
    framing: Literal["whole", "centre"] = "whole"
    dense_size: int = 1024


def parse_teacher(pairs: Sequence[str]) -> TeacherSettings:
    """Read KEY=VALUE pairs, `none` for None.

    Raises InputError for an unknown key or a value of another type.
    """
    given: dict[str, str | None] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in TeacherSettings.__struct_fields__:
            known = TeacherSettings.__struct_fields__
            raise InputError(
                f"{pair!r:.60} is not a KEY=VALUE of a teacher{did_you_mean(key, known)}. "
                f"Keys: {', '.join(known)}."
            )
        given[key] = None if value == "none" else value
    try:
        return msgspec.convert(given, TeacherSettings, strict=False)
    except msgspec.ValidationError as error:
        raise InputError(f"--teacher-option: {error}. Give a value of that type.") from error
