from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fakes import fake_model, flag
from PIL import Image

from samclip.errors import InputError
from samclip.runtime.assets import packaged_font
from samclip.runtime.results.drawing import Label, draw_bars, write_labels
from samclip.runtime.results.lettering import (
    FONT_VARIABLE,
    MAX_LETTERS,
    load_font,
    write_caption,
    write_out,
)

GREY = np.full((60, 400, 3), 128, np.uint8)
DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@pytest.fixture(autouse=True)
def packaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FONT_VARIABLE, raising=False)


@pytest.mark.parametrize(
    "text",
    [
        "a cup of coffee, 12% #1 (new) [x] {y} \\ | ~",
        "Größe façade crème brûlée Łódź İstanbul çğış Őű ñ ø å æ þ",
        "đường phố ấm",
        "Кошка собака їжак ёлка Ђорђе",
        "Καφές ΆΈΉΊΌΎΏ ζεστός",
        "€ £ № “x” „y“ «z» \u2013 — … ™ © ± \xd7 ÷",
    ],
)
def test_latin_greek_and_cyrillic_are_written_as_they_are(text: str) -> None:
    assert write_out(text, 100) == text
    missing = load_font(24).getmask("\uffff")
    for letter in text.replace(" ", ""):
        mask = load_font(24).getmask(letter)
        assert mask.size != missing.size or bytes(mask) != bytes(missing), letter


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("杯", r"\u676f"),
        ("a 杯 b", r"a \u676f b"),
        ("\U0001f600", r"\U0001f600"),
        ("שלום", r"\u05e9\u05dc\u05d5\u05dd"),
        ("a\u202eb\u200bc\x00d\x1be", r"a\u202eb\u200bc\x00d\x1be"),
        ("a\udcffb\ud800c", r"a\xffb\ud800c"),
        ("two\nlines\tand \u3000 spaces", "two lines and spaces"),
        ("e\u0301", "é"),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_other_letters_are_escapes(text: str, shown: str) -> None:
    assert write_out(text) == write_caption(text) == shown


def test_long_texts_are_cut_between_letters_and_keep_their_number() -> None:
    assert write_out("x" * MAX_LETTERS) == "x" * MAX_LETTERS
    assert write_out("x" * 10**7) == "x" * (MAX_LETTERS - 1) + "…"
    assert write_out("杯" * 9, 20) == r"\u676f\u676f\u676f…"
    assert write_caption("杯" * 9 + " 87%") == r"\u676f" * 5 + "… 87%"
    assert write_caption("x" * 99 + " 3.5%") == "x" * 34 + "… 3.5%"
    assert write_caption("100%") == "100%"


def test_pictures_of_different_names_differ() -> None:
    """As long as letters that a font lacks were boxes, these were the same picture."""
    names = ("ü", "я", "ж", "杯", "茶", "…", "β")
    named = fake_model().encode(flag()).segment(boxes=[(5, 5, 190, 120)], names=["red"])
    drawn = {name: replace(named, vocabulary=(name,)).draw() for name in names}
    bars = {name: draw_bars(GREY, [(name, 1.0, "100%")]) for name in names}
    for pictures in (drawn, bars):
        assert len({picture.tobytes() for picture in pictures.values()}) == len(names)


def test_another_font(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text, label = "שלום Ж", Label("שלום Ж", (200, 30), (0, 0, 0))
    own = write_labels(GREY, [label])
    copied = tmp_path / "my font.ttf"
    shutil.copy(DEJAVU, copied)
    (tmp_path / "link.ttf").symlink_to(copied)
    for name in ("my font.ttf", "link.ttf"):
        monkeypatch.setenv(FONT_VARIABLE, str(tmp_path / name))
        assert write_out(text) == text
        assert load_font(12).getname()[0] == "DejaVu Sans"
        assert (write_labels(GREY, [label]) != own).any()
    monkeypatch.setenv(FONT_VARIABLE, "")
    assert load_font(12).getname()[0] == "Samclip Captions"
    np.testing.assert_array_equal(write_labels(GREY, [label]), own)


def test_fonts_that_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "text.ttf").write_text("no font")
    (tmp_path / "cut.ttf").write_bytes(packaged_font().read_bytes()[:500])
    os.mkfifo(tmp_path / "pipe.ttf")
    for name in ("text.ttf", "cut.ttf", "pipe.ttf", "none.ttf", "", "/dev/zero"):
        path = str(tmp_path / name)
        monkeypatch.setenv(FONT_VARIABLE, path)
        with pytest.raises(InputError, match=f"{re.escape(path)}.*{FONT_VARIABLE}"):
            write_labels(GREY, [Label("a", (5, 5), None)])


def test_the_packaged_font_is_small_and_free() -> None:
    assert packaged_font().stat().st_size < 150_000
    licence = packaged_font().with_name("OFL.txt").read_text("utf-8")
    assert "SIL OPEN FONT LICENSE Version 1.1" in licence
    assert "Source" not in " ".join(load_font(12).getname())  # a reserved name


def test_names_are_drawn_on_the_smallest_pictures() -> None:
    for size in ((1, 1), (3, 200)):
        image = np.zeros((*size, 3), np.uint8)
        drawn = write_labels(
            image, [Label("杯" * 99, (0, 0), (9, 9, 9)), Label("\n", (0, 0), None)]
        )
        assert Image.fromarray(drawn).size == size[::-1]
