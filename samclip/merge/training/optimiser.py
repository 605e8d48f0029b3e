"""AdamW over the trained parts of a model, with a rate for each part.

Which parameters of a model are trained, and how fast.

How long a stage is, and the learning rate of each of its steps.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from samclip.errors import ConfigError, TrainingError
from samclip.merge.config.stages import STREAMS, Batch, StreamName, TrainStage


@dataclass(frozen=True)
class Trained:
    """A parameter that is trained: its name, itself, and the factor on the learning rate."""

    name: str
    parameter: nn.Parameter
    factor: float


def select_parts(model: nn.Module, train: Mapping[str, float]) -> tuple[Trained, ...]:
    """Choose the parameters under the names in `train`.

    A name such as `image_encoder.neck` stands for itself and all within it; of several that fit
    the longest counts, so `{ image_encoder = 0.1, "image_encoder.neck" = 1.0 }` does what it
    says. A factor of 0 freezes. Raises ConfigError for a name that fits nothing, with the nearest
    that does.
    """
    names = [name for name, _ in model.named_parameters()]
    for part in train:
        if not any(_within(name, part) for name in names):
            known = {".".join(name.split(".")[:depth]) for name in names for depth in (1, 2, 3)}
            near = difflib.get_close_matches(part, sorted(known), n=1)
            raise ConfigError(
                f"train names {part!r}, and the model has no such part; "
                + (f"did you mean {near[0]!r}?" if near else f"there are {_tops(names)}")
            )
    factors = ((n, p, _factor(n, train)) for n, p in model.named_parameters())
    return tuple(Trained(name, parameter, f) for name, parameter, f in factors if f > 0)


def freeze_all_but(
    model: nn.Module,
    trained: Sequence[Trained],
    batch_norms: Literal["frozen", "moving"] = "frozen",
) -> None:
    """Let gradients flow into `trained` alone.

    The model is put into eval mode, but for batch norms among `trained` whose statistics are
    `moving`.
    """
    model.eval().requires_grad_(False)
    for part in trained:
        part.parameter.requires_grad_(True)
    if batch_norms == "moving":
        for module in trained_norms(model, {part.name for part in trained}).values():
            module.train()


def trained_norms(model: nn.Module, names: Collection[str]) -> dict[str, nn.BatchNorm2d]:
    """Find the batch norms whose scale is among the parameters `names`, by their own names."""
    norms = ((n, m) for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d))
    return {name: module for name, module in norms if f"{name}.weight" in names}


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Within, all of a model is in eval mode; afterwards what moved before moves on."""
    moving = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in moving:
            module.training = True


def _within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def _factor(name: str, train: Mapping[str, float]) -> float:
    """Return the factor of the longest part that `name` lies in; 0 for none."""
    fitting = [part for part in train if _within(name, part)]
    return train[max(fitting, key=len)] if fitting else 0.0


def _tops(names: list[str]) -> str:
    return ", ".join(dict.fromkeys(name.split(".")[0] for name in names))


MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class PartsOptimiser:
    """AdamW (Loshchilov and Hutter, 2019); vectors, such as biases and norms, do not decay."""

    def __init__(self, trained: Sequence[Trained], stage: TrainStage) -> None:
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
        """The parameters in training, in the model's order."""
        return [part.parameter for part in self._trained]

    def clear(self) -> None:
        """Forget all gradients."""
        self._adamw.zero_grad(set_to_none=True)

    def step(self, rate: float) -> None:
        """Move every parameter at `rate` times its part's factor."""
        for group in self._adamw.param_groups:
            group["lr"] = rate * group["factor"]
        self._adamw.step()

    def state(self) -> dict[str, Tensor]:
        """Return the moments by `<moment>.<parameter's name>`; parameters not yet moved lack."""
        return {
            f"{moment}.{part.name}": self._adamw.state[part.parameter][moment]
            for part in self._trained
            if part.parameter in self._adamw.state
            for moment in MOMENTS
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave; raises TrainingError when it is of other parameters."""
        known = {part.name: part.parameter for part in self._trained}
        for name in _parameters_of(state):
            if name not in known or any(f"{moment}.{name}" not in state for moment in MOMENTS):
                raise TrainingError(
                    f"the state's optimiser does not fit the parameter {name}; start the run "
                    "anew with --restart"
                )
            device = known[name].device
            moments = {moment: state[f"{moment}.{name}"].clone() for moment in MOMENTS}
            self._adamw.state[known[name]] = {
                moment: tensor if moment == "step" else tensor.to(device)
                for moment, tensor in moments.items()
            }


def _parameters_of(state: Iterable[str]) -> list[str]:
    return [key.removeprefix("step.") for key in state if key.startswith("step.")]


def counted_stream(stage: TrainStage) -> StreamName:
    """Tell which of a stage's streams its epochs are counted on: the first that it has."""
    return next(stream for stream in STREAMS if getattr(stage, stream) is not None)


def schedule_length(stage: TrainStage, photos: int) -> int:
    """Count the steps of a stage's whole schedule; an epoch is every one of `photos` once."""
    if stage.steps is not None:
        return stage.steps
    batch: Batch | None = getattr(stage, counted_stream(stage))
    per_step = batch.batch if batch is not None else 1
    return max(1, math.ceil((stage.epochs or 0) * photos / per_step))


def steps_to_run(stage: TrainStage, photos: int) -> int:
    """Count the steps that are run: the share `stop` of the schedule, one at least."""
    return max(1, round(stage.stop * schedule_length(stage, photos)))


def learning_rate(stage: TrainStage, step: int, length: int) -> float:
    """Return the learning rate of step 0, 1, ... of a schedule of `length` steps.

    Linear warm-up from the first share of it to the full rate, then half a cosine (Loshchilov and
    Hutter, 2017, equation 5) down to `floor`. SAM-CLIP does not state its schedule.
    """
    warmup = math.ceil(stage.warmup * length)
    if step < warmup:
        return stage.learning_rate * (step + 1) / warmup
    if stage.schedule == "constant":
        return stage.learning_rate
    progress = (step - warmup) / max(1, length - warmup)
    falling = 0.5 * (1 + math.cos(math.pi * progress))
    return stage.learning_rate * (stage.floor + (1 - stage.floor) * falling)
