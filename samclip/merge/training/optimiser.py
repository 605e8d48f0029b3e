"""The optimiser of a stage: its schedule, the parts of the model that it trains, and AdamW."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from samclip.errors import ConfigError, TrainingError, did_you_mean
from samclip.merge.config.stages import STREAMS, Batch, StreamName, TrainStage

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def counted_stream(stage: TrainStage) -> StreamName:
    """Return the stream on which a stage's epochs are counted: the first that it has."""
    return next(stream for stream in STREAMS if getattr(stage, stream) is not None)


def schedule_length(stage: TrainStage, photos: int) -> int:
    """Return the steps of a stage's whole schedule; an epoch is each of `photos` once."""
    if stage.steps is not None:
        return stage.steps
    batch: Batch | None = getattr(stage, counted_stream(stage))
    per_step = batch.batch if batch is not None else 1
    return max(1, math.ceil((stage.epochs or 0) * photos / per_step))


def steps_to_run(stage: TrainStage, photos: int) -> int:
    """Return the number of steps to run: the share `stop` of the schedule, at least one."""
    return max(1, round(stage.stop * schedule_length(stage, photos)))


def learning_rate(stage: TrainStage, step: int, length: int) -> float:
    """Return the learning rate of step 0, 1, ... of a schedule of `length` steps.

    A linear warm-up to the full rate, then half a cosine (Loshchilov and Hutter, 2017, equation 5)
    down to the share `floor` of it. SAM-CLIP does not state its schedule.
    """
    warmup = math.ceil(stage.warmup * length)
    if step < warmup:
        return stage.learning_rate * (step + 1) / warmup
    if stage.schedule == "constant":
        return stage.learning_rate
    progress = (step - warmup) / max(1, length - warmup)
    falling = 0.5 * (1 + math.cos(math.pi * progress))
    return stage.learning_rate * (stage.floor + (1 - stage.floor) * falling)


@dataclass(frozen=True)
class TrainedParameter:
    """A trained parameter, with its name and its factor on the learning rate."""

    name: str
    parameter: nn.Parameter
    factor: float


def select_parts(model: nn.Module, train: Mapping[str, float]) -> tuple[TrainedParameter, ...]:
    """Return the parameters within the parts named in `train`.

    A name such as `image_encoder.neck` stands for that module and everything in it. Where several
    names match, the longest counts, as in `{ image_encoder = 0.1, "image_encoder.neck" = 1.0 }`. A
    factor of 0 freezes. Raises ConfigError for a name that matches nothing, with the nearest that
    does.
    """
    names = [name for name, _ in model.named_parameters()]
    for part in train:
        if not any(_is_within(name, part) for name in names):
            known = {".".join(name.split(".")[:depth]) for name in names for depth in (1, 2, 3)}
            top = dict.fromkeys(name.partition(".")[0] for name in names)
            hint = did_you_mean(part, sorted(known)) or f"; there are {', '.join(top)}"
            raise ConfigError(f"train names {part!r}, and the model has no such part{hint}")
    trained = []
    for name, parameter in model.named_parameters():
        matching = [part for part in train if _is_within(name, part)]
        factor = train[max(matching, key=len)] if matching else 0.0
        if factor > 0:
            trained.append(TrainedParameter(name, parameter, factor))
    return tuple(trained)


def _is_within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def freeze_all_but(
    model: nn.Module,
    trained: Sequence[TrainedParameter],
    batch_norms: Literal["frozen", "moving"] = "frozen",
) -> None:
    """Freeze all parameters except `trained`, and put the model in eval mode.

    With `moving` batch norms, those among `trained` are in training mode.
    """
    model.eval().requires_grad_(False)
    for part in trained:
        part.parameter.requires_grad_(True)
    if batch_norms == "moving":
        for module in trained_norms(model, {part.name for part in trained}).values():
            module.train()


def trained_norms(model: nn.Module, names: Collection[str]) -> dict[str, nn.BatchNorm2d]:
    """Return, by name, the batch norms whose scale is among the parameters `names`."""
    norms = ((n, m) for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d))
    return {name: module for name, module in norms if f"{name}.weight" in names}


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode for the block, then restore the modules in training mode."""
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


class PartsOptimiser:
    """AdamW (Loshchilov and Hutter, 2019) with a factor on the learning rate of each part.

    Vectors, such as biases and scales of norms, have no weight decay.
    """

    def __init__(self, trained: Sequence[TrainedParameter], stage: TrainStage) -> None:
        self._trained = tuple(trained)
        groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
        for part in self._trained:
            decay = stage.weight_decay if part.parameter.ndim > 1 else 0.0
            groups.setdefault((part.factor, decay), []).append(part.parameter)
        self._adamw = torch.optim.AdamW(
            [
                {"params": parameters, "factor": factor, "weight_decay": decay}
                for (factor, decay), parameters in groups.items()
            ],
            lr=stage.learning_rate,
            betas=stage.betas,
        )

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The trained parameters, in the model's order."""
        return [part.parameter for part in self._trained]

    def clear(self) -> None:
        """Drop all gradients."""
        self._adamw.zero_grad(set_to_none=True)

    def step(self, rate: float) -> None:
        """Update every parameter at the learning rate `rate` times its factor."""
        for group in self._adamw.param_groups:
            group["lr"] = rate * group["factor"]
        self._adamw.step()

    def state(self) -> dict[str, Tensor]:
        """Return the moments of all parameters updated so far, by `<moment>.<parameter's name>`."""
        return {
            f"{moment}.{part.name}": self._adamw.state[part.parameter][moment]
            for part in self._trained
            if part.parameter in self._adamw.state
            for moment in MOMENTS
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore the result of `state`; raises TrainingError for that of other parameters."""
        known = {part.name: part.parameter for part in self._trained}
        for name in [key.removeprefix("step.") for key in state if key.startswith("step.")]:
            if name not in known or any(f"{moment}.{name}" not in state for moment in MOMENTS):
                raise TrainingError(
                    f"the state's optimiser does not fit the parameter {name}; start the run "
                    "again with --restart"
                )
            device = known[name].device
            moments = {moment: state[f"{moment}.{name}"].clone() for moment in MOMENTS}
            self._adamw.state[known[name]] = {
                moment: tensor if moment == "step" else tensor.to(device)
                for moment, tensor in moments.items()
            }
