"""The text space of a bundle: from names to vectors, with caches.

A name is put into every template. The prompts' embeddings, each of unit length, are averaged, and
the mean is scaled to unit length again (CLIP's zero-shot recipe, Radford et al. 2021, section
3.1.4). The tokenizer, the text encoder and the ready-made labels come from the bundle, see
`bundle_text`.
"""

from __future__ import annotations

import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from samclip.engines.limits import PROMPTS_PER_BATCH
from samclip.engines.steps import ExportBundle
from samclip.errors import (
    BundleError,
    CapabilityError,
    EngineRunError,
    VocabularyError,
    did_you_mean,
)
from samclip.runtime.text.losses import NO_LOSS, Loss, find_unknown_parts, warn_losses
from samclip.runtime.text.names import as_names, check_characters
from samclip.runtime.text.templates import fill, resolve_templates
from samclip.runtime.text.text_cache import TextCache, embedding_keys
from samclip.runtime.text.tokenizer import UNSEEN, Tokenizer, canonicalise, clean_text
from samclip.runtime.text.vocabulary import unit_rows

MEMORY_ROWS = 16_384  # 50 MB of 768-d vectors
SHOWN_NAMES = 5
MAX_PROMPTS = 4_000_000  # names, each in every template: 50,000 names in CLIP's 80
# The lengths that an embedding may have: squares of others leave float32.
MIN_LENGTH, MAX_LENGTH = 1e-12, 1e15
GRAPH, OUTPUT = "text_encoder", "text_embeddings"

T = TypeVar("T")
Vector = NDArray[np.float32]
Encode = Callable[[NDArray[np.int64]], NDArray[np.float32]]
GetTokenizer = Callable[[], Tokenizer]


@dataclass(frozen=True, eq=False)
class Embedded:
    """A name's vector, D float32 of length 1, and what the name lost on its way to it."""

    vector: Vector
    loss: Loss = NO_LOSS


Found = dict[bytes, Embedded]


