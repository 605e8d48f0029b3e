"""The whole export: read the model, write its graphs, prove them equal, write the bundle.

The texts of a bundle: its tokenizer, ready-made labels, and what the text space is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from samclip.errors import ExportError
from samclip.export.checkpoints.metadata import untrained_note
from samclip.export.exportable import Exportable, GraphPlan, TextPart, plain
from samclip.export.families.read_model import read_model
from samclip.export.graph_files import GraphFiles, described, without_unused
from samclip.export.options import ExportOptions
from samclip.export.precision.keep import parse_keep
from samclip.export.precision.photos import photo_sets
from samclip.export.progress import Progress, silent
from samclip.export.rounding import GraphPair
from samclip.export.specs import text_encoder_spec
from samclip.export.verification import Proof, verify
from samclip.export.weight_storage import store_weights, stored_space
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import ClipHead, Manifest, Provenance, RegionHead, Text
from samclip.runtime.bundles.writing import check_target, write_bundle
from samclip.runtime.pixels.image import photo_paths
from samclip.runtime.text.templates import resolve_templates
from samclip.runtime.text.text_space import TextSpace
from samclip.runtime.text.tokenizer import Tokenizer
from samclip.version import __version__

TOKENIZER_FILE = "tokenizer.json"
LABELS_FILE = "labels.json"
EMBEDDINGS_FILE = "label_embeddings.f32"


def token_batches(text: TextPart | None) -> list[NDArray[np.int64]]:
    """One prompt, and several of different lengths; nothing without a text tower."""
    if text is None or text.tower is None:
        return []
    tokenizer = _tokenizer(text)
    several = ["a photo of a cup.", "road", "a bad photo of the hard to see espresso machine."]
    return [tokenizer(["a photo of a cat."]), tokenizer(several)]


def _tokenizer(text: TextPart) -> Tokenizer:
    if text.tokenizer is None or text.tower is None:
        raise ExportError("there is no text tower to tokenize for; give --text-checkpoint")
    return Tokenizer.from_bytes(text.tokenizer, text.tower.config.context_length)


def bundle_text(
    model: Exportable, options: ExportOptions, progress: Progress
) -> tuple[Text | None, dict[str, bytes]]:
    """Describe the text space, and make its files: tokenizer, ready-made label embeddings."""
    part = model.text
    if part is None:
        return None, {}
    templates = model.templates if options.templates is None else options.templates
    files: dict[str, bytes] = {}
    if part.tokenizer is not None and options.text_encoder:
        files[TOKENIZER_FILE] = part.tokenizer
    if part.tower is not None and options.labels:
        with progress(f"embedding {len(options.labels)} labels"):
            files |= _label_files(part, options.labels, templates)
    text = Text(
        model=part.described.model,
        space=stored_space(part.described.space, options.weights_dtype.of("text_encoder")),
        embed_dim=part.embed_dim,
        logit_scale=part.logit_scale,
        templates=templates,
        tokenizer=TOKENIZER_FILE if TOKENIZER_FILE in files else None,
        context_length=part.tower.config.context_length if part.tower is not None else 77,
        labels=LABELS_FILE if LABELS_FILE in files else None,
        label_embeddings=EMBEDDINGS_FILE if EMBEDDINGS_FILE in files else None,
    )
    return text, files


def _label_files(
    part: TextPart, labels: Sequence[str], templates: str | Sequence[str]
) -> dict[str, bytes]:
    """Embed the labels with the torch tower: names as JSON, vectors as little-endian float32."""
    tower = part.tower
    if tower is None:
        raise ExportError("labels cannot be embedded without a text tower")

    @torch.inference_mode()
    def encode(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(tower(torch.from_numpy(tokens)).numpy(), np.float32)

    space = TextSpace(
        encode=encode,
        tokenizer=_tokenizer(part),
        space=part.described.space,
        embed_dim=part.embed_dim,
        templates=resolve_templates(templates),
    )
    vectors = space.embed(labels)
    return {
        LABELS_FILE: json.dumps(list(labels), ensure_ascii=False).encode(),
        EMBEDDINGS_FILE: vectors.astype("<f4").tobytes(),
    }


@dataclass(frozen=True)
class Export:
    """A finished export: the bundle's folder and its manifest."""

    path: Path
    manifest: Manifest


@dataclass(frozen=True)
class _Draft:
    """A bundle in memory: graphs as they were exported, and as they are stored; texts' files."""

    manifest: Manifest
    texts: Mapping[str, bytes]
    graphs: tuple[GraphFiles, ...]
    stored: tuple[GraphFiles, ...]


