from __future__ import annotations

import numpy as np
import pytest

from samclip.errors import InputWarning, VocabularyError
from samclip.export.checkpoints.text_source import clip_tokenizer_json
from samclip.runtime.assets import packaged_bundles
from samclip.runtime.text.losses import Loss, find_same_rows, find_unknown_parts, warn_losses
from samclip.runtime.text.tokenizer import Tokenizer
from samclip.runtime.text.vocabulary import unit_rows


@pytest.fixture(scope="module")
def clip() -> Tokenizer:
    return Tokenizer.from_bytes(clip_tokenizer_json(), 77)


@pytest.fixture(scope="module")
def bert() -> Tokenizer:
    return Tokenizer.from_bytes(
        (packaged_bundles() / "samclip-tiny" / "tokenizer.json").read_bytes(), 64
    )


@pytest.mark.parametrize(
    ("text", "known", "lost"),
    [
        ("a cat", True, ()),
        ("naïve cafe\u0301 ế Ё ό", True, ()),  # the tower was trained without these accents
        ("cat\tdog\u200b", True, ()),
        ("สุนัข", False, ("สุนัข",)),
        ("🐶", False, ("🐶",)),
        ("x" * 101, False, ("x" * 101,)),
        ("a 🐶 and a 🐶🐱", True, ("🐶", "🐶🐱")),
        ("कुत्ता", True, ("ु", "्")),
        ("が", True, ("が",)),
        ("caf\ufffd", True, ("\ufffd",)),
        ("cat \ue000", True, ("\ue000",)),
        ("a\0cat", True, ("\0",)),
        ("don\u0080\u0099t", True, ("\u0080", "\u0099")),
        ("\u0301", False, ()),
    ],
)
def test_bert_tells_what_it_lost(
    bert: Tokenizer, text: str, known: bool, lost: tuple[str, ...]
) -> None:
    reading = bert.read(text)
    assert (reading.known > 0, reading.lost) == (known, lost)


@pytest.mark.parametrize(
    ("text", "known", "lost"),
    [
        ("a cat", True, ()),
        ("สุนัข 🐶 猫 \ue000", True, ()),  # bytes have tokens
        ("don\u00e2\u0080\u0099t", True, ()),  # mojibake is mended
        ("a\0cat", True, ("\0",)),
        ("<end_of_text>", False, ("<end_of_text>",)),
        ("cat <end_of_text> dog", True, ("<end_of_text>",)),
    ],
)
def test_clip_knows_every_byte(
    clip: Tokenizer, text: str, known: bool, lost: tuple[str, ...]
) -> None:
    reading = clip.read(text)
    assert (reading.known > 0, reading.lost) == (known, lost)


def test_a_template_does_not_hide_an_unknown_name(bert: Tokenizer) -> None:
    assert find_unknown_parts(["cat"], ["a {}."], bert) == {"cat": ()}
    assert find_unknown_parts(["cat"], ["ein 猫 {}."], bert) == {"cat": ("猫",)}
    with pytest.raises(VocabularyError, match="knows nothing of '🐶', '猫'") as caught:
        find_unknown_parts(["🐶", "cat", "猫"], ["a photo of a {}."], bert)
    assert "cat" not in str(caught.value)
    with pytest.raises(VocabularyError, match="62 tokens before the name"):
        find_unknown_parts(["cat"], ["very " * 62 + "{}"], bert)


def test_one_warning_names_a_few_of_many(recwarn: pytest.WarningsRecorder) -> None:
    warn_losses({f"name {number}": Loss(("🐶",), number > 1) for number in range(9)}, 64)
    warn_losses({}, 64)
    unknown, cut = (str(warning.message) for warning in recwarn)
    assert "no token for '🐶'" in unknown
    assert "'name 0', 'name 1', 'name 2' and 6 more" in unknown
    assert "'name 2', 'name 3', 'name 4' and 4 more" in cut
    assert "64 tokens" in cut
    assert all(warning.category is InputWarning for warning in recwarn)


@pytest.mark.parametrize("width", [3, 384])
def test_same_rows_are_found_in_spite_of_rounding(width: int) -> None:
    generator = np.random.default_rng(width)
    rows = unit_rows(generator.standard_normal((2_000, width)).astype(np.float32))
    assert find_same_rows(rows) == []
    chosen = [(3, 7), (3, 1_999), (20, 21)]
    for first, later in chosen:
        rows[later] = rows[first]
        rows[later, 0] += 1e-7
    assert sorted(find_same_rows(rows)) == sorted(chosen)
    assert find_same_rows(np.repeat(rows[:1], 5_000, axis=0)) == [(0, n) for n in range(1, 5_000)]
    assert find_same_rows(rows[:1]) == []
