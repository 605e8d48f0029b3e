"""Open-Vocabulary SAM's graphs, run by ONNX Runtime, against torch; the samples of a photo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from reference_segment_anything import relative_error
from small_ovsam import SMALL_OVSAM, random_ovsam, small_assembly
from torch import Tensor

from samclip.export import graphs
from samclip.export.families.ovsam import (
    OVSAM_ENCODER_OUTPUTS,
    ROI_MAX_OPSET,
    clip_roi_spec,
    example_boxes,
    ovsam_encoder_spec,
    ovsam_exportable,
    ovsam_mask_decoder_spec,
    roi_classifier_spec,
)
from samclip.export.graphs import GraphSpec
from samclip.export.models.attention import Lowering
from samclip.export.models.ovsam.clip_resnet import ResNetConfig
from samclip.export.models.ovsam.convnext import ConvNextConfig
from samclip.export.models.ovsam.decoder import PromptedLabelDecoder
from samclip.export.models.ovsam.model import OVSAM_CONFIGS, Ovsam, OvsamConfig, OvsamEncoder
from samclip.export.models.ovsam.roi_classifier import STRIDES, level_of
from samclip.runtime.assets import packaged_photos
from samclip.runtime.pixels.image import Letterbox

Sizes = Iterable[tuple[int, int]]  # of boxes and texts
TOLERANCE = 1e-4  # largest difference over the largest magnitude, float32
CONVNEXT = replace(
    SMALL_OVSAM, backbone=ConvNextConfig((8, 16, 16, 24), (1, 1, 2, 1), embed_dim=24)
)
FORBIDDEN = {"OneHot", "NonZero", "ScatterND", "If", "Loop", "Range", "Tile", "BatchNormalization"}


@pytest.fixture(scope="module")
def model() -> Ovsam:
    return random_ovsam()


class Exported:
    """A graph on disk, its weights in a file next to it, so that a large one is in memory once."""

    def __init__(self, spec: GraphSpec, folder: Path, opset: int = 20) -> None:
        with torch.no_grad():
            model = graphs.export_graph(spec, opset)
        assert {node.domain for node in model.graph} == {""}  # no custom operators
        self.operators = Counter(node.op_type for node in model.graph)
        assert not FORBIDDEN & set(self.operators)
        path = folder / f"{spec.name}.onnx"
        ir.save(model, path, external_data=f"{spec.name}.data")
        del model
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def check(self, feeds: dict[str, Tensor], expected: Iterable[Tensor]) -> None:
        arrays = self.session.run(None, {name: value.numpy() for name, value in feeds.items()})
        for found, wanted in zip(arrays, expected, strict=True):
            assert relative_error(torch.from_numpy(found), wanted) < TOLERANCE


def random_regions(count: int, texts: int, config: OvsamConfig) -> dict[str, Tensor]:
    """Boxes of every level, some beyond the image; unit rows of text."""
    size, width = config.image_size, config.embed_dim
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, 2, generator=generator) * 1.2 * size - 0.1 * size
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    rows = torch.randn(texts, width, generator=generator)
    return {"boxes": boxes, "text": F.normalize(rows, dim=-1)}


def random_prompts(count: int, points: int, size: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(10 * count + points)
    labels = torch.randint(-1, 4, (count, points), generator=generator).float()
    return {
        "point_coords": torch.rand(count, points, 2, generator=generator) * size,
        "point_labels": labels,
        "mask_input": torch.randn(count, 1, size // 4, size // 4, generator=generator),
        "has_mask_input": torch.arange(count).remainder(2).float(),
    }


@pytest.fixture(scope="module")
def convnext() -> Ovsam:
    return random_ovsam(CONVNEXT)


def check_encoder(model: Ovsam, folder: Path, lowering: Lowering, opset: int) -> None:
    size = model.config.image_size
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        outputs = OvsamEncoder(model)(image)
    assert len(outputs) == len(OVSAM_ENCODER_OUTPUTS)
    Exported(ovsam_encoder_spec(model, lowering), folder, opset).check({"image": image}, outputs)


@pytest.mark.parametrize(
    ("lowering", "opset"),
    [
        ("bias", 18),
        ("fold", 20),
        pytest.param("chunk", 20, marks=pytest.mark.slow),
        pytest.param("fused", 23, marks=pytest.mark.slow),
    ],
)
def test_encoder(lowering: Lowering, opset: int, model: Ovsam, tmp_path: Path) -> None:
    check_encoder(model, tmp_path, lowering, opset)


def test_the_lowering_of_a_graph_leaves_the_model_alone(model: Ovsam) -> None:
    ovsam_encoder_spec(model, "fold")
    assert {block.attn.lowering for block in model.neck.blocks} == {"bias"}
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in model.backbone.modules())


def check_decoder(model: Ovsam, folder: Path, opset: int) -> None:
    config = model.config
    graph = Exported(ovsam_mask_decoder_spec(model), folder, opset)
    decoder = PromptedLabelDecoder(model.prompt_encoder, model.mask_decoder).eval()
    grid = config.image_size // 16
    with torch.no_grad():
        for count, points in ((1, 1), (1, 2), (3, 5)):
            embeddings = torch.randn(1, config.neck.out_channels, grid, grid)
            feeds = {"image_embeddings": embeddings}
            feeds |= random_prompts(count, points, config.image_size)
            graph.check(feeds, [decoder(**feeds)])


@pytest.mark.parametrize("opset", [20, pytest.param(23, marks=pytest.mark.slow)])
def test_mask_decoder(opset: int, model: Ovsam, tmp_path: Path) -> None:
    check_decoder(model, tmp_path, opset)


def check_classifier(model: Ovsam, folder: Path, opset: int, sizes: Sizes) -> None:
    graph = Exported(roi_classifier_spec(model), folder, opset)
    assert graph.operators["RoiAlign"] == 4
    size, width = model.config.image_size, model.config.fpn_channels
    levels = {f"fpn_{s}": torch.randn(1, width, size // s, size // s) for s in STRIDES}
    with torch.no_grad():
        for boxes, texts in sizes:
            feeds = levels | random_regions(boxes, texts, model.config)
            expected = model.roi_classifier(**feeds)
            assert expected.shape == (boxes, texts)
            graph.check(feeds, [expected])


def check_clip(model: Ovsam, folder: Path, opset: int, sizes: Sizes) -> None:
    graph = Exported(clip_roi_spec(model), folder, opset)
    config = model.config
    assert graph.operators["RoiAlign"] == isinstance(config.backbone, ResNetConfig)
    size, width = config.image_size, config.backbone.channels[-1]
    c5 = {"c5": torch.randn(1, width, size // 32, size // 32)}
    with torch.no_grad():
        for boxes, texts in sizes:
            regions = random_regions(boxes, texts, config)
            if isinstance(config.backbone, ConvNextConfig):
                masks = torch.randn(boxes, 1, size // 4, size // 4)
                masks[-1] = -1.0  # covers no cell
                regions = {"low_res_masks": masks, "text": regions["text"]}
            graph.check(c5 | regions, [model.clip_roi(**c5, **regions)])


# One name, COCO's, LVIS's, and the paper's 22,000.
VOCABULARIES = ((1, 1), (5, 80), (17, 1203), (2, 22_000))


@pytest.mark.parametrize("opset", [pytest.param(18, marks=pytest.mark.slow), ROI_MAX_OPSET])
def test_classifiers(opset: int, model: Ovsam, tmp_path: Path) -> None:
    check_classifier(model, tmp_path, opset, VOCABULARIES)
    check_clip(model, tmp_path, opset, VOCABULARIES)


def test_graphs_of_a_convnext(convnext: Ovsam, tmp_path: Path) -> None:
    check_encoder(convnext, tmp_path, "bias", 20)
    check_clip(convnext, tmp_path, 20, VOCABULARIES[:2])


@pytest.mark.slow
@pytest.mark.parametrize("part", ["encoder", "decoder", "classifier", "clip"])
def test_graphs_in_full(part: str, tmp_path: Path) -> None:
    """RN50x16 and ViT-H's blocks at 1024 px; the encoder takes 5 GB."""
    model = random_ovsam(OVSAM_CONFIGS["ovsam-rn50x16"])
    if part == "encoder":
        check_encoder(model, tmp_path, "chunk", 20)
    elif part == "decoder":
        check_decoder(model, tmp_path, 20)
    elif part == "classifier":
        check_classifier(model, tmp_path, 20, [(3, 80)])
    else:
        check_clip(model, tmp_path, 20, [(3, 80)])


