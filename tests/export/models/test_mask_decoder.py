from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from onnx_export import operators, run_onnx
from reference_mobile_sam import reference_mobile_sam, sam_input
from reference_segment_anything import (
    randomise,
    reference_mask_decoder,
    reference_prompt_encoder,
    relative_error,
)
from reference_transformers_sam import transformers_sam
from torch import Tensor

from samclip.export.families.decoder_prompts import decoder_graphs
from samclip.export.graphs import GraphSpec, export_graph
from samclip.export.models.mask_decoder import (
    ImageKeys,
    PointDecoder,
    PromptedMaskDecoder,
    SamMaskDecoder,
)
from samclip.export.models.prompt_encoder import PromptEncoder

Prompts = dict[str, Tensor]
OUTPUTS = ("iou_predictions", "low_res_masks")


@pytest.fixture(scope="module")
def decoder() -> PromptedMaskDecoder:
    prompts, masks = PromptEncoder(1024), SamMaskDecoder()
    randomise(prompts, 0)
    randomise(masks, 1)
    return PromptedMaskDecoder(prompts, masks).eval()


@pytest.fixture(scope="module")
def embeddings() -> Tensor:
    return torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(2))


def prompts(batch: int, points: int, mask: bool = False, image_size: int = 1024) -> Prompts:
    """Random prompts in the exported module's words, padded where there is no box."""
    generator = torch.Generator().manual_seed(batch * 10 + points)
    labels = torch.randint(0, 2, (batch, points), generator=generator).float()
    labels[:, -1] = -1
    side = image_size // 4
    return {
        "point_coords": torch.rand(batch, points, 2, generator=generator) * image_size,
        "point_labels": labels,
        "mask_input": 10 * torch.randn(batch, 1, side, side, generator=generator),
        "has_mask_input": torch.full((batch,), float(mask)),
    }


def with_box(given: Prompts) -> Prompts:
    """The same with a box of random corners instead of the padding point."""
    batch = len(given["point_labels"])
    corners = torch.rand(batch, 2, 2, generator=torch.Generator().manual_seed(3)) * 1024
    coords = torch.cat([given["point_coords"][:, :-1], corners], dim=1)
    labels = torch.cat(
        [given["point_labels"][:, :-1], torch.tensor([[2.0, 3.0]]).expand(batch, -1)], dim=1
    )
    return given | {"point_coords": coords, "point_labels": labels}


CASES = {
    "points": prompts(3, 4),
    "points and box": with_box(prompts(3, 3)),
    "box": with_box(prompts(2, 1)),
    "mask": prompts(2, 2, mask=True),
    "box and mask": with_box(prompts(2, 1, mask=True)),
}


def original_arguments(given: Prompts) -> dict[str, Any]:
    """The prompts as the original prompt encoder takes them, which adds the padding itself."""
    coords, labels = given["point_coords"], given["point_labels"]
    boxed = bool((labels[0] == 3).any())
    points, boxes = (coords[:, :-2], coords[:, -2:]) if boxed else (coords[:, :-1], None)
    kept = labels[:, : points.shape[1]]
    masked = bool(given["has_mask_input"][0])
    return {
        "points": (points, kept) if points.shape[1] else None,
        "boxes": None if boxes is None else boxes.reshape(len(boxes), 4),
        "masks": given["mask_input"] if masked else None,
    }


def original_masks(sam: Any, embeddings: Tensor, given: Prompts) -> tuple[Tensor, Tensor]:
    """Run an original prompt encoder and mask decoder: all four masks and their quality."""
    sparse, dense = sam.prompt_encoder(**original_arguments(given))
    masks, iou = sam.mask_decoder.predict_masks(
        embeddings, sam.prompt_encoder.get_dense_pe(), sparse, dense
    )
    return iou, masks


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_equals_segment_anything(
    case: str, decoder: PromptedMaskDecoder, embeddings: Tensor, mobile_sam_reference: Path
) -> None:
    class Sam:
        prompt_encoder = reference_prompt_encoder(
            mobile_sam_reference, 1024, decoder.prompt_encoder.state_dict()
        )
        mask_decoder = reference_mask_decoder(
            mobile_sam_reference, decoder.mask_decoder.state_dict()
        )

    iou, masks = decoder(embeddings, **CASES[case])
    expected_iou, expected_masks = original_masks(Sam, embeddings, CASES[case])
    assert relative_error(iou, expected_iou) < 1e-5
    assert relative_error(masks, expected_masks) < 1e-5


