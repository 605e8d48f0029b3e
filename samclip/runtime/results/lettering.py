"""The font of pictures, and texts in letters that it has.

The packaged font has Latin, Greek and Cyrillic letters. `SAMCLIP_FONT` names another font file.
"""

from __future__ import annotations

import io
import os
import re
import stat
import unicodedata
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from samclip.errors import InputError
from samclip.json_text import escape_match
from samclip.library_errors import is_library_error
from samclip.runtime.assets import packaged_font

FONT_VARIABLE = "SAMCLIP_FONT"
MAX_FONT_BYTES = 2**27  # fonts of all scripts are a fifth of that
MAX_LETTERS = 40  # of a caption
MAX_READ = 4096  # letters of a text that are looked at
NUMBER = re.compile(r"(?P<name>.*?)(?P<number> \d+(?:\.\d+)?%)?", re.DOTALL)
TEST_SIZE = 24  # pixels, at which glyphs are compared
NO_LETTER = "\uffff"  # not a character, so that no font has it
# Letters that move or hide others, and halves of letters.
UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\uffff]"
)

ANY = re.compile(".", re.DOTALL)

Font = ImageFont.FreeTypeFont


def load_font(size: int) -> Font:
    """Return the font with letters of `size` pixels.

    It is the file that `SAMCLIP_FONT` names, else the packaged one. Raises InputError when that
    file is not a font.
    """
    return _open_font(os.environ.get(FONT_VARIABLE, ""), size)


def write_out(text: str, most: int = MAX_LETTERS) -> str:
    r"""Return `text` in one line of at most `most` letters, all of which the font has.

    Others become escapes such as `\u676f`, which are never cut in two.
    """
    line = unicodedata.normalize("NFC", " ".join(text[:MAX_READ].split()))
    parts: list[str] = []
    used = 0
    for number, letter in enumerate(line):
        part = letter if has_letter(letter) else ANY.sub(escape_match, letter)
        rest = number + 1 < len(line)
        if used + len(part) + rest > most:
            return "".join(parts).rstrip() + "…"
        parts.append(part)
        used += len(part)
    return "".join(parts)


def write_caption(text: str) -> str:
    """Return `text` as `write_out` does, in `MAX_LETTERS`; a percentage at its end stays whole."""
    name, number = text, ""
    if len(text) <= MAX_READ and (found := NUMBER.fullmatch(text)):
        name, number = found["name"], found["number"] or ""
    return write_out(name, MAX_LETTERS - len(number)) + number


def has_letter(letter: str) -> bool:
    """Whether the font can show a letter, and it changes nothing around it."""
    if UNSAFE.match(letter):
        return False
    return letter.isascii() or _has_glyph(os.environ.get(FONT_VARIABLE, ""), letter)


@lru_cache(maxsize=16)
def _open_font(named: str, size: int) -> Font:
    try:
        return ImageFont.truetype(io.BytesIO(_load_bytes(named)), size)
    except (OSError, ValueError) as error:
        if not is_library_error(error, "PIL"):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{named or packaged_font()}, the font for pictures, cannot be used: {reason}. Let "
            f"{FONT_VARIABLE} name a TrueType or OpenType file, or unset it."
        ) from error


@lru_cache(maxsize=1)
def _load_bytes(named: str) -> bytes:
    """Read the font once for all sizes."""
    return _read_font(Path(os.path.expanduser(named)) if named else packaged_font())  # noqa: PTH111


def _read_font(path: Path) -> bytes:
    """Read a plain file of a bounded size; raises OSError, ValueError."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a plain file")
        data = file.read(MAX_FONT_BYTES + 1)
    if len(data) > MAX_FONT_BYTES:
        raise ValueError(f"it is larger than {MAX_FONT_BYTES:,} bytes")
    return data


@lru_cache(maxsize=4096)
def _has_glyph(named: str, letter: str) -> bool:
    """Whether a letter looks different from what the font shows for letters that it lacks."""
    font = _open_font(named, TEST_SIZE)
    shown, missing = (font.getmask(text) for text in (letter, NO_LETTER))
    return letter.isspace() or shown.size != missing.size or bytes(shown) != bytes(missing)
