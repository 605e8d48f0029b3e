"""The text space of a bundle: from names to vectors, with caches.

A name is put into every template. The prompts' embeddings, each of unit length, are averaged, and
the mean is scaled to unit length again (CLIP's zero-shot recipe, Radford et al. 2021, section
3.1.4). The tokenizer, the text encoder and the ready-made labels come from the bundle.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
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
    error_context,
)
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Text
from samclip.runtime.engine_pool import EnginePool
from samclip.runtime.text.templates import fill, resolve_templates
from samclip.runtime.text.text_cache import TextCache, embedding_keys
from samclip.runtime.text.tokenizer import Tokenizer, clean_text
from samclip.runtime.text.vocabulary import as_names, unit_rows

MEMORY_ROWS = 16_384  # 50 MB of 768-d vectors
SHOWN_NAMES = 5

T = TypeVar("T")
Vector = NDArray[np.float32]
Vectors = dict[bytes, Vector]
Encode = Callable[[NDArray[np.int64]], NDArray[np.float32]]


class TextSpace:
    """Embeds names with one text tower; may be called from several threads at once.

    `encode` maps tokens N x context_length int64 to N x embed_dim float32; None without a text
    encoder. `space` identifies the tower and keys every cache. `templates` are the bundle's
    defaults, with which `precomputed` (name -> embed_dim float32) was made. The MEMORY_ROWS
    vectors that were used last stay in memory.
    """

    def __init__(
        self,
        encode: Encode | None,
        tokenizer: Tokenizer | None,
        space: str,
        embed_dim: int,
        templates: tuple[str, ...],
        precomputed: Mapping[str, Vector] | None = None,
        cache: TextCache | None = None,
    ) -> None:
        self.space = space
        self.embed_dim = embed_dim
        self.templates = templates
        self._encoder = None if encode is None or tokenizer is None else (encode, tokenizer)
        self._ready = _normalise_vectors(precomputed or {}, embed_dim)
        self._cache = cache
        self._memory = _Memory(MEMORY_ROWS)
        self._computing = threading.Lock()  # one at a time, so that a name is computed once

    def embed(
        self, names: Sequence[str], templates: str | Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """Embed K names: K x embed_dim float32, unit rows; None means the bundle's templates.

        Raises VocabularyError for names or templates that cannot be used, CapabilityError when
        there is no text encoder and some name has no ready-made vector.
        """
        names = as_names(names)
        if blank := [number for number, name in enumerate(names) if not name.strip()]:
            raise VocabularyError(f"name {blank[0]} is blank: {names[blank[0]]!r}; leave it out")
        chosen = self.templates if templates is None else resolve_templates(templates)
        keys = embedding_keys(self.space, chosen, names)
        wanted = dict(zip(keys, names, strict=True))
        vectors = self._find_ready_made(wanted, chosen) | self._memory.get(wanted)
        missing = {key: name for key, name in wanted.items() if key not in vectors}
        if missing:
            vectors |= self._supply(missing, chosen)
        return np.stack([vectors[key] for key in keys])  # K, D

    def _find_ready_made(self, wanted: Mapping[bytes, str], templates: tuple[str, ...]) -> Vectors:
        if templates != self.templates or not self._ready:
            return {}
        found = {key: self._ready[name] for key, name in wanted.items() if name in self._ready}
        if self._encoder is not None or len(found) == len(wanted):
            return found
        # Without an encoder: names that are cleaned to the same text have the same vector.
        cleaned = {clean_text(name): vector for name, vector in self._ready.items()}
        others = {key: clean_text(name) for key, name in wanted.items() if key not in found}
        return found | {key: cleaned[text] for key, text in others.items() if text in cleaned}

    def _supply(self, missing: Mapping[bytes, str], templates: tuple[str, ...]) -> Vectors:
        """Find vectors that another thread has computed meanwhile, or on disk; compute the rest."""
        if self._encoder is None:
            raise CapabilityError(
                self._refusal(list(missing.values()), templates),
                steps=(
                    ExportBundle((("text_checkpoint", None),)),
                    ExportBundle((("labels", None),)),
                ),
            )
        with self._computing:
            vectors = self._memory.get(missing)
            vectors |= self._from_disk([key for key in missing if key not in vectors])
            left = [key for key in missing if key not in vectors]
            size = max(1, PROMPTS_PER_BATCH // len(templates))
            for chunk in _chunks(left, size):
                rows = self._compute([missing[key] for key in chunk], templates, *self._encoder)
                # Copies, so that one vector kept does not keep its whole batch alive.
                computed = {key: row.copy() for key, row in zip(chunk, rows, strict=True)}
                self._memory.put(computed)
                if self._cache is not None:
                    self._cache.put(computed)
                vectors |= computed
        return vectors

    def _from_disk(self, keys: Sequence[bytes]) -> Vectors:
        if self._cache is None or not keys:
            return {}
        stored = self._cache.get(keys)
        vectors = {key: row for key, row in stored.items() if row.shape == (self.embed_dim,)}
        self._memory.put(vectors)
        return vectors

    def _compute(
        self,
        names: Sequence[str],
        templates: tuple[str, ...],
        encode: Encode,
        tokenizer: Tokenizer,
    ) -> NDArray[np.float32]:
        """Run the encoder for K names: K x D, unit rows."""
        for name in names:
            if not clean_text(name):
                raise VocabularyError(f"the name {name!r:.60} is blank once cleaned; leave it out")
        prompts = [fill(template, name) for name in names for template in templates]
        parts = [
            self._check_output(encode(tokenizer(batch)), len(batch))
            for batch in _chunks(prompts, PROMPTS_PER_BATCH)
        ]
        units = unit_rows(np.concatenate(parts))
        grouped = units.reshape(len(names), len(templates), self.embed_dim)  # K, templates, D
        return unit_rows(self._check_output(grouped.mean(axis=1), len(names)))

    def _check_output(self, rows: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        if rows.shape != (count, self.embed_dim):
            raise EngineRunError(
                f"the text encoder gave shape {rows.shape}, expected {(count, self.embed_dim)}; "
                "the bundle's parts do not fit together: export it again"
            )
        if not np.isfinite(rows).all() or not rows.any(axis=1).all():
            raise EngineRunError(
                "the text encoder gave values that are not finite, or zero; try another backend "
                "or precision"
            )
        return np.asarray(rows, np.float32)

    def _refusal(self, names: Sequence[str], templates: tuple[str, ...]) -> str:
        remedy = "export the bundle again with a text encoder, or with these names as labels"
        if not self._ready:
            return f"this bundle has neither a text encoder nor ready-made labels; {remedy}"
        if templates != self.templates:
            return (
                "this bundle has no text encoder, and its labels were made with its own "
                f"templates; leave `templates` out, or {remedy}"
            )
        shown = ", ".join(f"{n!r:.60}{did_you_mean(n, self._ready)}" for n in names[:SHOWN_NAMES])
        more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
        return (
            f"this bundle has no text encoder, and none of its {len(self._ready)} labels is "
            f"{shown}{more}; {remedy}"
        )


class _Memory:
    """The vectors that were used last by key, at most `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._vectors: OrderedDict[bytes, Vector] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, keys: Mapping[bytes, str]) -> Vectors:
        with self._lock:
            found = {key: self._vectors[key] for key in keys if key in self._vectors}
            for key in found:
                self._vectors.move_to_end(key)
        return found

    def put(self, vectors: Vectors) -> None:
        with self._lock:
            self._vectors.update(vectors)
            while len(self._vectors) > self._limit:
                self._vectors.popitem(last=False)


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


def open_text_space(pool: EnginePool, text: Text, cache_dir: Path | None) -> TextSpace:
    """Build the text space that `text`, from the manifest of the pool's bundle, describes.

    The text encoder is loaded when the first name needs it. Raises BundleError.
    """

    def encode(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        (embeddings,) = pool.compute("text_encoder", {"tokens": tokens}, ("text_embeddings",))
        return embeddings

    space = text.space
    precision = pool.precision("text_encoder")
    if precision not in {None, "fp32"}:  # its cache is kept apart from that of FP32
        space = hashlib.sha256(f"{space} {precision}".encode()).hexdigest()
    with error_context(str(pool.bundle.path)):
        return TextSpace(
            encode=encode if pool.has("text_encoder") else None,
            tokenizer=_read_tokenizer(pool.bundle, text),
            space=space,
            embed_dim=text.embed_dim,
            templates=resolve_templates(text.templates),
            precomputed=_read_labels(pool.bundle, text),
            cache=TextCache(cache_dir),
        )


def _read_tokenizer(bundle: Bundle, text: Text) -> Tokenizer | None:
    if text.tokenizer is None:
        return None
    data = bundle.read(text.tokenizer)
    with error_context(f"{bundle.path}: {text.tokenizer}"):
        return Tokenizer.from_bytes(data, text.context_length)


def _read_labels(bundle: Bundle, text: Text) -> dict[str, NDArray[np.float32]]:
    """Read the ready-made embeddings: name -> embed_dim float32."""
    if text.labels is None or text.label_embeddings is None:
        return {}
    try:
        names = msgspec.json.decode(bundle.read(text.labels), type=list[str])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{text.labels} is not a JSON list of names ({error}); export the bundle again."
        ) from error
    data = bundle.read(text.label_embeddings)
    if len(data) != len(names) * text.embed_dim * np.dtype("<f4").itemsize:
        raise BundleError(
            f"{text.label_embeddings} has {len(data):,} bytes, expected {text.embed_dim} float32 "
            f"for each of the {len(names)} names; export the bundle again."
        )
    rows = np.frombuffer(data, "<f4").reshape(len(names), text.embed_dim)  # K*D -> KxD
    return dict(zip(names, rows, strict=True))