@pytest.fixture(scope="module")
def transformers_model(decoder: PromptedMaskDecoder) -> Any:
    return transformers_sam(decoder.prompt_encoder.state_dict(), decoder.mask_decoder.state_dict())


@torch.no_grad()
@pytest.mark.parametrize("case", ["points", "points and box", "box"])
def test_equals_transformers(
    case: str, decoder: PromptedMaskDecoder, embeddings: Tensor, transformers_model: Any
) -> None:
    iou, masks = decoder(embeddings, **CASES[case])
    given = original_arguments(CASES[case])
    points, boxes = given["points"], given["boxes"]
    for chosen, multimask in ((slice(0, 1), False), (slice(1, None), True)):
        other = transformers_model(
            image_embeddings=embeddings,
            input_points=None if points is None else points[0].unsqueeze(0),
            input_labels=None if points is None else points[1].long().unsqueeze(0),
            input_boxes=None if boxes is None else boxes.unsqueeze(0),
            multimask_output=multimask,
        )
        assert relative_error(iou[:, chosen], other.iou_scores[0]) < 1e-5
        assert relative_error(masks[:, chosen], other.pred_masks[0]) < 1e-5


@torch.no_grad()
def test_equals_transformers_with_a_mask(
    decoder: PromptedMaskDecoder, embeddings: Tensor, transformers_model: Any
) -> None:
    given = prompts(1, 2, mask=True)  # transformers takes one mask for all prompts of an image
    iou, masks = decoder(embeddings, **given)
    other = transformers_model(
        image_embeddings=embeddings,
        input_points=given["point_coords"][None, :, :-1],
        input_labels=given["point_labels"][None, :, :-1].long(),
        input_masks=given["mask_input"],
    )
    assert relative_error(iou[:, 1:], other.iou_scores[0]) < 1e-5
    assert relative_error(masks[:, 1:], other.pred_masks[0]) < 1e-5


@pytest.fixture(scope="module")
def mobile_sam(mobile_sam_reference: Path, mobile_sam_checkpoint: Path) -> Any:
    return reference_mobile_sam(mobile_sam_reference, mobile_sam_checkpoint)


@torch.no_grad()
def test_equals_mobile_sam_with_its_weights(mobile_sam: Any, photo: NDArray[np.uint8]) -> None:
    prompt_encoder, mask_decoder = PromptEncoder(1024), SamMaskDecoder()
    prompt_encoder.load_state_dict(mobile_sam.prompt_encoder.state_dict())
    mask_decoder.load_state_dict(mobile_sam.mask_decoder.state_dict())
    decoder = PromptedMaskDecoder(prompt_encoder, mask_decoder).eval()
    embeddings = mobile_sam.image_encoder(sam_input(photo, 1024))
    for case in ("points and box", "mask"):
        given = CASES[case]
        iou, masks = decoder(embeddings, **given)
        expected_iou, expected_masks = original_masks(mobile_sam, embeddings, given)
        assert relative_error(iou, expected_iou) < 1e-5, case
        assert relative_error(masks, expected_masks) < 1e-5, case


@pytest.fixture(scope="module")
def small_decoder(decoder: PromptedMaskDecoder) -> PromptedMaskDecoder:
    """The same weights for images of 256 px, which run sixteen times as fast."""
    encoder = PromptEncoder(256)
    encoder.load_state_dict(decoder.prompt_encoder.state_dict())
    return PromptedMaskDecoder(encoder, decoder.mask_decoder).eval()


@torch.no_grad()
def test_prompts_do_not_influence_each_other(small_decoder: PromptedMaskDecoder) -> None:
    embeddings, given = torch.randn(1, 256, 16, 16), prompts(3, 4, image_size=256)
    iou, masks = small_decoder(embeddings, **given)
    alone = small_decoder(embeddings, **{key: value[1:2] for key, value in given.items()})
    assert relative_error(alone[0], iou[1:2]) < 1e-5
    assert relative_error(alone[1], masks[1:2]) < 1e-5


