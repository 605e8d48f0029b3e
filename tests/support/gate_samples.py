"""Small graphs, right and wrong, for the tests of the gate."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import helper, numpy_helper
from tiny_bundle import make_model

from samclip.engines.base import GraphSource
from samclip.engines.plans.gate.cases import Question, Trial, make_noise
from samclip.engines.plans.gate.verdict import MadeInput
from samclip.engines.plans.sidecar import AxisRange

WIDTH = 32
WEIGHT = make_noise([MadeInput(name="w", dtype="float32", shape=(WIDTH, WIDTH))], 1)["w"]
AXES = {"n": AxisRange(least=1, best=2, most=4)}


def product_model(weight: np.ndarray = WEIGHT, *tail: tuple[str, ...]) -> bytes:
    """y = x @ weight, Nx32, then the operators `tail` on y, each by its type."""
    names = ["p", *(f"t{place}" for place in range(len(tail)))]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"])]
    for place, (kind, *inputs) in enumerate(tail):
        nodes.append(helper.make_node(kind, [names[place], *inputs], [names[place + 1]]))
    nodes.append(helper.make_node("Identity", [names[-1]], ["y"]))
    shape = ["n", WIDTH]
    return make_model(
        nodes, {"x": shape}, {"y": shape}, [numpy_helper.from_array(weight.astype(np.float32), "w")]
    )


SOURCE = GraphSource("encoder", product_model(), origin="/bundles/some bundle")
CHANGED = product_model(WEIGHT + 0.1 * WEIGHT[::-1])  # a cosine of 0.995 or so
LOUDER = product_model(WEIGHT * 1.5)
NOT_A_NUMBER = product_model(WEIGHT, ("Sqrt",))


def trial(axes: Mapping[str, AxisRange] = AXES, reference: GraphSource = SOURCE) -> Trial:
    """Two questions at the ends of the axis n, and noise."""
    n = axes["n"]

    def made(rows: int) -> MadeInput:
        return MadeInput(name="x", dtype="float32", shape=(rows, WIDTH))

    questions = [
        Question(f"{rows} rows", make_noise([made(rows)], rows)) for rows in (n.least, n.most)
    ]
    return Trial(reference, questions, (made(n.best),))


def residual_model(factors: tuple[float, ...]) -> bytes:
    """x = x + (x + 1) * factor for each factor, then y = -x; Nx4."""
    nodes, last = [], "x"
    for place, _ in enumerate(factors):
        nodes += [
            helper.make_node("Add", [last, "one"], [f"p{place}"]),  # no block: a constant is added
            helper.make_node("Mul", [f"p{place}", f"f{place}"], [f"m{place}"]),
            helper.make_node("Add", [last, f"m{place}"], [f"b{place}"]),
        ]
        last = f"b{place}"
    nodes.append(helper.make_node("Neg", [last], ["y"]))
    named = {"one": 1.0, **{f"f{place}": factor for place, factor in enumerate(factors)}}
    weights = [numpy_helper.from_array(np.float32([v]), name) for name, v in named.items()]
    return make_model(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, weights)
