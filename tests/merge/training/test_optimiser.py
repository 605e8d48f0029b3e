import pytest
import torch
from torch import Tensor, nn

from samclip.errors import TrainingError
from samclip.merge.config.stages import Batch, Losses, TrainStage
from samclip.merge.training.optimiser import PartsOptimiser, select_parts

STAGE = TrainStage(
    name="one",
    steps=1,
    learning_rate=0.1,
    weight_decay=0.5,
    train={"fast": 1.0, "slow": 0.1},
    losses=Losses(clip=1),
    names=Batch(batch=1, size=64),
)


def model() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"fast": nn.Linear(3, 3), "slow": nn.Linear(3, 3)})


def optimiser(whole: nn.Module) -> PartsOptimiser:
    return PartsOptimiser(select_parts(whole, STAGE.train), STAGE)


def give(whole: nn.Module, value: float) -> None:
    for parameter in whole.parameters():
        parameter.grad = torch.full_like(parameter, value)


def weights(whole: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in whole.named_parameters()}


def test_each_part_has_its_rate_and_vectors_do_not_decay() -> None:
    whole = model()
    before = weights(whole)
    steps = optimiser(whole)
    give(whole, 1.0)
    steps.step(0.01)
    after = weights(whole)
    # Adam's first step is the rate in the direction of the gradient; decay is rate x 0.5 x weight.
    for name, rate in (("fast", 0.01), ("slow", 0.001)):
        bias, weight = f"{name}.bias", f"{name}.weight"
        torch.testing.assert_close(after[bias], before[bias] - rate, rtol=0, atol=1e-6)
        decayed = before[weight] * (1 - rate * 0.5) - rate
        torch.testing.assert_close(after[weight], decayed, rtol=0, atol=1e-6)


def test_a_state_goes_on_where_it_was() -> None:
    one, other = model(), model()
    first, second = optimiser(one), optimiser(other)
    for value in (1.0, -0.5, 2.0):
        for steps, whole in ((first, one), (second, other)):
            give(whole, value)
            steps.step(0.01)
    third = optimiser(other)
    third.load(first.state())
    for steps, whole in ((first, one), (third, other)):
        give(whole, 0.7)
        steps.step(0.01)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_what_never_moved_has_no_state() -> None:
    assert optimiser(model()).state() == {}
    whole = model()
    steps = optimiser(whole)
    give(whole, 1.0)
    steps.clear()
    assert all(parameter.grad is None for parameter in whole.parameters())


@pytest.mark.parametrize("change", ["other name", "moment missing"])
def test_a_state_of_other_parameters_is_refused(change: str) -> None:
    whole = model()
    steps = optimiser(whole)
    give(whole, 1.0)
    steps.step(0.01)
    state = steps.state()
    if change == "other name":
        state = {key.replace("fast", "gone"): value for key, value in state.items()}
    else:
        del state["exp_avg.fast.bias"]
    with pytest.raises(TrainingError, match="does not fit the parameter"):
        optimiser(model()).load(state)
