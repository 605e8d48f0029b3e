"""A bundle of a small Open-Vocabulary SAM with random weights, and what torch says in its place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from small_ovsam import small_assembly

from samclip.export.exporter import write_graphs
from samclip.export.families.ovsam import ovsam_exportable
from samclip.export.graph_files import described
from samclip.export.models.ovsam.model import Ovsam
from samclip.export.models.ovsam.roi_classifier import LOGIT_SCALE
from samclip.export.options import ExportOptions
from samclip.runtime.bundles.manifest import Manifest, Provenance, RegionHead, Text
from samclip.runtime.bundles.writing import write_bundle

NAMES = tuple(f"name {number}" for number in range(22_000))


def random_texts(count: int, dim: int, seed: int = 3) -> NDArray[np.float32]:
    """Unit rows, countxdim float32, in place of a text encoder's."""
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def write_ovsam_bundle(model: Ovsam, target: Path, names: tuple[str, ...] = NAMES) -> Path:
    """Export the four graphs, and `names` as ready-made labels with random embeddings."""
    subject = ovsam_exportable(small_assembly(model))
    with torch.no_grad():
        options = ExportOptions(target, target, attention=("bias",), text_encoder=False)
        graphs = write_graphs(subject, options)
    width = model.config.embed_dim
    manifest = Manifest(
        name=target.name,
        model_type=subject.model_type,
        preprocessing=subject.pixels,
        graphs=described(graphs),
        files={},
        provenance=Provenance(sources=(), samclip="0", torch="0", onnx="0"),
        region_head=RegionHead(trained=True, embed_dim=width),
        text=Text(
            model="random",
            space="0" * 64,
            embed_dim=width,
            logit_scale=LOGIT_SCALE,
            templates=subject.templates,
            labels="labels.json",
            label_embeddings="labels.bin",
        ),
    )
    files = {name: data for graph in graphs for name, data in graph.files.items()}
    files["labels.json"] = json.dumps(names).encode()
    files["labels.bin"] = random_texts(len(names), width).astype("<f4").tobytes()
    return write_bundle(target, manifest, files)
