"""Texts of every kind that a vocabulary may hold, the same on every run."""

from __future__ import annotations

import random

SPECIAL = [
    "",
    " ",
    "<|startoftext|>",
    "<|endoftext|>",
    "a <|endoftext|> b",
    "<start_of_text>",
    "<end_of_text>",
    "<START_OF_TEXT>",
    "a<start_of_text>b",
    "a <end_of_text><start_of_text> b",
    "!<start_of_text>",
    "'s<end_of_text>",
    "<\u017ftart_of_text><end_of_text>",
    "<start_of_text",
    "</w>",
    "cat</w> dog</w>",
    "\u0345",
    "a\u0345b !\u0345<end_of_text>",
    "x" * 10_000,
    "a cat's " * 1_250,
    "\U0001f600" * 2_500,
    "\u4e2d" * 5_000,
    "word " * 75,
    "word " * 74,
    "\ud83d\ude00 written as a surrogate pair",
    "{}",
    "\x00",
    "\ufeff",
]
# fmt: off
# Contractions in either case, digits, punctuation.
ENGLISH = [
    'a', 'photo', 'of', 'the', "cat's", "dogs'", "I'll", "they've", "we're", "DON'T", "Can't",
    "I'M", "he'd", "rock'n'roll", "o'clock", 'x-ray', 'C++', 'f(x)=2', '100%', '$3.50', '1,000',
    '3rd', '24/7', '#tag', '@name', 'e-mail!', 'what?!', '(kite)', '[sic]', '"quoted"', 'it...',
    'snake_case', 'a/b\\c', '~tilde', '`tick`', '^hat', 'semi;colon', '<b>bold</b>', "'''",
    '\u2018s', '\u2019s', '\u201cq\u201d', '\u2026'
]
LETTERS = [
    'caf\xe9', 'cafe\u0301', 'na\xefve', 'stra\xdfe', '\u0130stanbul', '\u0131', '\u03a3',
    '\u039f\u0394\u039f\u03a3', '\u0390', '\u01c5', '\u212a\u212b', '\ufb01n', '\ufb06', '\ufb05',
    '\uff21\uff22\uff43', '\U0001d400\U0001d401', '\u2167', '\xbd', '\u0663\u0664', '\xb2',
    '\u4e2d\u6587', '\u65e5\u672c\u8a9e\u306e\u5199\u771f', '\ud55c\uad6d\uc5b4',
    '\u0627\u0644\u0639\u0631\u0628\u064a\u0629', '\u0939\u093f\u0928\u094d\u0926\u0940',
    '\u0e20\u0e32\u0e29\u0e32', '\u05e2\u05d1\u05e8\u05d9\u05ea', '\u0433\u0440\u0430\u0434',
    '\u12a0\u121b\u122d\u129b', '\u1780\u17d2\u1798'
]
# fmt: on
SIGNS = [
    "\U0001f600",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",  # a family, joined by ZWJ
    "\U0001f3f3\ufe0f\u200d\U0001f308",
    "\U0001f44d\U0001f3fd",
    "\U0001f1e9\U0001f1ea",
    "1\ufe0f\u20e3",
    "\u2764\ufe0f",
    "\u20ac\u00a3\u00a5",
    "\u00b0\u00b1\u00d7",
    "\u266b",
    "\ufffd",
    "\ue000",
]
# Entities, some of them double or unknown, and UTF-8 that was decoded as Latin-1.
# fmt: off
MARKUP = [
    '&amp;', '&lt;b&gt;', '&amp;lt;', '&#39;', '&#x1F600;', '&eacute;', '&nbsp;', '&shy;',
    '&bogus;', '&amp;amp;lt;', '&#xD800;', '&#0;', '&copy2024', '\xc3\xa9', '\xe2\u20ac\u2122',
    '\xe2\u20ac\u0153', '\xc3\xa9t\xc3\xa9', '\xe2\u20ac\u0153'
]
CONTROL = [
    '\t', '\n', '\r', '\x07', '\x0b', '\x1b', '\x1c', '\x1f', '\x7f', '\x85', '\xa0', '\xad',
    '\u200b', '\u200e', '\u2028', '\u3000', '\r\n', '  ', '\x1b[31m'
]
# fmt: on
POOLS = (ENGLISH, LETTERS, SIGNS, MARKUP, CONTROL, SPECIAL[:16])


def corpus(count: int = 2_400) -> list[str]:
    """The special texts, each piece alone, and random joins of pieces: `count` texts."""
    chooser = random.Random(20240229)
    texts = [*SPECIAL, *(piece for pool in POOLS for piece in pool)]
    while len(texts) < count:
        pools = chooser.choices(POOLS, weights=(8, 4, 3, 3, 2, 1), k=chooser.randint(1, 12))
        separators = chooser.choice([("", " "), (" ",), ("",), (" ", "  ", "-")])
        texts.append("".join(chooser.choice(p) + chooser.choice(separators) for p in pools))
    return texts
