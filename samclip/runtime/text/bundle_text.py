"""The text files of a bundle: read within bounds, and identified by digests.

Two digests stand for a text space. `space_digest` is that of the space itself, whatever backend and
precision compute it; vocabularies carry it. `_computed_digest` is that of one way of computing it;
it keys the cache of embeddings on the disk, which all bundles of this user share.

Both are made from the digests of files, the text graph, its weights and the tokenizer, and from the
settings that decide an embedding; never from what a manifest calls its text space, which anybody
may copy. The digests stand in the manifest, and files are read only when a name must be computed.
That is safe for the cache, although a stranger's manifest may list the digests of somebody else's
files:

- A vector is **written** after it was computed, by an engine and a tokenizer whose bytes this
  process has read, and `Bundle.read` refuses bytes whose digests are not those of the manifest. So
  what is stored under a digest was computed from bytes with that digest.
- A vector that is **found** under a digest that is only claimed is therefore the one that the true
  files give. It is the right answer for anyone who has these files, and it changes nothing on disk.

Where a manifest has no digest of a file, as in an export under way, the file is read and hashed.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import library_version
from samclip.errors import BundleError, CapabilityError, VocabularyError, error_context
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import (
    BakedLabels,
    LabelsDtype,
    Manifest,
    NamingHead,
    Text,
    Variant,
)
from samclip.runtime.engine_pool import EnginePool
from samclip.runtime.text.names import MAX_NAMES
from samclip.runtime.text.templates import resolve_templates
from samclip.runtime.text.text_cache import TextCache
from samclip.runtime.text.text_space import GRAPH, OUTPUT, TextSpace
from samclip.runtime.text.tokenizer import Tokenizer
from samclip.runtime.text.tokenizer_file import MAX_BYTES as MAX_TOKENIZER_BYTES

MAX_LABELS_BYTES = 10_000_000
LABELS_DTYPES: dict[LabelsDtype, np.dtype[Any]] = {
    "fp32": np.dtype("<f4"),
    "fp16": np.dtype("<f2"),
}
TEXT_PACKAGES = ("ftfy", "tokenizers")  # they clean and split texts, by tables of their versions


def naming_parts(manifest: Manifest) -> tuple[NamingHead, Text]:
    """Return what a bundle names by; raises CapabilityError for a bundle that cannot name."""
    head, text = manifest.head, manifest.text
    if head is None or text is None:
        lacking = "CLIP head" if head is None else "text"
        raise CapabilityError(
            f"bundle {manifest.name!r} has no {lacking}, so it cannot name anything. Export it "
            "with one, or choose another bundle."
        )
    return head, text


def open_text_space(pool: EnginePool, text: Text, cache_dir: Path | None) -> TextSpace:
    """Build the text space that `text`, from the manifest of the pool's bundle, describes.

    The tokenizer is read and the text encoder loaded when the first name needs them. Raises
    BundleError.
    """
    bundle, name, tower = pool.bundle, text.tokenizer, _Tower(pool)

    def read_tokenizer() -> Tokenizer:
        tower.begin()
        with error_context(f"{bundle.path}: {name}"):
            data = read_bounded(bundle, str(name), MAX_TOKENIZER_BYTES)
            return Tokenizer.from_bytes(data, text.context_length, text.canonical)

    with error_context(str(bundle.path)):
        return TextSpace(
            encode=tower.encode if pool.has(GRAPH) else None,
            after=tower.end,
            tokenizer=None if name is None else read_tokenizer,
            space=_computed_digest(pool, text),
            embed_dim=text.embed_dim,
            templates=_bundle_templates(text.templates),
            precomputed=_read_labels(bundle, text, text.embed_dim),
            cache=TextCache(cache_dir),
            canonical=text.canonical,
            baked={
                _bundle_templates(each.templates): _read_labels(bundle, each, text.embed_dim)
                for each in text.baked
            },
        )


class _Tower:
    """The text encoder of a pool, which most programs use once, for their vocabulary.

    So its memory is given back after the first names, where loading takes little time. It stays
    from the second use on, and where it was loaded before any.
    """

    def __init__(self, pool: EnginePool) -> None:
        self._pool = pool
        self._stays = True

    def begin(self) -> None:
        """Begin to load it, before the first names are tokenized."""
        is_quick = self._pool.backend.traits.parallel_loads
        self._stays = self._pool.is_loaded(GRAPH) or not is_quick
        self._pool.load_ahead(GRAPH)

    def encode(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embed N texts, tokens N x context_length: N x embed_dim."""
        (embeddings,) = self._pool.compute(GRAPH, {"tokens": tokens}, (OUTPUT,))
        return embeddings

    def end(self) -> None:
        """Free it after the first names."""
        if not self._stays:
            self._stays = True
            self._pool.free(GRAPH)


