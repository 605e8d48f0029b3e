"""Tokenizers of texts: CLIP's, equal to open_clip's `SimpleTokenizer`, and BERT's.

The `tokenizers` library does the encoding, from the bundle's `tokenizer.json`. Texts for CLIP are
cleaned first (Radford et al. 2021, released code): `ftfy`, HTML entities, white space, lower case.
Ids differ from open_clip's only for characters that Unicode assigned after the tables of the
installed `tokenizers` were made. BERT's file does its own cleaning.
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
MAX_CHARACTERS = 100_000  # of one text: cleaning a longer one takes seconds
START, END = "<start_of_text>", "<end_of_text>"
# Names of the tokens around a text: in open_clip, by OpenAI and Hugging Face, in BERT.
CLIP_NAMES = ((START, END), ("<|startoftext|>", "<|endoftext|>"))
BERT_NAMES = ("[CLS]", "[SEP]")
LONE_SURROGATE = re.compile(
    "[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]"
)
# open_clip lets a text name the special tokens, but sees them only where its pattern starts a new
# piece: not right after punctuation. Ignoring case makes the long s an s, and drops U+0345.
SPECIAL = re.compile("<[s\u017f]tart_of_text>|<end_of_text>")
SPECIAL_RUN = re.compile(rf"(?:\A|(?<=[^\W_]|[\s\u0345]))((?:{SPECIAL.pattern})+)")


def clean_text(text: str) -> str:
    """Clean a text as open_clip does by default: fix, unescape, collapse white space, lower.

    Raises VocabularyError as `check_text` does.
    """
    import ftfy  # noqa: PLC0415 - only texts need it

    check_text(text)
    fixed = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(fixed.split()).lower()


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


class Tokenizer:
    """Turns texts into token ids; may be called from several threads at once.

    `special`: the ids of the start and end token; `is_clip`: whether they are CLIP's, else BERT's.
    """

    def __init__(
        self, backend: Any, context_length: int, special: tuple[int, int], is_clip: bool = True
    ) -> None:
        self.context_length = context_length
        self._backend = backend
        self._is_clip = is_clip
        self._start, self._end = special

    @classmethod
    def from_bytes(
        cls, tokenizer_json: bytes, context_length: int = DEFAULT_CONTEXT_LENGTH
    ) -> Tokenizer:
        """Read a `tokenizer.json` of the `tokenizers` library.

        Raises BundleError when it cannot be read, or has neither CLIP's start and end tokens nor
        BERT's.
        """
        import tokenizers  # noqa: PLC0415 - only texts need it

        if context_length < 2:
            raise BundleError(
                f"context_length is {context_length}, expected 2 or more; export the bundle again"
            )
        try:
            backend = tokenizers.Tokenizer.from_str(tokenizer_json.decode("utf-8"))
        except Exception as error:  # the library raises nothing more precise
            raise BundleError(
                f"the tokenizer file cannot be used ({error}); export the bundle again"
            ) from error
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # so that a name cannot smuggle them in
        return cls(backend, context_length, *_special_ids(backend))

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Tokenize N texts to N x context_length ids, int64, zero-padded.

        A text that is too long is cut; its last id is the end token all the same. Raises
        VocabularyError for anything but a sequence of usable strings.
        """
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise VocabularyError(
                f"expected a sequence of texts, got {type(texts).__name__}; pass a list of strings"
            )
        ids = np.zeros((len(texts), self.context_length), np.int64)
        for row, text in zip(ids, texts, strict=True):
            pieces = self._clip_pieces(text) if self._is_clip else self._bert_pieces(text)
            tokens = [self._start, *pieces, self._end]
            if len(tokens) > self.context_length:
                tokens = [*tokens[: self.context_length - 1], self._end]
            row[: len(tokens)] = tokens
        return ids

    def _clip_pieces(self, text: str) -> Iterator[int]:
        """Yield the ids of a text, which may contain the names of open_clip's special tokens."""
        for part in SPECIAL_RUN.split(clean_text(text)):
            if not SPECIAL.match(part):
                yield from self._encode(part)
                continue
            for name in SPECIAL.findall(part):
                special = {START: self._start, END: self._end}.get(name)
                yield from self._encode(name) if special is None else (special,)

    def _bert_pieces(self, text: str) -> list[int]:
        check_text(text)
        joined = text.encode("utf-16", "surrogatepass").decode("utf-16")  # joins surrogate pairs
        return self._encode(joined)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids


def _special_ids(backend: Any) -> tuple[tuple[int, int], bool]:
    """Find the ids of the start and end token, and whether they are CLIP's."""
    for names in (*CLIP_NAMES, BERT_NAMES):
        start, end = map(backend.token_to_id, names)
        if start is not None and end is not None:
            return (start, end), names in CLIP_NAMES
    raise BundleError(
        "the tokenizer file has no start and end token: expected "
        + " or ".join(f"{start} and {end}" for start, end in (*CLIP_NAMES, BERT_NAMES))
        + "; export the bundle again with a CLIP or BERT text encoder"
    )
