import pytest
from torch import nn

from samclip.errors import ConfigError
from samclip.export.models.norms import ConvNorm
from samclip.merge.training.optimiser import eval_mode, freeze_all_but, select_parts


class Neck(nn.Module):
    """An encoder's end, with a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)


def model() -> nn.Module:
    encoder = nn.ModuleDict({"trunk": nn.Linear(2, 2), "neck": Neck(), "neck2": nn.Linear(2, 2)})
    return nn.ModuleDict({"image_encoder": encoder, "clip_head": nn.Linear(2, 2)})


def factors(train: dict[str, float]) -> dict[str, float]:
    return {part.name: part.factor for part in select_parts(model(), train)}


def test_a_part_is_all_that_lies_within() -> None:
    assert factors({"clip_head": 1.0}) == {"clip_head.weight": 1.0, "clip_head.bias": 1.0}
    assert set(factors({"image_encoder.neck": 1.0})) == {
        "image_encoder.neck.conv.weight",
        "image_encoder.neck.conv.bias",
        "image_encoder.neck.norm.weight",
        "image_encoder.neck.norm.bias",
    }  # and not image_encoder.neck2
    assert factors({"clip_head.bias": 2.0}) == {"clip_head.bias": 2.0}


def test_the_longest_part_counts() -> None:
    found = factors({"image_encoder": 0.1, "image_encoder.neck": 1.0, "image_encoder.neck2": 0})
    assert found["image_encoder.trunk.weight"] == 0.1
    assert found["image_encoder.neck.conv.weight"] == 1.0
    assert "image_encoder.neck2.weight" not in found  # a factor of 0 freezes


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("image_encoder.nek", "image_encoder.neck"), ("clip_hed", "clip_head")],
)
def test_a_part_that_is_none_is_named_with_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"{wrong!r}.*did you mean '{near}'"):
        factors({wrong: 1.0})


def test_a_part_like_no_other_gets_a_list() -> None:
    with pytest.raises(ConfigError, match="there are image_encoder, clip_head"):
        factors({"xyz": 1.0})


def test_all_else_is_frozen() -> None:
    whole = model().train()
    trained = select_parts(whole, {"image_encoder.neck": 1.0})
    freeze_all_but(whole, trained)
    moving = {name for name, p in whole.named_parameters() if p.requires_grad}
    assert moving == {part.name for part in trained}
    assert not any(module.training for module in whole.modules())  # statistics never move
    freeze_all_but(whole, select_parts(whole, {"clip_head": 1.0}))
    moving = {name for name, p in whole.named_parameters() if p.requires_grad}
    assert moving == {"clip_head.weight", "clip_head.bias"}


def test_moving_batch_norms_are_still_during_an_evaluation() -> None:
    whole = nn.Sequential(ConvNorm(3, 4), ConvNorm(4, 4))
    freeze_all_but(whole, select_parts(whole, {"1": 1.0}), "moving")
    assert [module for module in whole.modules() if module.training] == [whole[1].bn]
    with eval_mode(whole):
        assert not any(module.training for module in whole.modules())
    assert [module for module in whole.modules() if module.training] == [whole[1].bn]
    freeze_all_but(whole, select_parts(whole, {"1": 1.0}), "frozen")
    assert not any(module.training for module in whole.modules())
