"""A model whose weights say where they are: each number is its own place in the state dict.

torch's exporter transposes, splits, joins and repeats weights before it writes them. A model of
such numbers is exported like any other. Its graph then shows, number by number, where each weight
went, and that is undone for the weights that lie at the same places of another graph.

A place is written as the bits of a float32 (2^40 times 1 and up), so there are 738 million
different ones. ViT-H's encoder has 637 million weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import StateDict, some_keys
from samclip.export.rebuilding.alignment import ConstantPair
from samclip.export.rebuilding.stored_graphs import Array, constant_of

Numbers = NDArray[np.float32]

FIRST = (127 + 40) << 23  # the bits of 2^40: larger than any constant of a graph
LAST = 0x7F7FFFFE  # the largest finite float32 is a usual constant
SAME = 1e-5  # relative: constants that torch computed, and the same computed here


@dataclass(frozen=True)
class Computed:
    """A small weight of which the exporter writes a function, which `invert` undoes."""

    key: str  # the end of its name
    apply: Callable[[Tensor], Tensor]
    invert: Callable[[Tensor], Tensor]


# `ConseHead`: the shares of its levels, and its factors on logits.
COMPUTED = (
    Computed("clip_head.level_bias", lambda x: x.softmax(0), torch.log),
    Computed("clip_head.log_temperatures", lambda x: torch.exp(-x), lambda x: -x.log()),
)


class CodedWeights:
    """The weights of `model`, replaced in place by their codes, and what graphs said of them."""

    def __init__(self, model: nn.Module) -> None:
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._offsets: dict[str, int] = {}
        self._computed: dict[str, tuple[Computed, Numbers, Numbers]] = {}
        total = 0
        state = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
        for key, tensor in state.items():
            self._shapes[key] = tuple(tensor.shape)
            rule = next((each for each in COMPUTED if key.endswith(each.key)), None)
            if rule is not None:
                values = torch.linspace(-1.0, 0.7, tensor.numel())
                tensor.copy_(values.reshape(tensor.shape))
                shown = rule.apply(values).numpy()
                self._computed[key] = rule, shown, np.full_like(shown, np.nan)
                continue
            self._offsets[key] = total
            codes = np.arange(FIRST + total, FIRST + total + tensor.numel(), dtype=np.uint32)
            tensor.copy_(torch.from_numpy(codes.view(np.float32)).reshape(tensor.shape))
            total += tensor.numel()
        if FIRST + total > LAST:
            raise CheckpointError(
                f"the bundle's model has {total:,} weights, more than can be kept apart "
                f"({LAST - FIRST:,}). Export from the checkpoint that the bundle comes from."
            )
        self._found = np.full(total, np.nan, np.float32)
        self._shown = np.zeros(total, bool)
        self._own = np.ones(total, bool)  # of the graph that is read; the others' are not in it

    def is_weight(self, constant: Array) -> bool:
        """Whether a constant of the coded model's graph holds weights or functions of them."""
        if constant.dtype != np.float32 or constant.size == 0:
            return False
        return (
            len(self._places(constant)) == constant.size
            or self._place_of_computed(constant) is not None
        )

    def expect(self, template: ir.Graph, module: nn.Module) -> None:
        """Begin with the graph of a part of the coded model, and note the weights that it shows.

        All of them have to be found. The weights of other parts are not in it: what looks like one
        is a number that the exporter computed.
        """
        self._own[:] = True
        weights = [each for each in module.state_dict().values() if each.dtype == torch.float32]
        own = [self._places(each.numpy()) for each in weights]
        self._own[:] = False
        for places in own:
            self._own[places] = True
        for value in template.initializers.values():
            constant = constant_of(value)
            if constant is not None and constant.dtype == np.float32:
                self._shown[self._places(constant)] = True

    def take(self, pair: ConstantPair) -> None:
        """Take the weights out of the constant that a bundle has where the template has codes.

        Constants without weights are passed over. Raises CheckpointError where shapes differ, or
        one weight would have two values.
        """
        if not self.is_weight(pair.template):
            return
        if pair.given.size != pair.template.size or pair.given.dtype != np.float32:
            raise CheckpointError(
                f"the weight {pair.name} has the shape {pair.given.shape} in the bundle, expected "
                f"{pair.template.shape}"
            )
        given = np.ravel(pair.given)
        if (place := self._place_of_computed(pair.template)) is not None:
            key, places = place
            self._store(self._computed[key][2], places, given, pair.name)
            return
        self._store(self._found, self._places(pair.template), given, pair.name)

    def state(self) -> StateDict:
        """Return all weights by name; those that no graph reads are 0.

        SAM's graphs leave out, for example, the bias of keys: it moves all scores of a query alike,
        and softmax takes it out again. Raises CheckpointError for weights that should have been
        found.
        """
        state: StateDict = {}
        missing = []
        for key, offset in self._offsets.items():
            size = int(np.prod(self._shapes[key], dtype=np.int64))
            values = self._found[offset : offset + size]
            unknown = np.isnan(values)
            if (unknown & self._shown[offset : offset + size]).any():
                missing.append(key)
            known = np.where(unknown, np.float32(0), values)
            state[key] = torch.from_numpy(known.reshape(self._shapes[key]))
        for key, (rule, _, found) in self._computed.items():
            if np.isnan(found).any():
                missing.append(key)
            state[key] = rule.invert(torch.from_numpy(found)).reshape(self._shapes[key])
        if missing:
            raise CheckpointError(f"its graphs do not show the weights {some_keys(missing)}")
        return state

    def _places(self, constant: Array) -> NDArray[np.int64]:
        """Return the places that the numbers of a float32 constant name, of those that name one."""
        places = _bits(constant).astype(np.int64) - FIRST
        places = places[(places >= 0) & (places < self._own.size)]
        return places[self._own[places]]

    def _store(self, found: Array, places: NDArray[np.int64], given: Array, name: str) -> None:
        before = found[places]
        found[places] = given
        if (found[places] != given).any() or ((before != given) & ~np.isnan(before)).any():
            raise CheckpointError(
                f"the weight {name} has several values in the bundle and one in the model. INT8 "
                "storage rounds a weight that the graph holds in two forms twice. Store this graph "
                "as fp16 (--weights-dtype GRAPH=fp16) when the bundle is exported"
            )

    def _place_of_computed(self, constant: Array) -> tuple[str, NDArray[np.int64]] | None:
        """Return the computed weight that a constant shows, and which of its numbers."""
        for key, (_, shown, _) in self._computed.items():
            if constant.size > shown.size:
                continue
            near = np.isclose(np.ravel(constant)[:, None], shown, rtol=SAME, atol=0)
            if near.any(axis=1).all():
                return key, near.argmax(axis=1)
        return None


def _bits(constant: Array) -> NDArray[np.uint32]:
    return np.ravel(np.ascontiguousarray(constant)).view(np.uint32)
