"""Which parameters of a model are trained, and how fast."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import nn

from samclip.errors import ConfigError


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
def judged(model: nn.Module) -> Iterator[None]:
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
