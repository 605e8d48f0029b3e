"""A full-size ViT-B merged model through the whole export, and back from its bundle."""

from pathlib import Path

import numpy as np
import pytest
import torch

from samclip.engines.base import EngineOptions
from samclip.engines.registry import get_backend
from samclip.export.exporter import Export, export_bundle
from samclip.export.families.merged_assembly import Checkpoints, assemble
from samclip.export.models.merged import MergedConfig, MergedModel
from samclip.export.options import ExportOptions
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.pixels.image import load_image, photo_paths, preprocess

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SAM ViT-B file with segment-anything's keys; random weights, positions included."""
    torch.manual_seed(0)
    model = MergedModel(MergedConfig("vit_b"))
    for name, parameter in model.image_encoder.named_parameters():
        if "pos" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("clip_head.")}
    path = tmp_path_factory.mktemp("sam") / "sam_vit_b.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module", params=[1024, 512])
def export(
    request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Export:
    photos = tmp_path_factory.mktemp("photos")
    (photos / "coffee.jpg").write_bytes(photo_paths()[2].read_bytes())
    options = ExportOptions(
        checkpoint=checkpoint,
        output=tmp_path_factory.mktemp("out") / f"vit_b-{request.param}",
        image_size=request.param,
        head_pool=2 if request.param == 1024 else 1,
        attention=("chunk", "bias") if request.param == 512 else ("chunk",),
        photos=photos,
    )
    return export_bundle(options)


def test_every_graph_equals_torch(export: Export) -> None:
    rows = export.manifest.parity
    assert {row.graph for row in rows} == {
        *("encoder", "clip_head", "mask_decoder", "image_keys", "point_decoder")
    }
    assert all(row.max_rel_error <= 1e-4 for row in rows)


def test_the_bundles_encoder_equals_the_checkpoint(export: Export, checkpoint: Path) -> None:
    pixels = export.manifest.preprocessing
    image, _ = preprocess(load_image(photo_paths()[0]), pixels)
    backend = get_backend("onnxruntime")
    source = Bundle.open(export.path).source("encoder", "onnxruntime")
    engine = backend.load(source, EngineOptions())
    found = engine.run({"image": image})["image_embeddings"].numpy()
    engine.close()
    model = assemble(Checkpoints(checkpoint), image_size=pixels.image_size).model
    with torch.inference_mode():
        expected = model.image_encoder(torch.from_numpy(image))[1].numpy()
    assert np.abs(found - expected).max() / np.abs(expected).max() <= 1e-4