@torch.no_grad()
def test_prompts_without_masks_need_no_mask_input(small_decoder: PromptedMaskDecoder) -> None:
    embeddings, given = torch.randn(1, 256, 16, 16), prompts(3, 4, image_size=256)
    found = small_decoder.without_masks(embeddings, given["point_coords"], given["point_labels"])
    for ours, expected in zip(found, small_decoder(embeddings, **given), strict=True):
        assert torch.equal(ours, expected)


@torch.no_grad()
@pytest.mark.parametrize(("batch", "points"), [(1, 2), (3, 5)])
def test_an_images_side_is_computed_once(
    batch: int, points: int, small_decoder: PromptedMaskDecoder
) -> None:
    """In torch and as graphs, which need no mask and have none of its convolutions."""
    image = torch.randn(1, 256, 16, 16)
    given = prompts(batch, points, image_size=256)
    expected = small_decoder(image, **given)
    asked = {key: given[key] for key in ("point_coords", "point_labels")}
    side = ImageKeys(small_decoder)(image)
    found = PointDecoder(small_decoder)(*side, *asked.values())
    for ours, wanted in zip(found, expected, strict=True):
        assert relative_error(ours, wanted) < 1e-5  # float32, in another order

    inputs = {"image_embeddings": image, **prompts(2, 3, image_size=256)}
    batched, both = {0: "prompts"}, {0: "prompts", 1: "points"}
    dynamic = dict.fromkeys(asked, both) | {"mask_input": batched, "has_mask_input": batched}
    whole = GraphSpec("mask_decoder", small_decoder, inputs, OUTPUTS, dynamic)
    files = {
        files.name: files for files in (g.write((), 20) for g in decoder_graphs(lambda: whole))
    }
    keys, decoder = (
        ir.to_proto(next(iter(files[name].models().values()))).SerializeToString()
        for name in ("image_keys", "point_decoder")
    )
    used = {*operators(keys), *operators(decoder)}
    assert not {"Conv", "OneHot", "NonZero", "If", "Loop", "Range", "Tile"} & used
    assert [spec.name for spec in files["point_decoder"].graph.inputs[4:]] == list(asked)
    names = [spec.name for spec in files["image_keys"].graph.outputs]
    made = dict(zip(names, run_onnx(keys, image_embeddings=image), strict=True))
    results = run_onnx(decoder, **made, **asked)
    for result, wanted in zip(results, expected, strict=True):
        assert relative_error(result, wanted) < 1e-4  # that of any export


def exported(decoder: PromptedMaskDecoder, feeds: Prompts, opset: int) -> bytes:
    batch, both = {0: "prompts"}, {0: "prompts", 1: "points"}
    dynamic = {"point_coords": both, "point_labels": both}
    dynamic |= {"mask_input": batch, "has_mask_input": batch}
    spec = GraphSpec("mask_decoder", decoder, feeds, OUTPUTS, dynamic)
    with torch.no_grad():
        data: bytes = ir.to_proto(export_graph(spec, opset)).SerializeToString()
    return data


@torch.no_grad()
# The graph in opset 20 is compared with torch by test_exporter.py.
@pytest.mark.parametrize(
    "opset",
    [18, pytest.param(20, marks=pytest.mark.slow), pytest.param(23, marks=pytest.mark.slow)],
)
def test_export(opset: int, small_decoder: PromptedMaskDecoder) -> None:
    image = {"image_embeddings": torch.randn(1, 256, 16, 16)}
    graph = exported(small_decoder, image | prompts(2, 3, image_size=256), opset)
    found = operators(graph)
    # Nine of the transformer's, two of the mask prompt's, one of the upscaling.
    assert found["LayerNormalization"] == 12
    assert not {"OneHot", "NonZero", "ScatterND", "If", "Loop", "Range", "Tile"} & set(found)
    # The points'; and the grid's, which exporters fold or leave to the backend.
    assert found["Sin"] == found["Cos"] <= 2
    for batch, points, mask in ((1, 2, False), (1, 1, True), (3, 5, False), (2, 3, True)):
        feeds = image | prompts(batch, points, mask, image_size=256)
        expected = small_decoder(**feeds)
        for result, wanted in zip(run_onnx(graph, **feeds), expected, strict=True):
            assert relative_error(result, wanted) < 1e-4, (batch, points)
