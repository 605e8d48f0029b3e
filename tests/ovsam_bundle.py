"""A bundle of a small Open-Vocabulary SAM with random weights, and what torch says in its place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from samclip.export.graph_files import described, write_graph, write_plain_graph
from samclip.export.models.ovsam.model import PIXEL_MEAN, PIXEL_STD, Ovsam
from samclip.export.models.ovsam.text_logits import LOGIT_SCALE
from samclip.export.ovsam_specs import (
    clip_roi_spec,
    ovsam_encoder_spec,
    ovsam_mask_decoder_spec,
    roi_classifier_spec,
)
from samclip.runtime.bundles.bundle import write_bundle
from samclip.runtime.bundles.manifest import (
    Manifest,
    Preprocessing,
    Provenance,
    RegionHead,
    Text,
)

OPSET = 20
NAMES = tuple(f"name {number}" for number in range(22_000))


def random_texts(count: int, dim: int, seed: int = 3) -> NDArray[np.float32]:
    """Unit rows, countxdim float32, in place of a text encoder's."""
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def write_ovsam_bundle(model: Ovsam, target: Path, names: tuple[str, ...] = NAMES) -> Path:
    """Export the four graphs, and `names` as ready-made labels with random embeddings."""
    config = model.config
    with torch.no_grad():
        graphs = [
            write_graph("encoder", lambda f: ovsam_encoder_spec(model, f), ("bias",), OPSET),
            write_plain_graph("mask_decoder", ovsam_mask_decoder_spec(model), OPSET),
            write_plain_graph("roi_classifier", roi_classifier_spec(model), OPSET),
            write_plain_graph("clip_roi", clip_roi_spec(model), OPSET),
        ]
    manifest = Manifest(
        name=target.name,
        model_type="ovsam-small",
        preprocessing=Preprocessing(image_size=config.image_size, mean=PIXEL_MEAN, std=PIXEL_STD),
        graphs=described(graphs),
        files={},
        provenance=Provenance(sources=(), samclip="0", torch="0", onnx="0"),
        region_head=RegionHead(trained=True, embed_dim=config.embed_dim),
        text=Text(
            model="random",
            space="0" * 64,
            embed_dim=config.embed_dim,
            logit_scale=LOGIT_SCALE,
            templates="vild",
            labels="labels.json",
            label_embeddings="labels.bin",
        ),
    )
    files = {name: data for graph in graphs for name, data in graph.files.items()}
    files["labels.json"] = json.dumps(names).encode()
    files["labels.bin"] = random_texts(len(names), config.embed_dim).astype("<f4").tobytes()
    return write_bundle(target, manifest, files)
