"""The teacher against the model that it wraps, and its masks of a photo."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from samclip.errors import CheckpointError, InputError
from samclip.export.checkpoints.metadata import SAM_MEAN, SAM_STD
from samclip.export.families.merged_assembly import Checkpoints, assemble
from samclip.export.models.mask_decoder import PromptedMaskDecoder
from samclip.merge.data.mask_prompts import point_prompts
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.data.views import WHOLE_PHOTO, draw_view, render
from samclip.merge.teachers.base import MaskTeacher
from samclip.merge.teachers.region_teacher import RegionOptions, find_regions
from samclip.merge.teachers.sam import Sam

SIZE = 256


@pytest.fixture(scope="module")
def sam(mobile_sam_checkpoint: Path) -> MaskTeacher:
    return Sam(mobile_sam_checkpoint, SIZE, prompts_at_once=2)


def seen(photo: NDArray[np.uint8], size: int) -> PixelBatch:
    square, shown = render(draw_view(WHOLE_PHOTO, size, photo.shape[:2], 0), photo)
    return PixelBatch(square[None], torch.tensor([shown]))


def test_answers_are_those_of_the_model(
    sam: MaskTeacher, mobile_sam_checkpoint: Path, photo: NDArray[np.uint8]
) -> None:
    model = assemble(Checkpoints(mobile_sam_checkpoint), image_size=SIZE).model
    batch, prompts = seen(photo, SIZE), point_prompts(torch.tensor([[128.0, 80], [9, 9], [60, 90]]))
    with torch.no_grad():
        _, embeddings = model.image_encoder(batch.normalised(SAM_MEAN, SAM_STD))
        decoder = PromptedMaskDecoder(model.prompt_encoder, model.mask_decoder)
        no_mask = torch.zeros(3, 1, 64, 64)
        iou, logits = decoder(embeddings, prompts.coords, prompts.labels, no_mask, torch.zeros(3))
    # The batch norms are folded, and prompts are decoded two at a time.
    assert float((sam.encode(batch) - embeddings).abs().max()) < 1e-4
    answer = sam.masks(embeddings, prompts)
    assert float((answer.logits - logits).abs().max()) < 1e-3  # of logits up to 20
    assert float((answer.iou - iou).abs().max()) < 1e-5


def test_nothing_of_it_learns(sam: MaskTeacher, photo: NDArray[np.uint8]) -> None:
    batch = seen(photo, SIZE)
    batch.pixels.requires_grad_()
    embeddings = sam.encode(batch)
    assert not embeddings.requires_grad
    assert not sam.masks(embeddings, point_prompts(torch.zeros(1, 2))).logits.requires_grad


def test_pictures_of_another_size_are_scaled(sam: MaskTeacher, photo: NDArray[np.uint8]) -> None:
    embeddings = sam.encode(seen(photo, 512))
    assert embeddings.shape == (1, 256, 16, 16)
    direct = sam.encode(seen(photo, SIZE))
    cosine = torch.nn.functional.cosine_similarity(embeddings, direct, dim=1)
    assert float(cosine.mean()) > 0.95  # another filter, the same picture


def test_it_finds_the_cup(sam: MaskTeacher, photo: NDArray[np.uint8]) -> None:
    batch = seen(photo, SIZE)
    regions = find_regions(sam, batch, sam.encode(batch), RegionOptions(points_per_side=4))
    assert 3 <= len(regions) <= 24
    assert not regions.masks[:, 43:].any()  # 400 of 600 rows are 171 of 256, and 43 of 64
    on_cup = regions.masks[:, 20, 32]
    assert on_cup.any()
    assert not on_cup.all()


def test_fingerprints_distinguish_sizes(sam: MaskTeacher, mobile_sam_checkpoint: Path) -> None:
    assert Sam(mobile_sam_checkpoint, SIZE).fingerprint == sam.fingerprint
    assert Sam(mobile_sam_checkpoint, 128).fingerprint != sam.fingerprint


def test_embeddings_of_several_pictures_are_refused(sam: MaskTeacher) -> None:
    with pytest.raises(InputError, match="expected those of one picture, 1x256x16x16"):
        sam.masks(torch.zeros(2, 256, 16, 16), point_prompts(torch.zeros(1, 2)))


def test_what_is_no_sam_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="SAM, MobileSAM or merged checkpoint"):
        Sam(tmp_path / "other.pt", SIZE)