def _bundle_templates(templates: str | tuple[str, ...]) -> tuple[str, ...]:
    try:
        return resolve_templates(templates)
    except VocabularyError as error:  # not the caller's
        raise BundleError(
            f"the bundle's templates cannot be used: {error} Export it again."
        ) from error


def space_digest(bundle: Bundle, text: Text) -> str:
    """Return the digest of a bundle's text space, by which vocabularies are compared.

    Of several variants of the text encoder the first in FP32 stands for all of them: they compute
    the same embeddings but for rounding. Without an encoder the ready-made labels are the space.
    """
    graph = bundle.manifest.graphs.text_encoder
    if graph is None or text.tokenizer is None:
        sets: tuple[Text | BakedLabels, ...] = (text, *text.baked)
        names = [name for each in sets for name in (each.labels, each.label_embeddings)]
        files = [name for name in names if name is not None]
        return _digest(text, [_file_digest(bundle, name) for name in files], ())
    return _digest(text, _tower_digests(bundle, text, graph.first_full), ())


def _computed_digest(pool: EnginePool, text: Text) -> str:
    """Return the digest of a text space as this pool's backend computes it, here and now.

    Backends differ in the last digits, or by a defect: one does not answer for another.
    """
    variant = pool.variant(GRAPH)
    if variant is None or text.tokenizer is None:  # nothing is computed, so nothing is cached
        return ""
    way = (pool.backend.name, library_version(pool.backend), *map(_version, TEXT_PACKAGES))
    return _digest(text, _tower_digests(pool.bundle, text, variant), way)


def _tower_digests(bundle: Bundle, text: Text, variant: Variant) -> list[str | None]:
    files = (variant.file, variant.weights, text.tokenizer)
    return [None if name is None else _file_digest(bundle, name) for name in files]


def _digest(text: Text, files: list[str | None], way: tuple[str | None, ...]) -> str:
    canonical = ("canonical",) if text.canonical else ()
    facts = (files, text.context_length, text.embed_dim, way, *canonical)
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


def _file_digest(bundle: Bundle, name: str) -> str:
    entry = bundle.manifest.files.get(name)
    return hashlib.sha256(bundle.read(name)).hexdigest() if entry is None else entry.sha256


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # an application that was packed without metadata
        return None


def read_bounded(bundle: Bundle, name: str, limit: int) -> bytes:
    """Read a file of at most `limit` bytes as `Bundle.read` does; raises BundleError beyond it."""
    entry = bundle.manifest.files.get(name)
    if entry is not None and entry.size > limit:
        raise BundleError(
            f"{name} has {entry.size:,} bytes; at most {limit:,} are accepted. Export the bundle "
            "again."
        )
    return bundle.read(name)


def _read_labels(
    bundle: Bundle, text: Text | BakedLabels, embed_dim: int
) -> dict[str, NDArray[np.float32]]:
    """Read the ready-made embeddings: name -> embed_dim float32."""
    if text.labels is None or text.label_embeddings is None:
        return {}
    data = read_bounded(bundle, text.labels, MAX_LABELS_BYTES)
    try:
        names = msgspec.json.decode(data, type=list[str])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{text.labels} is not a JSON list of names ({error}); export the bundle again."
        ) from error
    if len(names) > MAX_NAMES:
        raise BundleError(
            f"{text.labels} has {len(names):,} names; at most {MAX_NAMES:,} are accepted. Export "
            "the bundle with fewer."
        )
    stored = LABELS_DTYPES[text.labels_dtype]
    size = len(names) * embed_dim * stored.itemsize
    data = read_bounded(bundle, text.label_embeddings, size)
    if len(data) != size:
        raise BundleError(
            f"{text.label_embeddings} has {len(data):,} bytes, expected {embed_dim} {stored.name} "
            f"for each of the {len(names)} names; export the bundle again."
        )
    rows = np.frombuffer(data, stored).reshape(len(names), embed_dim)  # K*D -> KxD
    return dict(zip(names, np.asarray(rows, np.float32), strict=True))
