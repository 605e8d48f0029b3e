"""A bundle's model as the exporter sees it: rebuilt, proven, and with what only bundles hold.

Checkpoints have no templates and no ready-made labels; these are taken over from the bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch

from samclip.errors import CheckpointError, error_context
from samclip.export.checkpoints.checkpoint import Checkpoint
from samclip.export.exportable import Exportable
from samclip.export.graphs import PlainGraph
from samclip.export.options import ExportOptions
from samclip.export.rebuilding.bundle_checkpoint import (
    at_first_canvas,
    read_bundle_checkpoint,
    storage_of,
    with_input_of,
)
from samclip.export.rebuilding.stored_graphs import constant_of, read_graph
from samclip.export.text_part import Labels, TextPart, text_samples
from samclip.export.verification import TOLERANCE, Sample, measure
from samclip.progress import Progress
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import (
    DIGEST_NAME,
    MANIFEST_NAME,
    LabelsDtype,
    ParityRow,
    Text,
)
from samclip.runtime.pixels.image import photo_paths
from samclip.runtime.text.bundle_text import LABELS_DTYPES

# Where weights are stored rounded, so is what torch's exporter computed from them (in small images
# the phases of positions). The rebuilt model computes these from the weights: 2e-3 was seen.
ROUNDED_TOLERANCE = 1e-2
Read = Callable[[ExportOptions, Checkpoint], Exportable]


def is_bundle(path: Path) -> bool:
    """Whether a path is that of a bundle, whole or damaged, and not of a model's folder."""
    return any((path / name).is_file() for name in (MANIFEST_NAME, DIGEST_NAME))


def read_bundle_model(options: ExportOptions, read: Read, progress: Progress) -> Exportable:
    """Rebuild the model of the bundle `options.checkpoint`.

    `read` makes an exportable of its checkpoint, by the family of models that it belongs to. With
    `options.verify`, the rebuilt model has first to give the bundle's own answers on a photo.
    Raises as `read_bundle_checkpoint` does, and CheckpointError for answers that differ.
    """
    found = read_bundle_checkpoint(options.checkpoint, progress)
    bundle = found.bundle

    def rebuild(options: ExportOptions) -> Exportable:
        return _with_stored_padding(read(options, found.checkpoint), bundle)

    said = f"the weights of {bundle.manifest.name} are taken as stored: {storage_of(bundle)}"
    if options.verify:
        own = ExportOptions(options.checkpoint, options.output)
        with progress.stage(f"comparing the rebuilt model with {bundle.manifest.name}"):
            rebuilt = at_first_canvas(bundle.manifest, rebuild(own))
            model = with_input_of(bundle.manifest, rebuilt)
            samples = model.samples(photo_paths(options.photos)[0])
            worst = _prove(
                bundle, samples if model.text is None else samples + text_samples(model.text)
            )
        said += (
            f"; the model rebuilt from them answers as the bundle does, within {worst:.1e} of the "
            "largest value"
        )
    progress.note(said)
    return _with_carried_parts(rebuild(options), bundle, options)


def _with_stored_padding(model: Exportable, bundle: Bundle) -> Exportable:
    """Return a model whose decoders see the padding that the bundle holds, on shapes that it has.

    A model computes it by its encoder; that of the bundle may have had weights that were not yet
    rounded.
    """
    _take_padding(model, bundle)
    shapes = model.shapes
    if shapes is None:
        return model

    def at(canvas: tuple[int, int]) -> Exportable:
        return _with_stored_padding(shapes.at(canvas), bundle)

    return replace(model, shapes=replace(shapes, at=at))


