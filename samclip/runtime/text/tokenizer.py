"""Tokenizers of texts: CLIP's, equal to open_clip's `SimpleTokenizer`, BERT's, and Gemma's.

The `tokenizers` library does the encoding, from the bundle's `tokenizer.json`. Texts for CLIP are
cleaned first (Radford et al. 2021, released code): `ftfy`, HTML entities, white space, lower case.
Ids differ from open_clip's only for characters that Unicode assigned after the tables of the
installed `tokenizers` were made. BERT's file does its own cleaning. SigLIP 2's tower has Gemma's
tokenizer, and reads texts in a canonical form (`canonicalise`).

What of a text gets no token is found by the places in the text that the library gives for each
token: characters of other scripts, emoji, control characters, and marks that belong to letters.
"""

from __future__ import annotations

import html
import re
import string
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from samclip.errors import BundleError, VocabularyError
from samclip.library_errors import is_library_error
from samclip.runtime.text.tokenizer_file import (
    END,
    SPECIAL,
    START,
    TokenizerFile,
    read_tokenizer_file,
    refused,
)

DEFAULT_CONTEXT_LENGTH = 77
MAX_CHARACTERS = 100_000  # of one text: cleaning a longer one takes seconds
# Names of the tokens around a text: in open_clip, by OpenAI and Hugging Face, in BERT.
CLIP_NAMES = ((START, END), ("<|startoftext|>", "<|endoftext|>"))
BERT_NAMES = ("[CLS]", "[SEP]")
GEMMA_END, GEMMA_PAD = "<eos>", "<pad>"  # it has no start token in SigLIP 2's texts
PUNCTUATION = str.maketrans("", "", string.punctuation)
LONE_SURROGATE = re.compile(
    "[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]"
)
SPECIAL_RUN = re.compile(rf"(?:\A|(?<=[^\W_]|[\s\u0345]))((?:{SPECIAL})+)")
SPECIAL_NAME = re.compile(SPECIAL)
# Characters of Unicode's category Cc but white space. In mojibake those from U+0080 on are parts of
# letters, which CLIP's cleaning restores.
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
ALL_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# Unicode's categories of marks on letters, and of white space and what is not seen.
MARKS = frozenset({"Mn", "Me"})
UNSEEN = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf"})
LAST_ACCENTED = "\u052f"  # the last letter of Latin, Greek and Cyrillic scripts, without accents


def clean_text(text: str) -> str:
    """Clean a text as open_clip does by default: fix, unescape, collapse white space, lower.

    Raises VocabularyError as `check_text` does.
    """
    import ftfy  # noqa: PLC0415 - only texts need it

    check_text(text)
    fixed = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(fixed.split()).lower()


def canonicalise(text: str) -> str:
    """Return a text in the form that SigLIP is trained with: `canonicalize_text` of big_vision.

    Underscores become spaces, ASCII punctuation is dropped, letters become lower case, and white
    space one space. Raises VocabularyError as `check_text` does.
    """
    plain = _join_surrogates(text).replace("_", " ").translate(PUNCTUATION)
    return " ".join(plain.lower().split())


def check_text(text: str) -> None:
    """Check that a text is a str of at most MAX_CHARACTERS without lone surrogates.

    Lone surrogates stem from bytes that were decoded wrongly. Raises VocabularyError.
    """
    if not isinstance(text, str):
        raise VocabularyError(
            f"every text must be a string, got {type(text).__name__}; pass a list of strings"
        )
    if len(text) > MAX_CHARACTERS:
        raise VocabularyError(
            f"the text {text[:40]!a}... has {len(text):,} characters, at most "
            f"{MAX_CHARACTERS:,} are accepted; shorten it"
        )
    if found := LONE_SURROGATE.search(text):
        raise VocabularyError(
            f"the text {text[:40]!a} holds a lone surrogate at position {found.start()}: it "
            "was decoded from bytes wrongly; decode it as UTF-8"
        )


