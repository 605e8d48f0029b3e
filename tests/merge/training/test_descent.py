"""Steps of a stage: sums over micro-batches, averages of weights, values that are not finite."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from photo_sources import ListSource
from tiny_run import ColourNames, ModelMasks, tiny_model, tiny_student
from torch import Tensor

from samclip.errors import TrainingError
from samclip.merge.config.stages import Batch, Losses, MaskBatch, TrainStage
from samclip.merge.data.batches import Processes, StageInputs
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.students.merged_student import MergedStudent
from samclip.merge.teachers.cached_teachers import Teachers
from samclip.merge.training.descent import Descent
from samclip.merge.training.state import Place, State

CPU = torch.device("cpu")


def stage(**changes: Any) -> TrainStage:
    given = {
        "name": "both",
        "steps": 4,
        "learning_rate": 1e-3,
        "warmup": 0.0,
        "train": {"clip_head.mlp": 1.0, "image_encoder.neck": 0.5},
        "losses": Losses(clip=1, embed=2),
        "names": Batch(batch=4, size=64),
        "masks": MaskBatch(batch=2, size=64, prompts=2),
        **changes,
    }
    return TrainStage(**given)


class Setting:
    """A descent with its inputs."""

    def __init__(self, cache: Path, config: TrainStage, names: Any = None) -> None:
        self.student: MergedStudent = tiny_student()
        teachers = Teachers(names or ColourNames(), ModelMasks, lambda: tiny_model(1), cache, CPU)
        accelerator = Accelerator(cpu=True)
        self.descent = Descent(config, self.student, teachers, 0, 4, accelerator)
        photos = ListSource(6)
        self.inputs = StageInputs(config, {"names": photos, "masks": photos}, 0, Processes())

    def weights(self) -> dict[str, Tensor]:
        return {n: p.detach().clone() for n, p in self.student.model.named_parameters()}

    def gradients(self) -> dict[str, Tensor]:
        named = self.student.model.named_parameters()
        return {n: p.grad.clone() for n, p in named if p.requires_grad and p.grad is not None}


def test_micro_batches_add_up_to_the_batch(tmp_path: Path) -> None:
    config = stage(clip_norm=None)
    whole = Setting(tmp_path, config)
    parts = Setting(
        tmp_path,
        stage(
            clip_norm=None,
            names=Batch(batch=4, size=64, micro=3),
            masks=MaskBatch(batch=2, size=64, prompts=2, micro=1),
        ),
    )
    records = [s.descent.step(s.inputs.at(0)) for s in (whole, parts)]
    assert records[0].terms == pytest.approx(records[1].terms, rel=1e-5)
    assert records[0].loss == pytest.approx(
        records[0].terms["clip"] + 2 * records[0].terms["embed"], rel=1e-6
    )
    ours, theirs = whole.gradients(), parts.gradients()
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        # float32 sums in another order, relative to the greatest value
        assert (gradient - theirs[name]).abs().max() <= 1e-5 * gradient.abs().max(), name


def test_only_what_is_trained_moves(tmp_path: Path) -> None:
    setting = Setting(tmp_path, stage())
    before = setting.weights()
    list(setting.descent.steps(setting.inputs, 0, 2))
    after = setting.weights()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith(("clip_head.mlp", "image_encoder.neck")) for name in moved)
    assert {name.split(".")[0] for name in moved} == {"clip_head", "image_encoder"}


def test_gradients_are_clipped(tmp_path: Path) -> None:
    setting = Setting(tmp_path, stage(clip_norm=1e-3))
    record = setting.descent.step(setting.inputs.at(0))
    assert record.gradient_norm > 1e-2  # before the clipping
    total = torch.stack([g.square().sum() for g in setting.gradients().values()]).sum().sqrt()
    assert total.item() == pytest.approx(1e-3, rel=1e-3)


def test_the_average_of_weights_becomes_the_weights(tmp_path: Path) -> None:
    setting, name = Setting(tmp_path, stage(ema=0.75)), "image_encoder.neck.0.weight"
    average = setting.weights()[name]
    for step in range(3):
        setting.descent.step(setting.inputs.at(step))
        average = 0.75 * average + 0.25 * setting.weights()[name]
    assert not torch.allclose(setting.weights()[name], average, rtol=0, atol=1e-6)
    setting.descent.finish()
    torch.testing.assert_close(setting.weights()[name], average, rtol=0, atol=1e-6)


def test_a_state_is_taken_over(tmp_path: Path) -> None:
    whole, first, second = (Setting(tmp_path, stage(ema=0.9)) for _ in range(3))
    for step in range(3):
        whole.descent.step(whole.inputs.at(step))
        if step < 2:
            first.descent.step(first.inputs.at(step))
    state = first.descent.state(State(Place("x", 0, 2), first.weights()))
    second.student.model.load_state_dict(first.student.model.state_dict())
    second.descent.load(state)
    second.descent.step(second.inputs.at(2))
    for setting in (whole, second):
        setting.descent.finish()
    assert all(torch.equal(value, second.weights()[n]) for n, value in whole.weights().items())


class Broken(ColourNames):
    """Answers NaN, or values with infinite gradients, from its third question on."""

    def __init__(self, value: float) -> None:
        self.value, self.asked = value, 0

    def embed(self, batch: PixelBatch) -> Tensor:
        self.asked += 1
        embeds = super().embed(batch)
        return embeds * self.value if self.asked > 2 else embeds


def test_a_loss_that_is_no_number_stops_the_run_and_is_named(tmp_path: Path) -> None:
    setting = Setting(tmp_path, stage(), Broken(float("nan")))
    steps = setting.descent.steps(setting.inputs, 0, 4)
    assert [next(steps).step, next(steps).step] == [0, 1]
    before = setting.weights()
    with pytest.raises(TrainingError, match=r"loss 'clip' is nan in step 2 of stage 'both'.*fp32"):
        next(steps)
    after = setting.weights()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_gradient_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    setting = Setting(tmp_path, stage())
    weight = dict(setting.student.model.named_parameters())["image_encoder.neck.0.weight"]
    weight.register_hook(lambda gradient: gradient * float("inf"))
    before = setting.weights()
    with pytest.raises(TrainingError, match=r"the gradient is (nan|inf) in step 0 of stage 'both'"):
        setting.descent.step(setting.inputs.at(0))
    after = setting.weights()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_part_that_no_loss_reaches_stays(tmp_path: Path) -> None:
    config = stage(losses=Losses(clip=1), masks=None, weight_decay=0.0)
    setting = Setting(tmp_path, config)
    before = setting.weights()
    setting.descent.step(setting.inputs.at(0))
    after = setting.weights()
    assert torch.equal(before["image_encoder.neck.0.weight"], after["image_encoder.neck.0.weight"])
    assert not torch.equal(before["clip_head.mlp.lin1.weight"], after["clip_head.mlp.lin1.weight"])