def _take_padding(model: Exportable, bundle: Bundle) -> None:
    manifest, pixels = bundle.manifest, model.pixels
    name = manifest.name_for("mask_decoder", pixels.first_canvas)
    graph = manifest.graph(name)
    if graph is None or pixels.image_size != manifest.preprocessing.image_size:
        return
    for plan in model.graphs:
        if not isinstance(plan, PlainGraph) or plan.name != "mask_decoder":
            continue
        padding = getattr(plan.spec().module, "padding", None)
        if padding is None:
            continue
        values = read_graph(bundle, name, graph).model.graph.initializers.values()
        held = [array for value in values if (array := constant_of(value)) is not None]
        same = [array for array in held if array.shape == tuple(padding.shape)]
        if len(same) == 1:  # else the bundle is older than paddings
            padding.copy_(torch.tensor(same[0]))  # in place: all graphs share it


def _prove(bundle: Bundle, samples: Sequence[Sample]) -> float:
    """Run the bundle's FP32 graphs on what the rebuilt model was run on; return the worst error.

    Raises CheckpointError beyond the tolerance of any export, or of one whose weights are rounded.
    """
    rows: list[ParityRow] = []
    for name in dict.fromkeys(sample.graph for sample in samples):
        graph = getattr(bundle.manifest.graphs, name)
        if graph is None:  # one that this version adds
            continue
        variant = next(each for each in graph.variants if each.precision == "fp32")
        own = [sample for sample in samples if sample.graph == name]
        rows += measure(bundle.variant_source(name, variant), variant.precision, own)
    worst = max(rows, key=lambda row: row.max_rel_error)
    is_exact = storage_of(bundle) == "fp32"
    allowed = TOLERANCE if is_exact else ROUNDED_TOLERANCE
    if not worst.max_rel_error <= allowed:
        raise CheckpointError(
            f"the model rebuilt from the bundle {bundle.path} differs from it: {worst.output} of "
            f"its {worst.graph} by {worst.max_rel_error:.1e} of the largest value on "
            f"{worst.image}, allowed {allowed:.0e}. Export the checkpoint that it comes from."
        )
    return worst.max_rel_error


def _with_carried_parts(model: Exportable, bundle: Bundle, options: ExportOptions) -> Exportable:
    """Return the model with the bundle's templates and labels, where its text space is kept."""
    described = bundle.manifest.text
    replaced = options.text_checkpoint is not None or options.clip_checkpoint is not None
    if described is None or model.text is None or replaced:
        return model
    return replace(
        model,
        templates=described.templates,
        text=_carried_text(model.text, described, bundle),
    )


def _carried_text(part: TextPart, described: Text, bundle: Bundle) -> TextPart:
    graph = bundle.manifest.graphs.text_encoder
    stored = "fp32" if graph is None else graph.variants[0].weights_dtype
    if described.labels is None or described.label_embeddings is None:
        return replace(part, stored=stored)
    sizes = described.embed_dim
    return replace(
        part,
        stored=stored,
        labels=_labels(
            bundle, described.labels, described.label_embeddings, sizes, described.labels_dtype
        ),
        baked=tuple(
            (
                each.templates,
                _labels(bundle, each.labels, each.label_embeddings, sizes, each.labels_dtype),
            )
            for each in described.baked
        ),
    )


def _labels(
    bundle: Bundle, names_file: str, vectors_file: str, embed_dim: int, dtype: LabelsDtype
) -> Labels:
    """Read ready-made names and their embeddings; raises CheckpointError for damaged ones."""
    with error_context(f"{names_file} of {bundle.path}"):
        try:
            names = msgspec.json.decode(bundle.read(names_file), type=tuple[str, ...])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CheckpointError(f"it is not a list of names: {error}") from error
        numbers = np.frombuffer(bundle.read(vectors_file), LABELS_DTYPES[dtype])
        if numbers.size != len(names) * embed_dim:
            raise CheckpointError(
                f"there are {len(names):,} names and {numbers.size:,} numbers of embeddings; "
                f"expected {embed_dim} for each name"
            )
    vectors = np.asarray(numbers, np.float32).reshape(len(names), embed_dim)
    return Labels(names, vectors, dtype)
