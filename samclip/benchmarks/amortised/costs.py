"""What each way costs, counted from the graphs that ran."""

from __future__ import annotations

from dataclasses import replace

from samclip.benchmarks.amortised.figures import Cost, cost_of
from samclip.benchmarks.amortised.ways import DENSE, MERGED, PROMPTS, WHOLE
from samclip.benchmarks.roofline.count import count
from samclip.benchmarks.roofline.measure import Counted, count_graph
from samclip.benchmarks.roofline.read_graph import read_graph
from samclip.benchmarks.roofline.work import Work

POINT_TOKENS = 2  # a point, and the padding that follows it


def count_ways(merged: Counted, sam: Counted, whole: Work, dense: Work) -> dict[str, Cost]:
    """Count all ways, after a run; `whole` and `dense` are CLIP's. Raises CountError.

    Positions interpolated for the larger pass are no parameters of their own: both have `whole`'s.
    """
    head, encoder = (count_graph(merged, name)[0] for name in ("clip_head", "encoder"))
    other, masks = count_graph(sam, "encoder")[0], _decoder(sam)
    return {
        MERGED: cost_of([encoder, head], _decoder(merged)),
        WHOLE: cost_of([other, whole], masks),
        DENSE: replace(
            cost_of([other, dense], masks), parameters=other.parameters + whole.parameters
        ),
    }


def _decoder(counted: Counted) -> dict[int, Work]:
    """Count the mask decoder for each number of prompts of one point."""
    source = counted.backend.sources["mask_decoder"]
    found = {}
    for prompts in PROMPTS:
        sizes = {"prompts": prompts, "points": POINT_TOKENS}
        found[prompts] = count(read_graph(source.onnx, source.name, sizes, source.weights))
    return found
