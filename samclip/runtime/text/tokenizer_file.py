"""The file `tokenizer.json`, checked before the `tokenizers` library sees it.

The library allocates what its file asks for, runs the regular expressions that stand there, and
may end in a panic of its Rust code. So a file is read here first: only the components that
exporters write are accepted, and counts and lengths are bounded. The library gets the checked
content, written again, without the parts that samclip does not use: truncation, padding,
post-processor and decoder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from samclip.errors import BundleError

MAX_BYTES = 64 * 2**20  # CLIP's has 1.7 MB, Gemma's of 256,000 tokens 17 MB, or 34 if indented
MAX_TOKENS = 2**18
MAX_MERGES = 2**20  # Gemma's has 580,604: every way to put a token together is one
MAX_TOKEN_CHARACTERS = 512
MAX_ADDED_TOKENS = 1_000
MAX_STEPS = 8  # of a normalizer, or of a pre-tokenizer
MAX_DEPTH = 100
MAX_WORD_CHARACTERS = 200  # WordPiece's time grows with their square; BERT has 100

START, END = "<start_of_text>", "<end_of_text>"
# open_clip lets a text name the special tokens, but sees them only where its pattern starts a new
# piece: not right after punctuation. Ignoring case makes the long s an s, and drops U+0345.
SPECIAL = "<[s\u017f]tart_of_text>|<end_of_text>"
# CLIP's pattern, which ignores case. In lower-cased text that matters for two characters only: the
# long s (U+017F), and U+0345, whose upper case is a letter: no group matches it, it is dropped.
CLIP_WORDS = (
    SPECIAL + "|'[s\u017f]|'t|'re|'ve|'m|'ll|'d|" + r"\p{L}+|\p{N}|[^\s\p{L}\p{N}" + "\u0345]+"
)
# The only regular expressions that are run: a hostile one takes years on a short text. The others
# are those of Hugging Face's files for CLIP.
_SHARED = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
PATTERNS = frozenset({CLIP_WORDS, _SHARED, r"<\|startoftext\|>|<\|endoftext\|>|" + _SHARED, r"\s+"})
SPACE = " "  # the only plain text that is looked for: SentencePiece writes it as a letter

Token = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TOKEN_CHARACTERS)]
Affix = Annotated[str, msgspec.Meta(max_length=16)]
TokenId = Annotated[int, msgspec.Meta(ge=0, lt=MAX_TOKENS)]
Vocabulary = Annotated[dict[Token, TokenId], msgspec.Meta(max_length=MAX_TOKENS)]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the records of the file: frozen, unknown fields refused."""


class Component(Record, frozen=True, tag_field="type", tag=True):
    """Base of the records that the field `type` tells apart: it holds the class's name."""


class Pattern(Record, frozen=True, omit_defaults=True, rename={"regex": "Regex", "text": "String"}):
    """A regular expression, one of PATTERNS, or a text, which is SPACE."""

    regex: str | None = None
    text: str | None = None

    @property
    def is_known(self) -> bool:
        """Whether it is one of those that are run."""
        return (
            (self.regex in PATTERNS)
            if self.text is None
            else (self.text, self.regex) == (SPACE, None)
        )


class BertNormalizer(Component, frozen=True):
    """BERT's cleaning; without `strip_accents` accents go where letters become lower case."""

    clean_text: bool = True
    handle_chinese_chars: bool = True
    strip_accents: bool | None = None
    lowercase: bool = True


class NFC(Component, frozen=True):
    """Unicode's form NFC."""


class Lowercase(Component, frozen=True):
    """Lower case."""


class Replace(Component, frozen=True):
    """A pattern replaced by a text."""

    pattern: Pattern
    content: Annotated[str, msgspec.Meta(max_length=1)]


class Normalizers(Component, frozen=True, tag="Sequence"):
    """Normalizers, one after the other."""

    normalizers: Annotated[
        tuple[NFC | Lowercase | Replace | BertNormalizer, ...], msgspec.Meta(max_length=MAX_STEPS)
    ]


class BertPreTokenizer(Component, frozen=True):
    """Words and single punctuation marks."""


class Split(Component, frozen=True):
    """Pieces where a pattern matches, or with `invert` where it does not."""

    pattern: Pattern
    behavior: Literal["Removed", "Isolated", "MergedWithPrevious"]
    invert: bool


class ByteLevel(Component, frozen=True):
    """Bytes written as printable characters."""

    add_prefix_space: bool = True
    trim_offsets: bool = True
    use_regex: bool = True


class PreTokenizers(Component, frozen=True, tag="Sequence"):
    """Pre-tokenizers, one after the other."""

    pretokenizers: Annotated[
        tuple[Split | ByteLevel | BertPreTokenizer, ...], msgspec.Meta(max_length=MAX_STEPS)
    ]


