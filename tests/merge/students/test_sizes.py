from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from tiny_run import SIZE, small_vit_b, tiny_model
from torch import Tensor, nn

from samclip.errors import TrainingError
from samclip.export.models.merged import MergedModel
from samclip.export.models.pos_embed import fit_positions
from samclip.merge.students.sizes import SizedModels, share

OTHER = 96  # pixels


@pytest.fixture(scope="module")
def vit() -> Iterator[MergedModel]:
    """A small ViT with positions other than zero."""
    with pytest.MonkeyPatch.context() as patch:
        small_vit_b(patch)
        model = tiny_model(model_type="vit_b")
        for name, parameter in model.named_parameters():
            if "pos" in name:
                nn.init.normal_(parameter, std=0.5)
        yield model


def exported(model: MergedModel, size: int) -> MergedModel:
    """The model that export makes of these weights at another size."""
    made = MergedModel(replace(model.config, image_size=size)).eval()
    made.load_state_dict(fit_positions(model.state_dict(), made))
    return made


def results(model: MergedModel, size: int) -> list[Tensor]:
    """The image embeddings and the head's two outputs for a picture of noise."""
    noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    features, embeddings = model.image_encoder(noise)
    tokens = model.clip_head.config.tokens
    return [embeddings, *model.clip_head(features, torch.ones(1, tokens, tokens))]


@pytest.mark.parametrize("model_type", ["vit_b", "vit_t"])
def test_another_size_is_what_export_makes_of_it(model_type: str, vit: MergedModel) -> None:
    model = vit if model_type == "vit_b" else tiny_model()
    sized = SizedModels(model).at(OTHER)
    assert sized.image_encoder.grid == OTHER // 16
    with torch.no_grad():
        for ours, theirs in zip(
            results(sized, OTHER), results(exported(model, OTHER), OTHER), strict=True
        ):
            assert torch.equal(ours, theirs)


def test_the_first_size_is_the_model_itself(vit: MergedModel) -> None:
    sizes = SizedModels(vit)
    assert sizes.at(SIZE) is vit
    assert sizes.at(OTHER) is sizes.at(OTHER)


def test_gradients_of_other_sizes_reach_the_weights(vit: MergedModel) -> None:
    """The gradient at another size, by finite differences of a position and of a weight."""
    sizes = SizedModels(vit.double())
    torch.set_default_dtype(torch.float64)
    try:
        places = {
            "image_encoder.pos_embed": (0, 1, 2, 3),
            "image_encoder.blocks.1.attn.rel_pos_h": (2, 1),
            "image_encoder.blocks.0.mlp.lin1.weight": (5, 7),
        }
        vit.zero_grad(set_to_none=True)
        loss(sizes).backward()
        parameters = dict(vit.named_parameters())
        for name, place in places.items():
            found = parameters[name].grad[place].item()
            assert found != 0, name
            # positions are resampled in float32, hence no more than three digits
            assert found == pytest.approx(slope(sizes, parameters[name], place), rel=1e-3), name
    finally:
        torch.set_default_dtype(torch.float32)
        vit.float()


def loss(sizes: SizedModels) -> Tensor:
    return torch.stack([part.square().mean() for part in results(sizes.at(OTHER), OTHER)]).sum()


@torch.no_grad()
def slope(sizes: SizedModels, parameter: nn.Parameter, place: tuple[int, ...]) -> float:
    """The central difference quotient of the loss, 1e-3 to each side."""
    values = []
    for step in (1e-3, -2e-3):
        parameter[place] += step
        values.append(loss(sizes).item())
    parameter[place] += 1e-3
    return (values[0] - values[1]) / 2e-3


def test_weights_that_move_are_seen_at_every_size(vit: MergedModel) -> None:
    sizes = SizedModels(vit)
    with torch.no_grad():
        before = results(sizes.at(OTHER), OTHER)[0]
        vit.image_encoder.pos_embed += 0.1
        after = results(sizes.at(OTHER), OTHER)[0]
        expected = results(exported(vit, OTHER), OTHER)[0]
    assert not torch.equal(before, after)
    assert torch.equal(after, expected)


def test_what_else_depends_on_the_size_is_refused() -> None:
    first, other = nn.Linear(2, 3), nn.Linear(2, 4)
    with pytest.raises(TrainingError, match="weight has another shape at another image size"):
        share(first, other)  # type: ignore[arg-type]