class TextSpace:
    """Embeds names with one text tower; may be called from several threads at once.

    `encode` maps tokens N x context_length int64 to N x embed_dim float32; None without a text
    encoder. `tokenizer`: that of the encoder, or a function that returns it, called when the first
    name is computed. `space` identifies tower, tokenizer and the way of computing: it keys the
    cache. `templates` are the bundle's defaults, with which `precomputed` (name -> embed_dim
    float32) was made; `baked` has the like for other templates. `canonical`: names that are equal
    in SigLIP's canonical form have the same vector. The MEMORY_ROWS vectors that were used last
    stay in memory. `after` is called when names were computed, before others may be. Vectors of
    names that lost something (`losses`) are not kept on the disk, so that what is found there needs
    no tokenizer, and no warning.
    """

    def __init__(
        self,
        encode: Encode | None,
        tokenizer: Tokenizer | GetTokenizer | None,
        space: str,
        embed_dim: int,
        templates: tuple[str, ...],
        precomputed: Mapping[str, Vector] | None = None,
        cache: TextCache | None = None,
        canonical: bool = False,
        baked: Mapping[tuple[str, ...], Mapping[str, Vector]] | None = None,
        after: Callable[[], None] | None = None,
    ) -> None:
        self.space = space
        self.embed_dim = embed_dim
        self.templates = templates
        self._encode = encode
        self._after = after
        self._tokenizer = tokenizer
        made = {**(baked or {}), templates: precomputed or {}}
        self._ready = {
            own: vectors
            for own, named in made.items()
            if (vectors := _normalise_vectors(named, embed_dim))
        }
        self._clean = canonicalise if canonical else clean_text
        self._cleaned: dict[tuple[str, ...], dict[str, Vector]] = {}
        self._cache = cache
        self._memory = _Memory(MEMORY_ROWS)
        self._computing = threading.Lock()  # one at a time, so that a name is computed once

    def embed(
        self, names: Sequence[str], templates: str | Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """Embed K names: K x embed_dim float32, unit rows; None means the bundle's templates.

        Raises VocabularyError for names or templates that cannot be used, that are too many, or of
        which the tokenizer knows nothing; CapabilityError when there is no text encoder and some
        name has no ready-made vector; EngineRunError for an encoder whose output is not what it
        should be. Warns with InputWarning about names of which a part is lost.
        """
        names = as_names(names)
        check_characters(names)
        if blank := [number for number, name in enumerate(names) if _is_blank(name)]:
            raise VocabularyError(
                f"name {blank[0]} is blank: {names[blank[0]]!r:.60}; leave it out"
            )
        chosen = self.resolve(templates)
        if len(names) * len(chosen) > MAX_PROMPTS:
            raise VocabularyError(
                f"{len(names):,} names in {len(chosen):,} templates each are more than "
                f"{MAX_PROMPTS:,} texts. Use fewer templates, or fewer names."
            )
        keys = embedding_keys(self.space, chosen, names)
        wanted = dict(zip(keys, names, strict=True))
        found = self._find_ready_made(wanted, chosen) | self._memory.get(wanted)
        missing = {key: name for key, name in wanted.items() if key not in found}
        if missing:
            found |= self._supply(missing, chosen)
        self._warn(wanted, found)
        return np.stack([found[key].vector for key in keys])  # K, D

    def resolve(self, templates: str | Sequence[str] | None) -> tuple[str, ...]:
        """Return the sentences that `templates` stand for; None stands for the bundle's."""
        return self.templates if templates is None else resolve_templates(templates)

    def _warn(self, wanted: Mapping[bytes, str], found: Found) -> None:
        losses = {name: found[key].loss for key, name in wanted.items() if found[key].loss}
        if losses:
            warn_losses(losses, self._open_tokenizer().context_length)

    def _open_tokenizer(self) -> Tokenizer:
        """Return the tokenizer; call only while `_computing` is held, or after that."""
        if not isinstance(self._tokenizer, Tokenizer):
            if self._tokenizer is None:
                raise ValueError("no names are computed without a tokenizer")
            self._tokenizer = self._tokenizer()
        return self._tokenizer

    def _find_ready_made(self, wanted: Mapping[bytes, str], templates: tuple[str, ...]) -> Found:
        ready = self._ready.get(templates)
        if ready is None:
            return {}
        found = {key: ready[name] for key, name in wanted.items() if name in ready}
        if not self._has_encoder and len(found) < len(wanted):
            cleaned = self._clean_ready(templates)
            others = {key: self._clean(name) for key, name in wanted.items() if key not in found}
            found |= {key: cleaned[text] for key, text in others.items() if text in cleaned}
        return {key: Embedded(vector) for key, vector in found.items()}

    def _clean_ready(self, templates: tuple[str, ...]) -> Mapping[str, Vector]:
        """Return ready-made vectors by cleaned name: names that are equal then have the same."""
        if templates not in self._cleaned:
            ready = self._ready[templates]
            self._cleaned[templates] = {self._clean(name): row for name, row in ready.items()}
        return self._cleaned[templates]

    @property
    def _has_encoder(self) -> bool:
        return self._encode is not None and self._tokenizer is not None

    def _supply(self, missing: Mapping[bytes, str], templates: tuple[str, ...]) -> Found:
        """Find vectors that another thread has computed meanwhile, or on disk; compute the rest."""
        if self._encode is None or self._tokenizer is None:
            raise CapabilityError(
                self._refusal(list(missing.values()), templates),
                steps=(
                    ExportBundle((("text_checkpoint", None),)),
                    ExportBundle((("vocabulary", None),)),
                ),
            )
        with self._computing:
            found = self._memory.get(missing)
            found |= self._from_disk([key for key in missing if key not in found])
            left = {key: name for key, name in missing.items() if key not in found}
            if not left:
                return found
            tokenizer = self._open_tokenizer()
            for name in left.values():
                if not self._clean(name):
                    raise VocabularyError(
                        f"the name {name!r:.60} is blank once cleaned; leave it out"
                    )
            parts = find_unknown_parts(list(left.values()), templates, tokenizer)
            size = max(1, PROMPTS_PER_BATCH // len(templates))
            for chunk in _chunks(list(left), size):
                names = [left[key] for key in chunk]
                rows, is_cut = self._compute(names, templates, self._encode, tokenizer)
                losses = [
                    Loss(parts[name], bool(cut)) for name, cut in zip(names, is_cut, strict=True)
                ]
                # Copies, so that one vector kept does not keep its whole batch alive.
                computed = {
                    key: Embedded(row.copy(), loss)
                    for key, row, loss in zip(chunk, rows, losses, strict=True)
                }
                self._memory.put(computed)
                whole = {key: one.vector for key, one in computed.items() if not one.loss}
                if self._cache is not None and whole:
                    self._cache.put(whole)
                found |= computed
            if self._after is not None:
                self._after()
        return found

    def _from_disk(self, keys: Sequence[bytes]) -> Found:
        if self._cache is None or not keys:
            return {}
        stored = self._cache.get(keys)
        found = {key: Embedded(row) for key, row in stored.items() if self._is_vector(row)}
        self._memory.put(found)
        return found

    def _is_vector(self, row: Vector) -> bool:
        """Whether a row is what `_compute` gives: not so for one that another version stored."""
        return row.shape == (self.embed_dim,) and abs(float(row @ row) - 1) < 1e-3

    def _compute(
        self,
        names: Sequence[str],
        templates: tuple[str, ...],
        encode: Encode,
        tokenizer: Tokenizer,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Run the encoder for K names: K x D, unit rows, and K bool, whether a prompt is cut."""
        prompts = [fill(template, name) for name in names for template in templates]
        parts, lengths = [], []
        for batch in _chunks(prompts, PROMPTS_PER_BATCH):
            tokens, counts = tokenizer.tokenize(batch)
            parts.append(self._check_output(encode(tokens), len(batch)))
            lengths.append(counts)
        units = unit_rows(np.concatenate(parts))
        grouped = units.reshape(len(names), len(templates), self.embed_dim)  # K, templates, D
        is_cut = np.concatenate(lengths).reshape(len(names), -1).max(axis=1)
        rows = unit_rows(self._check_output(grouped.mean(axis=1), len(names)))
        return rows, is_cut > tokenizer.context_length

    def _check_output(self, rows: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        if rows.shape != (count, self.embed_dim):
            raise EngineRunError(
                f"the output {OUTPUT!r} of the graph {GRAPH!r} has shape {rows.shape}, expected "
                f"{(count, self.embed_dim)}; the bundle's parts do not fit: export it again"
            )
        rows = np.asarray(rows, np.float32)
        with np.errstate(over="ignore"):  # checked here
            lengths = np.linalg.norm(rows, axis=1)
        if not ((lengths >= MIN_LENGTH) & (lengths <= MAX_LENGTH)).all():  # NaN is neither
            raise EngineRunError(
                f"the output {OUTPUT!r} of the graph {GRAPH!r} has values that are not finite, or "
                "rows of zeros, or values beyond the range of embeddings; try another backend or "
                "precision"
            )
        return rows

    def _refusal(self, names: Sequence[str], templates: tuple[str, ...]) -> str:
        remedy = "export the bundle again with a text encoder, or with these names as vocabulary"
        if not self._ready:
            return f"this bundle has neither a text encoder nor a ready-made vocabulary; {remedy}"
        ready = self._ready.get(templates)
        if ready is None:
            own = len(self._ready)
            made = "its own templates" if own == 1 else f"{own} sets of templates"
            return (
                f"this bundle has no text encoder, and its vocabulary was made with {made}, not "
                f"with these; leave `templates` out, or {remedy}"
            )
        shown = ", ".join(f"{n!r:.60}{did_you_mean(n, ready)}" for n in names[:SHOWN_NAMES])
        more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
        return (
            f"this bundle has no text encoder, and none of the {len(ready)} names in its "
            f"vocabulary is {shown}{more}; {remedy}"
        )


class _Memory:
    """The embedded names that were used last by key, at most `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._found: OrderedDict[bytes, Embedded] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, keys: Iterable[bytes]) -> Found:
        with self._lock:
            found = {key: self._found[key] for key in keys if key in self._found}
            for key in found:
                self._found.move_to_end(key)
        return found

    def put(self, found: Found) -> None:
        with self._lock:
            self._found.update(found)
            while len(self._found) > self._limit:
                self._found.popitem(last=False)


def _is_blank(name: str) -> bool:
    """Whether nothing of a name can be seen: white space, controls, marks of direction."""
    if name.isprintable():
        return not name.strip()
    return all(unicodedata.category(character) in UNSEEN for character in name)


def _normalise_vectors(vectors: Mapping[str, Vector], embed_dim: int) -> dict[str, Vector]:
    rows = [np.asarray(vector, np.float32) for vector in vectors.values()]
    sound = [row.shape == (embed_dim,) and np.isfinite(row).all() and row.any() for row in rows]
    for name, is_sound in zip(vectors, sound, strict=True):
        if not is_sound:
            raise BundleError(
                f"the ready-made vector of {name!r:.60} is not {embed_dim} finite numbers, or is "
                "zero; export the bundle again"
            )
    return dict(zip(vectors, unit_rows(np.stack(rows)), strict=True)) if rows else {}


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
