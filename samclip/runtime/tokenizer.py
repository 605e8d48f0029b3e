"""CLIP's tokenizer: texts to token ids, equal to open_clip's `SimpleTokenizer`.

The byte-pair encoding is the `tokenizers` library's, from the bundle's `tokenizer.json`; the
cleaning before it is CLIP's (Radford et al. 2021, released code): `ftfy`, HTML entities, white
space, lower case. Ids differ from open_clip's only for characters that Unicode assigned after the
tables of the installed `tokenizers` were made.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.errors import BundleError, VocabularyError

DEFAULT_CONTEXT_LENGTH = 77
MAX_CHARACTERS = 100_000  # of one text; a longer one is no name, and cleaning it takes seconds
START, END = "<start_of_text>", "<end_of_text>"
# The names of the two special tokens: open_clip's, and OpenAI's and Hugging Face's.
SPECIAL_NAMES = ((START, END), ("<|startoftext|>", "<|endoftext|>"))
LONE_SURROGATE = re.compile(
    "[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]"
)
# open_clip lets a text name the special tokens, but sees them only where its pattern starts a new
# piece: not right after punctuation. Ignoring case makes the long s an s, and drops U+0345.
SPECIAL = re.compile("<[s\u017f]tart_of_text>|<end_of_text>")
SPECIAL_RUN = re.compile(rf"(?:\A|(?<=[^\W_]|[\s\u0345]))((?:{SPECIAL.pattern})+)")


def clean_text(text: str) -> str:
    """Clean a text as open_clip does by default: mend, unescape, collapse white space, lower.

    Raises VocabularyError for a text over MAX_CHARACTERS, and for lone surrogates, which stem
    from bytes that were decoded wrongly.
    """
    import ftfy  # noqa: PLC0415 - only texts need it

    if len(text) > MAX_CHARACTERS:
        raise VocabularyError(
            f"a text of {len(text):,} characters; at most {MAX_CHARACTERS:,} are accepted"
        )
    if found := LONE_SURROGATE.search(text):
        raise VocabularyError(
            f"the text {text[:40]!a} holds a lone surrogate at position {found.start()}: it "
            "was decoded from bytes wrongly; decode it as UTF-8"
        )
    mended = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(mended.split()).lower()


class Tokenizer:
    """Texts in, ids out; may be called from several threads at once."""

    def __init__(self, backend: Any, context_length: int, special: tuple[int, int]) -> None:
        self.context_length = context_length
        self._backend = backend
        self._start, self._end = special

    @classmethod
    def from_bytes(
        cls, tokenizer_json: bytes, context_length: int = DEFAULT_CONTEXT_LENGTH
    ) -> Tokenizer:
        """Read a `tokenizer.json` of the `tokenizers` library.

        Raises BundleError when it is none, or lacks CLIP's start and end tokens.
        """
        import tokenizers  # noqa: PLC0415 - only texts need it

        if context_length < 2:
            raise BundleError(f"context_length is {context_length}; expected 2 or more")
        try:
            backend = tokenizers.Tokenizer.from_str(tokenizer_json.decode("utf-8"))
        except Exception as error:  # the library raises nothing more precise
            raise BundleError(
                f"the tokenizer file cannot be used ({error}); export the bundle again"
            ) from error
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # texts cannot smuggle in OpenAI's special tokens
        return cls(backend, context_length, _special_ids(backend))

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Tokenize N texts to N x context_length ids, int64, zero-padded.

        A text that is too long loses its tail; its last id is the end token. Raises
        VocabularyError for anything but a sequence of usable strings.
        """
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise VocabularyError(
                f"expected a sequence of texts, got {type(texts).__name__}; pass a list of strings"
            )
        ids = np.zeros((len(texts), self.context_length), np.int64)
        for row, text in zip(ids, texts, strict=True):
            tokens = self._encode(text)
            row[: len(tokens)] = tokens
        return ids

    def _encode(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise VocabularyError(f"every text must be a string, got {type(text).__name__}")
        tokens = [self._start, *self._pieces(clean_text(text)), self._end]
        if len(tokens) > self.context_length:
            tokens = [*tokens[: self.context_length - 1], self._end]
        return tokens

    def _pieces(self, text: str) -> Iterator[int]:
        """Yield the ids of a cleaned text, without start and end."""
        for part in SPECIAL_RUN.split(text):
            if not SPECIAL.match(part):
                yield from self._plain(part)
                continue
            for name in SPECIAL.findall(part):
                special = {START: self._start, END: self._end}.get(name)
                yield from self._plain(name) if special is None else (special,)

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids


def _special_ids(backend: Any) -> tuple[int, int]:
    for start, end in SPECIAL_NAMES:
        ids = backend.token_to_id(start), backend.token_to_id(end)
        if None not in ids:
            return ids
    raise BundleError(
        "the tokenizer file has no start and end token: expected "
        + " or ".join(f"{start} and {end}" for start, end in SPECIAL_NAMES)
        + "; CLIP's tokenizer is the only kind supported"
    )
