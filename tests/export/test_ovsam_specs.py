"""Open-Vocabulary SAM's graphs, run by ONNX Runtime, against the torch modules."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from onnx_export import operators, run_onnx
from reference_segment_anything import relative_error
from small_ovsam import SMALL_OVSAM, random_ovsam
from torch import Tensor

from samclip.export.graphs import GraphSpec, export_graph
from samclip.export.models.ovsam.decoder import PromptedLabelDecoder
from samclip.export.models.ovsam.model import OVSAM_CONFIGS, Ovsam, OvsamEncoder
from samclip.export.ovsam_specs import (
    ENCODER_OUTPUTS,
    clip_roi_spec,
    ovsam_encoder_spec,
    ovsam_mask_decoder_spec,
    roi_classifier_spec,
    roi_opset,
)

TOLERANCE = 1e-4  # largest difference over the largest magnitude, float32
FORBIDDEN = {"OneHot", "NonZero", "ScatterND", "If", "Loop", "Range", "Tile", "BatchNormalization"}


@pytest.fixture(scope="module")
def model() -> Ovsam:
    return random_ovsam()


@pytest.fixture(scope="module")
def image() -> Tensor:
    size = SMALL_OVSAM.image_size
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(5))


def exported(spec: GraphSpec, opset: int = 20) -> bytes:
    with torch.no_grad():
        model = export_graph(spec, opset)
    assert {node.domain for node in model.graph} == {""}  # no custom operators
    data: bytes = ir.to_proto(model).SerializeToString()
    return data


def compare(graph: bytes, feeds: dict[str, Tensor], expected: Iterable[Tensor]) -> None:
    for found, wanted in zip(run_onnx(graph, **feeds), expected, strict=True):
        assert relative_error(found, wanted) < TOLERANCE


def random_regions(count: int, texts: int, config: object = SMALL_OVSAM) -> dict[str, Tensor]:
    """Boxes of every level, some beyond the image; unit rows of text."""
    size, width = config.image_size, config.embed_dim  # type: ignore[attr-defined]
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


def check_encoder(model: Ovsam, image: Tensor, lowering: str, opset: int) -> None:
    spec = ovsam_encoder_spec(model, lowering)  # type: ignore[arg-type]
    graph = exported(spec, opset)
    assert not FORBIDDEN & set(operators(graph))
    with torch.no_grad():
        outputs = OvsamEncoder(model)(image)
    assert len(outputs) == len(ENCODER_OUTPUTS)
    compare(graph, {"image": image}, outputs)


LATER = {"fused": 23, "chunk": 20}  # the two that say little about this encoder alone


@pytest.mark.parametrize(
    ("lowering", "opset"),
    [("bias", 18), ("fold", 20)]
    + [pytest.param(*form, marks=pytest.mark.slow) for form in LATER.items()],
)
def test_encoder(lowering: str, opset: int, model: Ovsam, image: Tensor) -> None:
    check_encoder(model, image, lowering, opset)


def test_the_lowering_of_a_graph_leaves_the_model_alone(model: Ovsam) -> None:
    ovsam_encoder_spec(model, "fold")
    assert {block.attn.lowering for block in model.neck.blocks} == {"bias"}
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in model.backbone.modules())


def check_decoder(model: Ovsam, image: Tensor, opset: int) -> None:
    graph = exported(ovsam_mask_decoder_spec(model), opset)
    assert not FORBIDDEN & set(operators(graph))
    decoder = PromptedLabelDecoder(model.prompt_encoder, model.mask_decoder).eval()
    with torch.no_grad():
        embeddings = OvsamEncoder(model)(image)[0]
        for count, points in ((1, 1), (1, 2), (3, 5), (2, 3)):
            feeds = {"image_embeddings": embeddings}
            feeds |= random_prompts(count, points, model.config.image_size)
            compare(graph, feeds, [decoder(**feeds)])


@pytest.mark.parametrize("opset", [20, pytest.param(23, marks=pytest.mark.slow)])
def test_mask_decoder(opset: int, model: Ovsam, image: Tensor) -> None:
    check_decoder(model, image, opset)


def check_classifiers(
    model: Ovsam, image: Tensor, opset: int, sizes: Iterable[tuple[int, int]]
) -> None:
    head = exported(roi_classifier_spec(model), opset)
    clip = exported(clip_roi_spec(model), opset)
    assert not FORBIDDEN & (set(operators(head)) | set(operators(clip)))
    assert (operators(head)["RoiAlign"], operators(clip)["RoiAlign"]) == (4, 1)
    with torch.no_grad():
        _, *levels, c5 = OvsamEncoder(model)(image)
        for boxes, texts in sizes:
            regions = random_regions(boxes, texts, model.config)
            feeds = dict(zip(ENCODER_OUTPUTS[1:5], levels, strict=True)) | regions
            expected = model.roi_classifier(*levels, **regions)
            assert expected.shape == (boxes, texts)
            compare(head, feeds, [expected])
            compare(clip, {"c5": c5} | regions, [model.clip_roi(c5, **regions)])


# One name, COCO's, LVIS's, and the paper's 22,000.
@pytest.mark.parametrize("opset", [18, roi_opset(23)])
def test_classifiers(opset: int, model: Ovsam, image: Tensor) -> None:
    check_classifiers(model, image, opset, [(1, 1), (5, 80), (17, 1203), (2, 22_000)])


@pytest.mark.slow
def test_all_graphs_in_full() -> None:
    """At full size, with ViT-H's blocks; takes 6 GB."""
    model = random_ovsam(OVSAM_CONFIGS["ovsam-rn50x16"])
    image = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(6))
    check_classifiers(model, image, 20, [(3, 80)])
    check_decoder(model, image, 20)
    check_encoder(model, image, "chunk", 20)
