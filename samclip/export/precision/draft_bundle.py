"""A bundle that is still in memory, run by the runtime itself: encoder, heads, decoder, text.

So the gates judge what users will run: the runtime chooses the variants and computes the tasks.
Only the engines differ: half precision, for which CPUs have no kernels, is emulated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from samclip.engines.base import (
    Backend,
    Engine,
    EngineOptions,
    GraphKey,
    GraphSource,
    Probe,
    Traits,
)
from samclip.engines.onnxruntime.backend import CPU
from samclip.errors import ExportError
from samclip.export.graph_files import GraphFiles, internalise, with_graphs
from samclip.export.options import HALVES
from samclip.export.precision.emulation import half_engine
from samclip.export.precision.variants import BACKENDS
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Manifest, ReducedPrecision
from samclip.runtime.model import Model


@dataclass(frozen=True)
class DraftBundle(Bundle):
    """A bundle that is not written yet: `contents` holds its files by name."""

    contents: Mapping[str, bytes]

    def with_graphs(self, graphs: Sequence[GraphFiles]) -> DraftBundle:
        """Return the same draft with other graphs."""
        added = {name: data for files in graphs for name, data in files.files.items()}
        manifest = with_graphs(self.manifest, graphs)
        return replace(self, manifest=manifest, contents={**self.contents, **added})

    def read(self, name: str) -> bytes:
        """Return the bytes of a file; raises ExportError for a name that is not in the draft."""
        if name not in self.contents:
            raise ExportError(f"the draft of the bundle has no file {name!r}; report this")
        return self.contents[name]


@dataclass(frozen=True)
class EmulatingBackend:
    """ONNX Runtime's CPU under another backend's `name`, with half precision emulated.

    `version` is that of the emulated library: None for one that reads only what all versions read.
    """

    name: str
    version: str | None = None

    @property
    def traits(self) -> Traits:
        """Those of ONNX Runtime's CPU."""
        return CPU.traits

    def probe(self) -> Probe:
        """Report that it works."""
        return Probe(True, "emulated on ONNX Runtime's CPU")

    def ready(self, graphs: Sequence[GraphKey], options: EngineOptions) -> Probe:
        """Report that nothing is built in advance."""
        return CPU.ready(graphs, options)

    def load(self, source: GraphSource, options: EngineOptions) -> Engine:
        """Open an engine for a graph, emulated if its variant is in half precision."""
        if source.precision in HALVES:
            return half_engine(internalise(source.onnx, source.weights))
        return CPU.load(source, options)


@contextmanager
def reference_model(draft: DraftBundle, backend: Backend | None = None) -> Iterator[Model]:
    """Run the FP32 variants of a draft; caches of text embeddings end with the block."""
    with _open_model(draft, backend or CPU, "fp32") as model:
        yield model


@contextmanager
def reduced_model(
    draft: DraftBundle, precision: ReducedPrecision, version: str | None = None
) -> Iterator[Model]:
    """Run the variants of a draft that the runtime would choose for `precision`, else FP32 ones.

    `version` is that of the backend's library, None for any. Raises ExportError when no backend
    takes the encoder in this precision.
    """
    backend = EmulatingBackend(_backend_of(draft.manifest, precision), version)
    with _open_model(draft, backend, precision) as model:
        yield model


@contextmanager
def _open_model(draft: DraftBundle, backend: Backend, precision: str) -> Iterator[Model]:
    with (
        TemporaryDirectory(prefix="samclip-texts-") as cache,
        Model(draft, backend, EngineOptions(), precision, Path(cache)) as model,
    ):
        yield model


def newest_needed(manifest: Manifest, precision: ReducedPrecision) -> str | None:
    """Return the first library version that takes the encoder's preferred variant; None: any."""
    backend = _backend_of(manifest, precision)
    passed = manifest.graphs.encoder.passed_over(backend, precision, None)
    return passed[0][1].version if passed else None


def _backend_of(manifest: Manifest, precision: ReducedPrecision) -> str:
    """Return the name of a backend that takes the encoder in this precision."""
    for backend in BACKENDS[precision]:
        variant = manifest.graphs.encoder.variant_for(backend, precision)
        if variant is not None and variant.precision == precision:
            return backend
    raise ExportError(
        f"no backend takes the encoder in {precision}: --keep-fp32 leaves none of it in "
        f"{precision}, or no backend reads its weights as they would be stored. Keep less of it, "
        "as in --keep-fp32 encoder:Conv, or store its weights as fp32 or fp16: --weights-dtype "
        "encoder=fp16."
    )
