"""A graph in two parts: what some of its outputs depend on, and the rest.

OpenVINO has one precision for a whole model. Where some outputs must stay in FP32 while the others
may be computed in fewer bits, each part is a model: the first gives its outputs and the tensors
that the second goes on from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

CUT = "samclip.cut."  # begins the names of the tensors between the parts


@dataclass(frozen=True)
class Part:
    """One of the two parts of a graph: `outputs` and what they need, or all others."""

    outputs: tuple[str, ...]
    side: Literal["outputs", "others"]

    def of(self, library: Any, model: Any) -> Any:
        """Return this part of a model that was just read, which is changed by it."""
        kept = [result for result in model.get_results() if self._has(result)]
        on_the_way = {_key(node.output(0)) for node in _above(kept) if node.get_output_size()}
        kept = [
            result
            for result in model.get_results()
            if self._has(result) or _key(result.input_value(0)) in on_the_way
        ]
        first = {result.get_friendly_name() for result in kept}
        others = [one for one in model.get_results() if one.get_friendly_name() not in first]
        cuts = _name_cuts(model, kept, others)
        opset = library.opset8
        if self.side == "outputs":
            own = {_key(result.input_value(0)) for result in kept}
            given = [opset.result(one) for one in cuts.values() if _key(one) not in own]
            return library.Model([*kept, *given], _parameters(model, [*kept, *given]), "first")
        taken = []
        for name, output in cuts.items():
            parameter = opset.parameter(output.get_partial_shape(), output.get_element_type())
            for reader in output.get_target_inputs():
                reader.replace_source_output(parameter.output(0))
            parameter.output(0).get_tensor().set_names({name})
            taken.append(parameter)
        return library.Model(others, [*_parameters(model, others), *taken], "second")

    def _has(self, result: Any) -> bool:
        return bool(set(self.outputs) & result.input_value(0).get_names())


def split_outputs(outputs: Collection[str]) -> tuple[Part, Part]:
    """Return the part of a graph that has these of its outputs, and the part with the others."""
    chosen = tuple(sorted(outputs))
    return Part(chosen, "outputs"), Part(chosen, "others")


def is_cut(name: str) -> bool:
    """Whether a tensor lies between the parts."""
    return name.startswith(CUT)


def _name_cuts(model: Any, kept: Iterable[Any], others: Iterable[Any]) -> dict[str, Any]:
    """Name the outputs of nodes at which the second part goes on from the first, in their order.

    Only tensors of FP32 that depend on an input are cut; the second part computes constants and
    shapes itself, because a shape that it took as a value would not be known when it is compiled.
    """
    first = {node.get_friendly_name() for node in _above(kept)}
    moving: set[str] = set()
    for node in model.get_ordered_ops():
        sources = {value.get_node().get_friendly_name() for value in node.input_values()}
        if node.get_type_name() == "Parameter" or sources & moving:
            moving.add(node.get_friendly_name())

    def is_between(output: Any) -> bool:
        node = output.get_node()
        return (
            node.get_friendly_name() in first & moving
            and node.get_type_name() != "Parameter"
            and output.get_element_type().get_type_name() == "f32"
        )

    found = [
        output
        for node in _above(others, is_between)
        for output in node.input_values()
        if is_between(output)
    ]
    places = {node.get_friendly_name(): place for place, node in enumerate(model.get_ordered_ops())}
    ordered = {(places[_key(output)[0]], _key(output)[1]): output for output in found}
    own = {_key(result.input_value(0)) for result in kept}
    cuts = {}
    for number, place in enumerate(sorted(ordered)):
        output = ordered[place]
        if _key(output) in own:  # it has its name already
            cuts[output.get_any_name()] = output
            continue
        output.get_tensor().set_names({f"{CUT}{number}"})
        cuts[f"{CUT}{number}"] = output
    return cuts


def _key(output: Any) -> tuple[str, int]:
    """Return what identifies an output of a node: OpenVINO makes a new object for it each time."""
    return output.get_node().get_friendly_name(), output.get_index()


def _above(results: Iterable[Any], stops: Any = lambda _: False) -> Iterator[Any]:
    """Yield nodes and all that they are computed from, except beyond outputs that `stops` has."""
    waiting, seen = list(results), set()
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() in seen:
            continue
        seen.add(node.get_friendly_name())
        yield node
        waiting += [value.get_node() for value in node.input_values() if not stops(value)]


def _parameters(model: Any, results: Iterable[Any]) -> list[Any]:
    """Return the inputs of a model that results depend on."""
    used = {node.get_friendly_name() for node in _above(results)}
    return [one for one in model.get_parameters() if one.get_friendly_name() in used]