class WordPiece(Component, frozen=True):
    """BERT's model; a word with a part that it lacks becomes `unk_token` as a whole."""

    vocab: Vocabulary
    unk_token: Token = "[UNK]"  # noqa: S105 - of a text, not a password
    continuing_subword_prefix: Affix = "##"
    max_input_chars_per_word: Annotated[int, msgspec.Meta(ge=1, le=MAX_WORD_CHARACTERS)] = 100


class BPE(Component, frozen=True):
    """Byte pairs; without randomness (`dropout`), and without a prefix, which can panic."""

    vocab: Vocabulary
    # Parts that the vocabulary lacks are the library's to refuse; msgspec 0.22 crashes on limits
    # inside this union.
    merges: Annotated[list[tuple[str, str] | str], msgspec.Meta(max_length=MAX_MERGES)]
    dropout: None = None
    unk_token: Token | None = None
    continuing_subword_prefix: Literal[""] | None = None
    end_of_word_suffix: Affix | None = None
    fuse_unk: bool = False
    byte_fallback: bool = False
    ignore_merges: bool = False


class AddedToken(Record, frozen=True):
    """A token that is found before any other."""

    id: TokenId
    content: Token
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    special: bool = False


class TokenizerJson(Record, frozen=True, kw_only=True):
    """All of the file; the fields of type Any are not used, and not passed on."""

    version: Literal["1.0"] = "1.0"
    truncation: Any = None
    padding: Any = None
    added_tokens: Annotated[list[AddedToken], msgspec.Meta(max_length=MAX_ADDED_TOKENS)] = []
    normalizer: BertNormalizer | NFC | Lowercase | Replace | Normalizers | None = None
    pre_tokenizer: BertPreTokenizer | Split | ByteLevel | PreTokenizers | None = None
    post_processor: Any = None
    decoder: Any = None
    model: WordPiece | BPE


@dataclass(frozen=True)
class TokenizerFile:
    """A checked file.

    `content`: what the `tokenizers` library gets; `unknown`: the token that stands for what the
    model does not know, None where nothing is unknown; `strips_accents`: whether accents and other
    combining marks are dropped; `spells_bytes`: whether what it does not know is spelt in bytes, as
    SentencePiece does; `largest_id`: of any token.
    """

    content: str
    unknown: str | None
    strips_accents: bool
    spells_bytes: bool
    largest_id: int


def read_tokenizer_file(data: bytes) -> TokenizerFile:
    """Check the bytes of a `tokenizer.json`; raises BundleError."""
    if len(data) > MAX_BYTES:
        raise refused(f"it has {len(data):,} bytes, at most {MAX_BYTES:,} are accepted")
    try:
        parsed = msgspec.json.decode(data, type=TokenizerJson)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise refused(str(error)) from error
    except RecursionError as error:
        if not _is_nested(data):  # the caller's own stack is at its end
            raise
        raise refused(f"its values are nested more than {MAX_DEPTH} deep") from error
    steps = [*_steps(parsed.normalizer), *_steps(parsed.pre_tokenizer)]
    for step in steps:
        if isinstance(step, Split | Replace) and not step.pattern.is_known:
            found = step.pattern.regex if step.pattern.text is None else step.pattern.text
            raise refused(f"its pattern {found!r:.60} is not one of CLIP's or SentencePiece's")
    unknown = parsed.model.unk_token
    if unknown is not None and unknown not in parsed.model.vocab:
        raise refused(f"its vocabulary lacks its unknown token {unknown!r:.60}")
    used = msgspec.structs.replace(
        parsed, truncation=None, padding=None, post_processor=None, decoder=None
    )
    return TokenizerFile(
        content=msgspec.json.encode(used).decode(),
        unknown=unknown,
        strips_accents=any(isinstance(s, BertNormalizer) and _strips(s) for s in steps),
        spells_bytes=isinstance(parsed.model, BPE) and parsed.model.byte_fallback,
        largest_id=max(
            [*parsed.model.vocab.values(), *(each.id for each in parsed.added_tokens)], default=0
        ),
    )


def refused(reason: str) -> BundleError:
    """Return the error of a file that cannot be used."""
    return BundleError(
        f"the tokenizer file cannot be used ({reason:.300}); export the bundle again"
    )


def _steps(component: object) -> tuple[object, ...]:
    if isinstance(component, Normalizers):
        return component.normalizers
    return component.pretokenizers if isinstance(component, PreTokenizers) else (component,)


def _is_nested(data: bytes) -> bool:
    """Whether JSON values lie more than MAX_DEPTH deep, brackets in strings counted as well."""
    depth = 0
    for found in re.finditer(rb"[][{}]", data):
        depth += 1 if found[0] in b"[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False


def _strips(cleaning: BertNormalizer) -> bool:
    return cleaning.lowercase if cleaning.strip_accents is None else cleaning.strip_accents