@pytest.mark.parametrize("side", [128, 512, 1024])
def test_boxes_are_of_every_level_and_far_from_its_limits(side: int) -> None:
    boxes = example_boxes(Letterbox.fit((300, 400), side))
    middle = ((boxes[:, :2] + boxes[:, 2:]) / 2).repeat(1, 2)  # Nx4
    for factor in (0.8, 1.0, 1.2):  # of their sides
        assert {0, 1, 2, 3} <= set(level_of(middle + factor * (boxes - middle)).tolist())
    assert boxes[0].tolist() == [0, 0, side, 0.75 * side]


@pytest.mark.parametrize("config", [SMALL_OVSAM, CONVNEXT], ids=["resnet", "convnext"])
def test_a_photo_gives_samples_of_every_graph(config: OvsamConfig) -> None:
    subject = ovsam_exportable(small_assembly(random_ovsam(config)))
    samples = subject.samples(packaged_photos() / "coffee.jpg")
    assert {sample.image for sample in samples} == {"coffee.jpg"}
    assert Counter(sample.graph for sample in samples) == {
        "encoder": 1,
        "mask_decoder": 3,
        "image_keys": 1,
        "point_decoder": 2,
        "roi_classifier": 2,
        "clip_roi": 2,
    }
    for sample in samples:
        for array in sample.expected.values():
            assert np.isfinite(array).all()
            assert np.ptp(array) > 0 or array.size == 1
    shapes = [s.expected["logits"].shape for s in samples if s.graph == "roi_classifier"]
    assert shapes == [(5, 16), (1, 1)]
    (several, one) = (s.expected["clip_logits"] for s in samples if s.graph == "clip_roi")
    assert several.shape == (5, 16)
    assert one.shape == (1, 1)
