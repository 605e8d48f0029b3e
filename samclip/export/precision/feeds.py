"""Real inputs of every graph, recorded while photos pass through the FP32 chain.

Feeds lie on the disk and are read again on each pass, so that memory does not grow with the photos.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import Engine, EngineOptions, GraphKey, GraphSource, Probe, Tensor, Traits
from samclip.engines.onnxruntime.backend import CPU
from samclip.export.precision.draft_bundle import DraftBundle, reference_model
from samclip.export.precision.gate_tasks import drawn_boxes, fixed_regions, gate_vocabulary
from samclip.progress import Progress, track
from samclip.runtime.bundles.manifest import SHAPED_GRAPHS
from samclip.runtime.pixels.encoder_input import EncoderInput
from samclip.runtime.pixels.image import load_image

Array = NDArray[np.generic]
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class PhotoFeeds:
    """The encoder's inputs, each computed from its photo during iteration."""

    photos: tuple[Path, ...]
    form: EncoderInput

    def __len__(self) -> int:
        return len(self.photos)

    def __iter__(self) -> Iterator[Feeds]:
        for photo in self.photos:
            yield self.form.feeds(load_image(photo))[0]


@dataclass(frozen=True)
class SavedFeeds:
    """The recorded inputs of a graph's runs, in `folder`, in their order."""

    folder: Path

    def save(self, feeds: Mapping[str, Array | Tensor]) -> None:
        """Record one run's inputs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        host = {n: x if isinstance(x, np.ndarray) else x.numpy() for n, x in feeds.items()}
        np.savez(self.folder / f"{len(self):06}.npz", **host)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(list(self.folder.glob("*.npz")))

    def __iter__(self) -> Iterator[Feeds]:
        for path in sorted(self.folder.glob("*.npz")):
            with np.load(path) as stored:
                yield dict(stored)


GraphFeeds = Mapping[str, "PhotoFeeds | SavedFeeds"]


def record_feeds(
    draft: DraftBundle, photos: Sequence[Path], folder: Path, progress: Progress
) -> GraphFeeds:
    """Run the FP32 chain on photos, and on texts, and record each graph's inputs.

    They lie in `folder`, and can be read as long as it exists. There are none for graphs that are
    FP32 in every precision, such as the mask decoder, nor for graphs that were never run: those
    that name regions, in a bundle that has no vocabulary. The graphs of every shape of input see
    all photos, placed on that shape.
    """
    manifest = draft.manifest
    found: dict[str, PhotoFeeds | SavedFeeds] = {}
    for canvas in draft.canvases:
        own = replace(draft, only=(canvas,))
        inputs = manifest.graphs.encoder.inputs
        form = EncoderInput.declared(inputs, manifest.preprocessing, (canvas,))
        found[manifest.name_for("encoder", canvas)] = PhotoFeeds(tuple(photos), form)
        names = [
            manifest.name_for(name, canvas)
            for name in ("clip_head", "clip_roi", "clip_encoder", "text_encoder")
            if canvas == draft.canvases[0] or name in SHAPED_GRAPHS
        ]
        heads = {name: SavedFeeds(folder / name) for name in names if manifest.graph(name)}
        if heads:
            found |= _record_heads(own, photos, heads, progress)
    return found


def _record_heads(
    draft: DraftBundle, photos: Sequence[Path], heads: dict[str, SavedFeeds], progress: Progress
) -> dict[str, SavedFeeds]:
    """Record what the heads of one shape read; those that were run."""
    with reference_model(draft, RecordingBackend(heads)) as model:
        vocabulary = gate_vocabulary(model)
        recorded = photos if heads.keys() - {"text_encoder"} else ()
        for photo in track(progress, recorded, "recording what names things"):
            with model.encode(load_image(photo)) as scene:
                if draft.manifest.has_map:
                    scene.features.clip()
                if "clip_encoder" in heads:
                    scene.features.image_embed()
                    scene.features.tower().crops(drawn_boxes(scene.size))
                if "clip_roi" in heads and vocabulary is not None:
                    regions = fixed_regions(scene)
                    scene.features.score_regions_by_clip(regions, vocabulary.embeddings)
    return {name: feeds for name, feeds in heads.items() if feeds}


@dataclass(frozen=True)
class RecordingBackend:
    """ONNX Runtime's CPU, which records the inputs of the graphs in `feeds`."""

    feeds: Mapping[str, SavedFeeds]
    name: str = CPU.name

    @property
    def traits(self) -> Traits:
        """Those of ONNX Runtime's CPU."""
        return CPU.traits

    def probe(self) -> Probe:
        """Return whether ONNX Runtime works here."""
        return CPU.probe()

    def ready(self, graphs: Sequence[GraphKey], options: EngineOptions) -> Probe:
        """Report that nothing is built in advance."""
        return CPU.ready(graphs, options)

    def load(self, source: GraphSource, options: EngineOptions) -> Engine:
        """Open an engine, one that records if the graph is among `feeds`."""
        engine = CPU.load(source, options)
        feeds = self.feeds.get(source.name)
        return engine if feeds is None else _RecordingEngine(engine, feeds)


@dataclass
class _RecordingEngine:
    engine: Engine
    feeds: SavedFeeds = field(repr=False)

    @property
    def input_names(self) -> tuple[str, ...]:
        return self.engine.input_names

    @property
    def output_names(self) -> tuple[str, ...]:
        return self.engine.output_names

    def run(
        self, feeds: Mapping[str, Array | Tensor], outputs: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        self.feeds.save(feeds)
        return self.engine.run(feeds, outputs)

    def close(self) -> None:
        self.engine.close()
