"""Outputs of a network that are none of its graph's: TensorRT must compute what they hold.

A kernel that computes all of an attention has no softmax to give, so an output there makes TensorRT
use several kernels. Engines keep such outputs to themselves.
"""

from __future__ import annotations

from typing import Any

from samclip.engines.steps import ExportBundle
from samclip.errors import PlanBuildError

HIDDEN = "samclip.hidden."  # begins their names


def is_hidden(output: str) -> bool:
    """Whether an output is not the graph's."""
    return output.startswith(HIDDEN)


def split_attention(network: Any) -> None:
    """Make the result of each softmax of a `Network` an output.

    Raises PlanBuildError for a network without any.
    """
    found = [layer for layer in network.layers() if layer.type.name == "SOFTMAX"]
    if not found:
        raise PlanBuildError(
            "the network has no softmax layer, so its attention cannot be split. Export the "
            "bundle with attention in parts.",
            steps=(ExportBundle((("attention", "bias"),)),),
        )
    for place, layer in enumerate(found):
        tensor = layer.get_output(0)
        tensor.name = f"{HIDDEN}softmax.{place}"
        network.definition.mark_output(tensor)