def export_bundle(options: ExportOptions, progress: Progress = silent) -> Export:
    """Make a bundle from checkpoints; on any failure nothing is left at `options.output`.

    Raises CheckpointError for weights that do not fit, ParityError when a graph differs from the
    torch model, ExportError or BundleError when the bundle cannot be made.
    """
    _check_early(options)
    draft = _in_full_precision(options, progress)  # the torch model is not needed any more
    if options.precision.precisions:
        draft = _reduced(draft, options, progress)
    stored = [without_unused(files) for files in draft.stored]
    manifest = msgspec.structs.replace(draft.manifest, graphs=described(stored))
    contents = {name: data for files in stored for name, data in files.files.items()}
    with progress(f"writing the bundle to {options.output}"):
        path = write_bundle(
            options.output, manifest, {**draft.texts, **contents}, overwrite=options.overwrite
        )
    return Export(path, Bundle.open(path).manifest)


def store(files: GraphFiles, options: ExportOptions) -> GraphFiles:
    """Give a graph with its weights stored as the options say."""
    return store_weights(files, options.weights_dtype.of(files.name))


def write_graphs(
    model: Exportable, options: ExportOptions, progress: Progress = silent
) -> list[GraphFiles]:
    """Export every graph that the bundle will hold."""
    graphs = []
    for plan in _plans(model, options):
        with progress(f"exporting the {plan.name} graph"):
            graphs.append(plan.write(options.attention, options.opset))
    return graphs


def _check_early(options: ExportOptions) -> None:
    """Fail before the long work, rather than after it, where that can be told."""
    check_target(options.output, options.overwrite)
    if options.templates is not None:
        resolve_templates(options.templates)
    if options.verify and not photo_paths(options.photos):
        raise ExportError(f"no images in {options.photos} to verify on; give a folder of photos")
    if options.precision.precisions:
        photo_sets(options)
        parse_keep(options.precision.keep_fp32)


def _in_full_precision(options: ExportOptions, progress: Progress) -> _Draft:
    """Export and verify everything in FP32, but do not write it yet."""
    with progress("reading checkpoints"):
        model = read_model(options)
    if options.labels and (model.text is None or model.text.tower is None):
        raise ExportError(
            "--labels needs a text tower to embed them; give --text-checkpoint or --clip-checkpoint"
        )
    graphs = write_graphs(model, options, progress)
    pairs = [GraphPair(files, store(files, options)) for files in graphs]
    proof = Proof()
    if options.verify:
        proof = verify(model, token_batches(model.text), pairs, options.photos, progress)
    text, texts = bundle_text(model, options, progress)
    clip, regions = _heads(model.head)
    manifest = Manifest(
        name=options.output.name,
        model_type=model.model_type,
        preprocessing=model.pixels,
        graphs=described(graphs),
        files={},
        provenance=_provenance(model),
        clip_head=clip,
        region_head=regions,
        text=text,
        parity=proof.parity,
        rounding=proof.rounding,
    )
    return _Draft(manifest, texts, tuple(graphs), tuple(pair.stored for pair in pairs))


def _reduced(draft: _Draft, options: ExportOptions, progress: Progress) -> _Draft:
    """Add the reduced precisions: every graph with all its variants, and what each costs."""
    # What quantises takes a second to import, and most exports do without.
    from samclip.export.precision.draft_bundle import DraftBundle  # noqa: PLC0415
    from samclip.export.precision.reduction import reduce_graphs  # noqa: PLC0415

    files = {name: data for graph in draft.graphs for name, data in graph.files.items()}
    bundle = DraftBundle(options.output, draft.manifest, {**draft.texts, **files})
    reduced = reduce_graphs(
        bundle, draft.graphs, options, partial(store, options=options), progress
    )
    manifest = msgspec.structs.replace(draft.manifest, reductions=reduced.reductions)
    return _Draft(manifest, draft.texts, draft.graphs, reduced.graphs)


def _plans(model: Exportable, options: ExportOptions) -> tuple[GraphPlan, ...]:
    tower = None if model.text is None else model.text.tower
    if tower is None or not options.text_encoder:
        return model.graphs
    return (*model.graphs, plain("text_encoder", partial(text_encoder_spec, tower)))


def _heads(head: ClipHead | RegionHead) -> tuple[ClipHead | None, RegionHead | None]:
    return (head, None) if isinstance(head, ClipHead) else (None, head)


def _provenance(model: Exportable) -> Provenance:
    notes = (model.notes, untrained_note(model.head))
    return Provenance(
        sources=model.sources,
        samclip=__version__,
        torch=str(torch.__version__),
        onnx=str(onnx.__version__),
        notes=" ".join(note for note in notes if note),
    )
