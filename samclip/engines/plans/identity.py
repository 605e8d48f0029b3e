"""Which graph a plan belongs to: the SHA-256 of its ONNX bytes and of its weights file."""

from __future__ import annotations

import hashlib

from samclip.engines.base import GraphSource
from samclip.engines.plans.sidecar import BuiltGraph


def identify(source: GraphSource) -> BuiltGraph:
    """Hash a graph's bytes; half a second for 350 MB.

    `weights_sha256` is the digest of its weights file, for several that of their names and
    digests, None for a graph without any.
    """
    return BuiltGraph(
        name=source.name,
        onnx_sha256=hashlib.sha256(source.onnx).hexdigest(),
        weights_sha256=_weights_digest(source),
        precision=source.precision,
        attention=source.attention,
        origin=source.origin,
    )


def _weights_digest(source: GraphSource) -> str | None:
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in source.files.items()}
    if len(digests) == 1:
        return next(iter(digests.values()))
    if not digests:
        return None
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
