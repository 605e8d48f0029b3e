"""The text space that a bundle brings: its tokenizer, text encoder and ready-made labels."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from samclip.errors import BundleError, naming
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Text
from samclip.runtime.engine_pool import EnginePool
from samclip.runtime.texts.templates import resolve_templates
from samclip.runtime.texts.text_cache import TextCache
from samclip.runtime.texts.text_space import Encode, TextSpace
from samclip.runtime.texts.tokenizer import Tokenizer


def open_text_space(pool: EnginePool, text: Text, cache_dir: Path | None) -> TextSpace:
    """Put together the text space that `text`, of the manifest of the pool's bundle, describes.

    The text encoder itself is loaded when the first name needs it. Raises BundleError.
    """
    with naming(str(pool.bundle.path)):
        return TextSpace(
            encode=_encoder(pool) if pool.has("text_encoder") else None,
            tokenizer=_read_tokenizer(pool.bundle, text),
            space=_space(pool, text),
            embed_dim=text.embed_dim,
            templates=resolve_templates(text.templates),
            precomputed=_read_labels(pool.bundle, text),
            cache=TextCache(cache_dir),
        )


def _space(pool: EnginePool, text: Text) -> str:
    """Name the space: one computed in reduced precision keeps a cache apart from FP32's."""
    precision = pool.precision("text_encoder")
    if precision in {None, "fp32"}:
        return text.space
    return hashlib.sha256(f"{text.space} {precision}".encode()).hexdigest()


def _encoder(pool: EnginePool) -> Encode:
    def encode(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        (embeddings,) = pool.compute("text_encoder", {"tokens": tokens}, ("text_embeddings",))
        return embeddings

    return encode


def _read_tokenizer(bundle: Bundle, text: Text) -> Tokenizer | None:
    if text.tokenizer is None:
        return None
    data = bundle.read(text.tokenizer)
    with naming(f"{bundle.path}: {text.tokenizer}"):
        return Tokenizer.from_bytes(data, text.context_length)


def _read_labels(bundle: Bundle, text: Text) -> dict[str, NDArray[np.float32]]:
    """Read the ready-made embeddings: name -> embed_dim float32."""
    if text.labels is None or text.label_embeddings is None:
        return {}
    try:
        names = msgspec.json.decode(bundle.read(text.labels), type=list[str])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{text.labels} is no JSON list of names ({error}); export the bundle again."
        ) from error
    data = bundle.read(text.label_embeddings)
    if len(data) != len(names) * text.embed_dim * np.dtype("<f4").itemsize:
        raise BundleError(
            f"{text.label_embeddings} has {len(data):,} bytes, expected {text.embed_dim} float32 "
            f"for each of the {len(names)} names; export the bundle again."
        )
    rows = np.frombuffer(data, "<f4").reshape(len(names), text.embed_dim)  # K*D -> KxD
    return dict(zip(names, rows, strict=True))
