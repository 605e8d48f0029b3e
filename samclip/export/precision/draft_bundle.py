"""A bundle that is still in memory, run by the runtime itself: encoder, heads, decoder, text.

What is judged is so what will run: the runtime chooses the variants and computes the tasks. Only
engines differ: half precision, for which CPUs have no kernels, is emulated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from samclip.engines.base import Backend, Engine, EngineOptions, GraphKey, GraphSource, Probe
from samclip.engines.registry import get_backend
from samclip.errors import ExportError
from samclip.export.graph_files import GraphFiles, described, internalise
from samclip.export.options import HALVES
from samclip.export.precision.emulation import half_engine
from samclip.export.precision.variants import BACKENDS
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Manifest, ReducedPrecision
from samclip.runtime.model import Model

CPU = "onnxruntime"


@dataclass(frozen=True)
class DraftBundle(Bundle):
    """A bundle that is not written yet: `contents` holds its files by name."""

    contents: Mapping[str, bytes]

    def with_graphs(self, graphs: Sequence[GraphFiles]) -> DraftBundle:
        """Give the same draft with other graphs."""
        added = {name: data for files in graphs for name, data in files.files.items()}
        manifest = msgspec.structs.replace(self.manifest, graphs=described(graphs))
        return replace(self, manifest=manifest, contents={**self.contents, **added})

    def read(self, name: str) -> bytes:
        """Give the bytes of a file; raises ExportError for a name that the draft does not have."""
        if name not in self.contents:
            raise ExportError(f"the draft of the bundle has no file {name!r}; report this")
        return self.contents[name]


@dataclass(frozen=True)
class EmulatingBackend:
    """ONNX Runtime's CPU under another backend's `name`, half precision emulated.

    `version` is that of the library emulated: None for one that reads what all versions do.
    """

    name: str
    version: str | None = None

    def probe(self) -> Probe:
        """Say that it works."""
        return Probe(True, "emulated on ONNX Runtime's CPU")

    def ready(self, graphs: Sequence[GraphKey], options: EngineOptions) -> Probe:
        """Say that nothing is built in advance."""
        return get_backend(CPU).ready(graphs, options)

    def load(self, source: GraphSource, options: EngineOptions) -> Engine:
        """Make an engine of a graph, by the precision of its variant."""
        if source.precision in HALVES:
            return half_engine(internalise(source.onnx, source.weights))
        return get_backend(CPU).load(source, options)


@contextmanager
def reference_model(draft: DraftBundle, backend: Backend | None = None) -> Iterator[Model]:
    """Run the FP32 variants of a draft; caches of text embeddings end with the block."""
    with _model(draft, backend or get_backend(CPU), "fp32") as model:
        yield model


@contextmanager
def reduced_model(
    draft: DraftBundle, precision: ReducedPrecision, version: str | None = None
) -> Iterator[Model]:
    """Run what the runtime would choose of a draft for `precision`; graphs without it in FP32.

    `version`: that of the backend's library, None for any. Raises ExportError when no backend is
    left that takes it.
    """
    backend = EmulatingBackend(_backend_of(draft.manifest, precision), version)
    with _model(draft, backend, precision) as model:
        yield model


@contextmanager
def _model(draft: DraftBundle, backend: Backend, precision: str) -> Iterator[Model]:
    with (
        TemporaryDirectory(prefix="samclip-texts-") as cache,
        Model(draft, backend, EngineOptions(), precision, Path(cache)) as model,
    ):
        yield model


def newest_needed(manifest: Manifest, precision: ReducedPrecision) -> str | None:
    """Tell from which version on the library takes the encoder's preferred variant; None: any."""
    backend = _backend_of(manifest, precision)
    passed = manifest.graphs.encoder.passed_over(backend, precision, None)
    return passed[0][1].version if passed else None


def _backend_of(manifest: Manifest, precision: ReducedPrecision) -> str:
    """Name a backend that takes the encoder in this precision."""
    for backend in BACKENDS[precision]:
        variant = manifest.graphs.encoder.variant_for(backend, precision)
        if variant is not None and variant.precision == precision:
            return backend
    raise ExportError(
        f"no backend takes the encoder in {precision} as it would be stored. "
        "Store its weights as fp32 or fp16: --weights-dtype encoder=fp16."
    )
