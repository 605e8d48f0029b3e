"""The nodes that a reduced precision leaves in FP32, and the three reasons for it.

- A rule keeps them: the defaults for residual sums, norms, softmaxes and whole graphs, or
  `--keep-fp32` (`keep`).
- They overflow half precision on photos: a value that they make, read or square is too large
  (`ranges`). INT8 with FP16 around it leaves them out too.
- Half precision cannot compute them: the operator is not defined for the type, or a constant lies
  beyond its range or vanishes in it. `half.find_exact_nodes` finds these in each conversion.

The first two depend on options and photos: `Fp32Nodes` names them for the graphs of one export.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import onnx_ir as ir

from samclip.errors import ExportError
from samclip.export.graph_files import GraphFiles
from samclip.export.precision.feeds import GraphFeeds
from samclip.export.precision.half import HalfPrecision
from samclip.export.precision.keep import DEFAULT_KEEP, KeepList
from samclip.export.precision.ranges import RangeReport, measure_ranges
from samclip.progress import Progress
from samclip.runtime.bundles.manifest import KeptNode, base_name

MAX_RANGE_FEEDS = 16  # measuring ranges takes three times as long as running
HEADROOM = 2.0  # values of other photos may be larger than of those at hand


class Fp32Nodes:
    """Names nodes of `graphs` to keep; the ranges of a graph on its `feeds` are measured once.

    `asked` are the patterns of `--keep-fp32`. Raises ExportError when one matches nothing.
    """

    def __init__(
        self,
        graphs: Sequence[GraphFiles],
        feeds: GraphFeeds,
        asked: KeepList,
        progress: Progress,
    ) -> None:
        if unmatched := asked.unmatched({f.name: tuple(f.models().values()) for f in graphs}):
            raise ExportError(
                f"--keep-fp32 {unmatched[0]} fits no operator and no node of this model. "
                "`samclip-export --precision fp32` writes the graphs whose nodes it may name."
            )
        self._rules = DEFAULT_KEEP | asked
        self._feeds = feeds
        self._progress = progress
        self._ranges: dict[tuple[str, str | None], RangeReport] = {}

    def keeps_all(self, graph: str) -> bool:
        """Whether rules keep all of a graph in FP32."""
        return self._rules.keeps_all(base_name(graph))

    def by_rule(self, graph: str, model: ir.Model) -> frozenset[str]:
        """Return the names of the nodes that rules keep; nodes without a name get one, in place."""
        return self._rules.nodes(base_name(graph), model)

    def by_range(
        self, graph: str, model: ir.Model, attention: str | None, dtype: HalfPrecision
    ) -> tuple[KeptNode, ...]:
        """List the nodes of an FP32 graph whose values on the photos are too large for a type."""
        key = (graph, attention)
        if key not in self._ranges:
            with self._progress.stage(f"measuring ranges of the {graph} ({attention or 'fp32'})"):
                step = -(-len(self._feeds[graph]) // MAX_RANGE_FEEDS)  # rounded up
                some = islice(self._feeds[graph], 0, None, step)
                self._ranges[key] = measure_ranges(model, some)
        return tuple(
            KeptNode(
                graph=graph,
                attention=attention,
                node=kept.node,
                tensor=kept.tensor,
                peak=float(kept.largest),
                reason=kept.reason,
            )
            for kept in self._ranges[key].beyond(dtype, HEADROOM)
        )
