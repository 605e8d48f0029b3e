from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_run import DIM, SIZE, small_vit_b, tiny_student
from torch import Tensor, nn

from samclip.export.models.block import Mlp
from samclip.export.models.mask_decoder import PromptedMaskDecoder
from samclip.export.models.stitched_encoder import StitchedEncoder
from samclip.export.models.tiny_vit import TinyVitMlp
from samclip.merge.data.mask_prompts import Prompts, box_prompts, point_prompts
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.students.merged_student import MergedStudent


def pictures(size: int = SIZE, count: int = 2) -> PixelBatch:
    """Noise, the last picture without its lower half."""
    pixels = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 255
    pixels[-1, :, size // 2 :] = 0
    sizes = torch.tensor([[size, size]] * (count - 1) + [[size // 2, size]])
    return PixelBatch(pixels, sizes)


def points() -> Prompts:
    return point_prompts(torch.tensor([[10.0, 20.0], [30.0, 5.0], [63.0, 31.0]]))


@pytest.fixture(scope="module")
def student() -> MergedStudent:
    return tiny_student()


@pytest.fixture(scope="module")
def stitched() -> MergedStudent:
    return tiny_student(model_type="lite2", pyramid=(1, 2))


@torch.no_grad()
def test_it_computes_what_the_model_computes(student: MergedStudent) -> None:
    batch, model = pictures(), student.model
    encoded = student.encode(batch)
    features, embeddings = model.image_encoder(batch.normalised(student.mean, student.std))
    assert torch.equal(encoded.features, features)
    assert torch.equal(encoded.embeddings, embeddings)
    named = student.names(encoded, batch)
    tokens = model.clip_head.config.tokens
    assert named.image.shape == (2, DIM)
    assert named.patches.shape == (2, DIM, tokens, tokens)
    assert named.token_mask.flatten(1).mean(dim=1).tolist() == [1.0, 0.5]
    image, patches = model.clip_head(features, batch.token_mask(tokens))
    assert torch.equal(named.image, image)
    assert torch.equal(named.patches, patches)


@torch.no_grad()
def test_masks_are_the_exported_decoders(student: MergedStudent) -> None:
    encoded, prompts = student.encode(pictures()), points()
    found = student.masks(encoded, 1, prompts)
    decoder = PromptedMaskDecoder(student.model.prompt_encoder, student.model.mask_decoder)
    side = SIZE // 4
    iou, logits = decoder(
        encoded.embeddings[1:],
        prompts.coords,
        prompts.labels,
        torch.randn(3, 1, side, side),  # ignored by the decoder
        torch.zeros(3),
    )
    assert torch.equal(found.iou, iou)
    assert torch.equal(found.logits, logits)
    other = student.masks(encoded, 1, box_prompts(torch.tensor([[0.0, 0.0, 20.0, 20.0]])))
    assert other.logits.shape == (1, 4, side, side)


def counted(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count the calls of a module's `forward`."""
    calls: list[int] = []
    forward = module.forward

    def count(*inputs: Tensor) -> Tensor:
        calls.append(1)
        return forward(*inputs)  # type: ignore[no-any-return]

    monkeypatch.setattr(module, "forward", count)
    return lambda: len(calls)


@torch.no_grad()
def test_a_loss_computes_only_what_it_needs(
    stitched: MergedStudent, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, batch = stitched.model.image_encoder, pictures()
    assert isinstance(encoder, StitchedEncoder)
    features, embeddings = encoder(batch.normalised(stitched.mean, stitched.std))
    looks, stitches = (
        counted(encoder.backbone, monkeypatch),
        counted(encoder.stitch, monkeypatch),
    )
    named = stitched.encode(batch)
    stitched.names(named, batch)
    assert (looks(), stitches()) == (2, 0)  # at the picture and at half of it
    masked = stitched.encode(batch)
    stitched.masks(masked, 0, points())
    stitched.masks(masked, 1, points())
    assert (looks(), stitches()) == (3, 1)
    stitched.names(masked, batch)
    assert (looks(), stitches()) == (4, 1)  # the whole picture was seen before
    assert torch.equal(named.features, features)
    assert torch.equal(masked.features, features)
    assert torch.equal(masked.embeddings, embeddings)


def gradients(student: MergedStudent, batch: PixelBatch, recompute: bool) -> dict[str, Tensor]:
    """Gradients of a sum of all the student's outputs."""
    model = student.model
    model.zero_grad(set_to_none=True)
    with student.recomputing(batch.size, recompute):
        encoded = student.encode(batch)
        named = student.names(encoded, batch)
        answer = student.masks(encoded, 0, points())
        parts = (named.image, named.patches, answer.logits, answer.iou)
        torch.stack([part.square().mean() for part in parts]).sum().backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("model_type", ["vit_t", "lite2", "vit_b"])
def test_gradient_checkpointing_changes_no_gradient(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_vit_b(monkeypatch)
    student, batch = tiny_student(model_type=model_type), pictures()
    student.model.requires_grad_(True)
    kept = gradients(student, batch, recompute=False)
    mlps = [m for m in student.model.modules() if isinstance(m, Mlp | TinyVitMlp)]
    runs = [counted(mlp, monkeypatch) for mlp in mlps]
    again = gradients(student, batch, recompute=True)
    assert any(run() > 1 for run in runs)  # it did compute twice
    assert kept.keys() == again.keys()
    assert any(name.startswith("image_encoder") for name in kept)
    for name, gradient in kept.items():
        # the same operations on the same numbers: no tolerance
        assert torch.equal(again[name], gradient), name
    assert all("forward" not in vars(m) for m in student.model.modules() if not runs)


def test_a_frozen_encoder_leaves_no_graph(student: MergedStudent) -> None:
    student.model.requires_grad_(False)
    student.model.clip_head.requires_grad_(True)
    encoded = student.encode(pictures())
    assert not encoded.features.requires_grad
    assert student.names(encoded, pictures()).image.requires_grad


def test_other_sizes_share_the_weights(student: MergedStudent, tmp_path: Path) -> None:
    student.model.requires_grad_(False)
    student.model.image_encoder.requires_grad_(True)
    batch = pictures(96)
    encoded = student.encode(batch)
    assert (encoded.size, encoded.embeddings.shape) == (96, (2, 256, 6, 6))
    student.model.zero_grad(set_to_none=True)
    encoded.embeddings.square().mean().backward()
    moved = {n for n, p in student.model.named_parameters() if p.grad is not None}
    assert "image_encoder.neck.0.weight" in moved
    assert student.names(encoded, batch).token_mask.shape[-1] == 6
