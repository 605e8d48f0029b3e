"""Models cropped to a part of their square: the same weights, and the answers of that part."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from reference_segment_anything import randomise, relative_error
from small_radio import random_radio
from torch import Tensor

from samclip.errors import CheckpointError
from samclip.export.models.attention import LOWERINGS, set_attention_lowering
from samclip.export.models.block import SamVitBlock
from samclip.export.models.clip_head import ClipHeadConfig, SamClipHead
from samclip.export.models.conse_head import ConseHead, ConseHeadConfig
from samclip.export.models.mask_decoder import (
    ImageKeys,
    PointDecoder,
    PromptedMaskDecoder,
    SamMaskDecoder,
    in_rows,
)
from samclip.export.models.merged import MergedConfig, MergedModel, embed_padding, share_weights
from samclip.export.models.prompt_encoder import OUTSIDE, PromptEncoder
from samclip.export.models.sam_vit import SamVit, SamVitConfig
from samclip.export.models.stitched_encoder import StitchedEncoder

TOLERANCE = 1e-5  # of the largest magnitude, float32
SIDE, CANVAS = 128, (96, 128)
GRID, CELLS = 8, (6, 8)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("lowering", LOWERINGS)
def test_a_block_has_the_middle_of_its_tables(lowering: str) -> None:
    square, small = SamVitBlock(32, 2, (GRID, GRID)), SamVitBlock(32, 2, CELLS)
    randomise(square)
    state = square.state_dict()
    for name, count in zip(("rel_pos_h", "rel_pos_w"), CELLS, strict=True):
        state[f"attn.{name}"] = state[f"attn.{name}"][GRID - count : GRID + count - 1]
    small.load_state_dict(state)
    square.crop(CELLS)
    for block in (square, small):
        set_attention_lowering(block, lowering)  # type: ignore[arg-type]
    x = noise(2, *CELLS, 32)
    assert relative_error(square(x), small(x)) < TOLERANCE


@torch.no_grad()
def test_sams_vit_has_the_positions_of_the_upper_left() -> None:
    config = SamVitConfig(width=32, depth=2, num_heads=2, global_blocks=(), window_size=2)
    square = SamVit(config, SIDE)
    randomise(square)
    cropped = share_weights(square)
    cropped.crop(CANVAS)
    image = noise(1, 3, SIDE, SIDE)
    whole, part = square(image), cropped(image[:, :, : CANVAS[0]])
    # Windows of two tokens never meet what was cut off: before the neck they are the same.
    assert relative_error(part[0], whole[0][:, :, : CELLS[0]]) < TOLERANCE
    assert part[1].shape == (1, 256, *CELLS)
    assert square(image)[0].shape == (1, 32, GRID, GRID)  # the original is as it was
    assert {id(p) for p in cropped.parameters()} == {id(p) for p in square.parameters()}


@torch.no_grad()
def test_a_coarse_look_sees_the_squares_padding() -> None:
    encoder = StitchedEncoder(256, pyramid=(1, 4)).eval()
    image = noise(1, 3, 256, 256)
    image[:, :, 160:] = 0
    features = encoder.backbone(image)
    own = encoder.backbone(image[:, :, :160])
    whole, part = encoder.last_maps(image, features), encoder.last_maps(image[:, :, :160], own)
    levels = part.shape[1] // 2
    assert part.shape == (1, whole.shape[1], 5, 8)
    assert relative_error(part[:, levels:], whole[:, levels:, :5]) < TOLERANCE


@torch.no_grad()
def test_a_recognisers_head_is_that_of_the_square() -> None:
    head = ConseHead(ConseHeadConfig(width=8, embed_dim=12, grid=GRID, levels=2, classes=20)).eval()
    randomise(head)
    head.set_names(noise(20, 12))
    features, mask = noise(1, 16, GRID, GRID), torch.ones(1, GRID, GRID)
    mask[:, CELLS[0] :] = 0
    image, patches = head(features, mask)
    own_image, own_patches = head(features[:, :, : CELLS[0]], torch.ones(1, *CELLS))
    assert relative_error(own_image, image) < TOLERANCE
    assert relative_error(own_patches, patches[:, :, : CELLS[0]]) < TOLERANCE


@torch.no_grad()
def test_sam_clips_head_takes_the_smaller_grid() -> None:
    head = SamClipHead(ClipHeadConfig(width=32, num_heads=2, embed_dim=12, grid=GRID, pool=2))
    randomise(head)
    head.crop(CANVAS, SIDE)
    image, patches = head.eval()(noise(1, 32, *CELLS), torch.ones(1, 3, 4))
    assert image.shape == (1, 12)
    assert patches.shape == (1, 12, 3, 4)


@torch.no_grad()
@pytest.mark.parametrize("canvas", [(96, 128), (128, 80)])
def test_a_decoder_sees_the_squares_padding(canvas: tuple[int, int]) -> None:
    """A canvas's decoder answers as the square's does on the same embeddings, padding filled in."""
    encoder, masks = PromptEncoder(SIDE), SamMaskDecoder().eval()
    for module in (encoder, masks):
        randomise(module)
    points, labels = torch.tensor([[[40.0, 30.0], [70.0, 90.0]]]), torch.tensor([[1.0, 0.0]])
    rows, columns = (side // 16 for side in canvas)
    embeddings, nothing = noise(1, 256, GRID, GRID), noise(2, 256, GRID, GRID)[1:]
    nothing[:, :, :rows, :columns] = embeddings[:, :, :rows, :columns]
    own = embeddings[:, :, :rows, :columns]
    mask = torch.full((1, 1, 4 * GRID, 4 * GRID), OUTSIDE)
    mask[:, :, : 4 * rows, : 4 * columns] = 9 * noise(1, 1, 4 * rows, 4 * columns)
    own_mask = mask[:, :, : 4 * rows, : 4 * columns]
    square = PromptedMaskDecoder(encoder, masks)
    positions, coded = encoder.dense_positions(), encoder.embed_points(points, labels)
    cropped = share_weights(encoder)
    cropped.crop(canvas)
    assert torch.equal(cropped.embed_points(points, labels), coded)
    in_square = positions.reshape(1, GRID, GRID, -1)[:, :rows, :columns].flatten(1, 2)
    assert torch.equal(cropped.dense_positions()[:, : rows * columns], in_square)
    shaped = PromptedMaskDecoder(cropped, masks, embed_padding(nothing, canvas))
    for given in (torch.zeros(1), torch.ones(1)):
        iou, logits = square(nothing, points, labels, mask, given)
        own_iou, own_logits = shaped(own, points, labels, own_mask, given)
        assert own_logits.shape == (1, 4, 4 * rows, 4 * columns)
        assert relative_error(own_iou, iou) < TOLERANCE
        inside = logits[:, :, : 4 * rows, : 4 * columns]
        assert relative_error(own_logits, inside) < TOLERANCE
        blind = square(embeddings, points, labels, mask, given)[1][:, :, : 4 * rows, : 4 * columns]
        assert relative_error(blind, inside) > 100 * TOLERANCE  # what is in the padding matters
    unmasked = shaped(own, points, labels, own_mask, torch.zeros(1))[1]
    assert torch.equal(shaped.without_masks(own, points, labels)[1], unmasked)
    shared = PointDecoder(shaped)(*ImageKeys(shaped)(own), points, labels)[1]
    assert relative_error(shared, unmasked) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("kind", ["vit_t", "radio"])
def test_a_canvas_has_the_padding_of_its_encoder(kind: str) -> None:
    if kind == "radio":
        square = random_radio(SIDE, 0)
        encoder = square.encoder
    else:
        square = MergedModel(MergedConfig("vit_t", image_size=SIDE, embed_dim=8, head_pool=2))
        encoder = square.image_encoder
        randomise(encoder)
    square.train()  # as it is made: batch norms must not count the padding
    before = {name: value.clone() for name, value in square.state_dict().items()}
    padding = square.at_canvas(CANVAS).padding
    assert square.padding is None and padding is not None
    assert all(torch.equal(before[name], value) for name, value in square.state_dict().items())
    nothing = encoder.eval()(torch.zeros(1, 3, SIDE, SIDE))[1]
    expected = nothing[:, :, CELLS[0] :].flatten(2).mT
    assert relative_error(padding, expected) < TOLERANCE
    if kind == "radio":  # the same around every photo, but for the row next to it
        photo = F.pad(noise(1, 3, *CANVAS), (0, 0, 0, SIDE - CANVAS[0]))
        around = encoder(photo)[1][:, :, CELLS[0] + 1 :].flatten(2).mT
        assert relative_error(padding[:, CELLS[1] :], around) < TOLERANCE


@torch.no_grad()
def test_pixels_of_masks_are_in_rows() -> None:
    decoder = SamMaskDecoder().eval()
    embeddings = noise(1, 256, *CELLS)
    tokens = embeddings.flatten(2).mT
    upscaled = decoder.output_upscaling(tokens)  # 1x(16L)xD
    rows = in_rows(upscaled.mT, *CELLS)
    expected = embeddings
    for layer in decoder.output_upscaling:  # as the transposed convolutions that they are
        expected = layer(expected)
    assert relative_error(rows, expected) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("window_size", [0, 2])
def test_c_radio_answers_as_its_square_does_on_a_padded_photo(window_size: int) -> None:
    square = random_radio(SIDE, window_size)
    image = noise(1, 3, *CANVAS)
    padded = F.pad(image, (0, 0, 0, SIDE - CANVAS[0]))
    cropped = square.at_canvas(CANVAS)
    features, embeddings = square.encoder(padded)
    own_features, own_embeddings = cropped.encoder(image)
    inside = 1 + CELLS[0] * CELLS[1]  # the summary, and the rows of the photo
    assert relative_error(own_features, features[..., :inside]) < TOLERANCE
    rows = CELLS[0] - 1  # the neck's 3x3 convolution sees the padding from the last one
    assert relative_error(own_embeddings[:, :, :rows], embeddings[:, :, :rows]) < TOLERANCE
    mask = torch.ones(1, GRID, GRID)
    mask[:, CELLS[0] :] = 0
    image_embed, patches = square.clip_head(features, mask)
    own_embed, own_patches = cropped.clip_head(own_features, torch.ones(1, *CELLS))
    assert relative_error(own_embed, image_embed) < TOLERANCE
    assert relative_error(own_patches, patches[:, :, : CELLS[0]]) < TOLERANCE
    for lowering in LOWERINGS:
        set_attention_lowering(cropped, lowering)
        assert relative_error(cropped.encoder(image)[1], own_embeddings) < TOLERANCE


def test_canvases_are_whole_tokens_of_the_square() -> None:
    model = MergedModel(MergedConfig("vit_t", image_size=SIDE, embed_dim=8, head_pool=2))
    assert model.step == 32
    assert model.at_canvas(CANVAS).canvas == CANVAS
    for wrong in ((80, 128), (96, 96), (160, 128), (0, 128)):
        with pytest.raises(CheckpointError, match="multiples of 32"):
            model.at_canvas(wrong)