@dataclass(frozen=True)
class Reading:
    """A tokenizer's view of one text: `known` tokens that stand for parts of it, `lost` parts."""

    known: int
    lost: tuple[str, ...]


@dataclass(frozen=True)
class Frame:
    """The tokens around a text: `start` (Gemma's has none), `end`, and `pad` behind it."""

    kind: Literal["clip", "bert", "gemma"]
    start: tuple[int, ...]
    end: int
    pad: int = 0


class Tokenizer:
    """Turns texts into token ids; may be called from several threads at once.

    `frame`: the tokens around a text; `canonical`: whether texts are canonicalised instead of
    cleaned; `file`: the checked file that `backend` was made from.
    """

    def __init__(
        self, backend: Any, context_length: int, frame: Frame, canonical: bool, file: TokenizerFile
    ) -> None:
        self.context_length = context_length
        self._backend = backend
        self._frame = frame
        self._is_clip = frame.kind == "clip"
        self._canonical = canonical
        self._unknown = None if file.unknown is None else backend.token_to_id(file.unknown)
        self._strips_accents = file.strips_accents

    @property
    def is_gemma(self) -> bool:
        """Whether the special tokens are Gemma's: an end, and none before a text."""
        return self._frame.kind == "gemma"

    @property
    def room(self) -> int:
        """The number of tokens that a text may have between start and end."""
        return self.context_length - len(self._frame.start) - 1

    @classmethod
    def from_bytes(
        cls,
        tokenizer_json: bytes,
        context_length: int = DEFAULT_CONTEXT_LENGTH,
        canonical: bool = False,
    ) -> Tokenizer:
        """Read a `tokenizer.json` of the `tokenizers` library.

        `canonical`: canonicalise texts first, as the bundle's manifest says. Raises BundleError
        when the file cannot be read, asks for more than `tokenizer_file` accepts, or has the
        special tokens neither of CLIP, nor of BERT, nor of Gemma.
        """
        import tokenizers  # noqa: PLC0415 - only texts need it

        if context_length < 2:
            raise BundleError(
                f"context_length is {context_length}, expected 2 or more; export the bundle again"
            )
        file = read_tokenizer_file(tokenizer_json)
        try:
            backend = tokenizers.Tokenizer.from_str(file.content)
        except BaseException as error:
            if not _is_of_library(error):
                raise
            raise refused(str(error)) from error
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # so that a name cannot smuggle them in
        return cls(backend, context_length, _find_frame(backend, file), canonical, file)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Tokenize N texts to N x context_length ids, int64, padded with 0 (Gemma's `<pad>`).

        A text that is too long is cut; its last id is the end token all the same. Raises
        VocabularyError for anything but a sequence of usable strings.
        """
        return self.tokenize(texts)[0]

    def tokenize(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokenize N texts as calling does; also return how many ids each has when it is not cut.

        The ids are N x context_length int64, the numbers N int64, start and end counted. Raises
        VocabularyError.
        """
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise VocabularyError(
                f"expected a sequence of texts, got {type(texts).__name__}; pass a list of strings"
            )
        frame = self._frame
        ids = np.full((len(texts), self.context_length), frame.pad, np.int64)
        lengths = np.zeros(len(texts), np.int64)
        for index, text in enumerate(texts):
            tokens = [*frame.start, *self._pieces(text), frame.end]
            lengths[index] = len(tokens)
            if len(tokens) > self.context_length:
                tokens = [*tokens[: self.context_length - 1], frame.end]
            ids[index, : len(tokens)] = tokens
        return ids, lengths

    def read(self, text: str) -> Reading:
        """Find the parts of a text that no token stands for; raises VocabularyError.

        White space and invisible characters are not counted, nor are accents on letters of Latin,
        Greek and Cyrillic scripts, which uncased towers are trained without.
        """
        controls = CONTROLS if self._is_clip else ALL_CONTROLS
        known, lost = 0, controls.findall(text)
        if self.is_gemma:  # which spells what it does not know in bytes
            lost = []
        for part in self._parts(text):
            if self._is_clip and SPECIAL_NAME.match(part):  # the tower does not read on after it
                lost.append(part)
                continue
            encoding = self._encode(part)
            known += sum(token != self._unknown for token in encoding.ids)
            lost += self._find_lost(part, encoding)
        return Reading(known, tuple(dict.fromkeys(lost)))

    def _parts(self, text: str) -> list[str]:
        if self._canonical:
            return [canonicalise(text)]
        if self._is_clip:
            return SPECIAL_RUN.split(clean_text(text))
        return [_join_surrogates(text)]

    def _pieces(self, text: str) -> Iterator[int]:
        """Yield the ids of a text, which may contain the names of open_clip's special tokens."""
        for part in self._parts(text):
            if not self._is_clip or not SPECIAL_NAME.match(part):
                yield from self._encode(part).ids
                continue
            for name in SPECIAL_NAME.findall(part):
                special = {START: self._frame.start, END: (self._frame.end,)}.get(name)
                yield from self._encode(name).ids if special is None else special

    def _encode(self, text: str) -> Any:
        try:
            return self._backend.encode(text, add_special_tokens=False)
        except BaseException as error:
            if not _is_of_library(error):
                raise
            raise refused(f"it fails on the text {text[:40]!r}: {error}") from error

    def _find_lost(self, text: str, encoding: Any) -> list[str]:
        """Return the runs of characters that no known token covers, and marks that were dropped."""
        covered = bytearray(len(text))
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token != self._unknown:
                covered[start:end] = b"\1" * (end - start)
        if text.isascii() and covered.count(0) == sum(map(str.isspace, text)):
            return []
        runs: list[str] = []
        is_run, base = False, ""
        for place, character in enumerate(text):
            if unicodedata.category(character) not in MARKS:
                base = unicodedata.normalize("NFD", character)[0]
            is_lost = self._is_lost(character, base, bool(covered[place]))
            if is_lost and is_run:
                runs[-1] += character
            elif is_lost:
                runs.append(character)
            is_run = is_lost
        return runs

    def _is_lost(self, character: str, base: str, is_covered: bool) -> bool:
        """Whether a character, a mark on the letter `base` or that letter, is lost."""
        is_accented = base <= LAST_ACCENTED
        if is_covered:
            return self._strips_accents and not is_accented and _has_marks(character)
        category = unicodedata.category(character)
        return category not in UNSEEN and not (is_accented and category in MARKS)


def _is_of_library(error: BaseException) -> bool:
    """Whether `tokenizers` raised it; a panic of its Rust code is not an Exception."""
    return type(error).__name__ == "PanicException" or is_library_error(error, "tokenizers")


def _join_surrogates(text: str) -> str:
    """Check a text, and join its surrogate pairs; raises VocabularyError."""
    check_text(text)
    return text.encode("utf-16", "surrogatepass").decode("utf-16")


def _has_marks(character: str) -> bool:
    """Whether a letter is one with marks, such as a Japanese one with a sound mark."""
    parts = unicodedata.normalize("NFD", character)
    return len(parts) > 1 and any(unicodedata.category(part) in MARKS for part in parts)


def _find_frame(backend: Any, file: TokenizerFile) -> Frame:
    """Find the ids of the start and end token, and whose they are."""
    end, pad = map(backend.token_to_id, (GEMMA_END, GEMMA_PAD))
    if file.spells_bytes and end is not None and pad is not None:
        return Frame("gemma", (), end, pad)
    for names in (*CLIP_NAMES, BERT_NAMES):
        start, end = map(backend.token_to_id, names)
        if start is not None and end is not None:
            return Frame("clip" if names in CLIP_NAMES else "bert", (start,), end)
    raise BundleError(
        "the tokenizer file has no start and end token: expected "
        + " or ".join(f"{start} and {end}" for start, end in (*CLIP_NAMES, BERT_NAMES))
        + f", or Gemma's {GEMMA_END} and {GEMMA_PAD}; export the bundle again with a CLIP, BERT or "
        "SigLIP 2 text encoder"
    )
