"""CLIP's `tokenizer.json`, built from its byte-pair merges.

The merges are data of OpenAI's CLIP (MIT licence, `bpe_simple_vocab_16e6.txt`); of the 262,144
published there, the 48,894 that CLIP uses are kept.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from samclip.runtime.text.tokenizer import END, SPECIAL, START

MERGES_FILE = Path(__file__).parent / "assets" / "clip_bpe_merges.txt.gz"
MERGE_COUNT = 49152 - 256 - 2
END_OF_WORD = "</w>"
# CLIP's pattern, which ignores case: on lower-cased text only the long s (U+017F) has a case left,
# and U+0345, whose upper case is a letter, belongs nowhere and falls out.
WORDS = (
    SPECIAL.pattern
    + "|'[s\u017f]|'t|'re|'ve|'m|'ll|'d|"
    + r"\p{L}+|\p{N}|[^\s\p{L}\p{N}"
    + "\u0345]+"
)


def read_merges(file: Path = MERGES_FILE) -> list[tuple[str, str]]:
    """Read the merges, most frequent first."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        pairs = [line.split() for line in lines]
    return [(left, right) for left, right in pairs]


def clip_vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """Give each token CLIP's id: bytes, bytes that end a word, merges, special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [
        *alphabet,
        *(byte + END_OF_WORD for byte in alphabet),
        *(left + right for left, right in merges),
        START,
        END,
    ]
    return {token: number for number, token in enumerate(tokens)}


def clip_tokenizer_json() -> bytes:
    """Build `tokenizer.json` for texts that the runtime has cleaned (its tokenizer's `clean_text`).

    The file is in the format of the `tokenizers` library, which adds the start and end tokens when
    asked for special tokens.
    """
    merges = read_merges()
    vocabulary = clip_vocabulary(merges)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix=END_OF_WORD))
    tokenizer.pre_tokenizer = _words()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(name, vocabulary[name]) for name in (START, END)],
    )
    return tokenizer.to_str().encode("utf-8")


def _words() -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
