"""AdamW over the trained parts of a model, with a rate for each part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from samclip.errors import TrainingError
from samclip.merge.parts import Trained
from samclip.merge.stages import TrainStage

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
