"""The request for a build, and its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from samclip.engines.base import GraphSource
from samclip.engines.plans.attention_layers import AttentionKernels
from samclip.engines.plans.gate.cases import TrialMaker
from samclip.engines.plans.sidecar import DEFAULT_AXES, Asked, AxisRange, BuildOptions
from samclip.engines.plans.store import StoredPlan


@dataclass(frozen=True)
class BuildRequest:
    """A graph to build, for these compute capabilities ("8.6") and these sizes of its axes.

    `folder`: where the plan is put, None for the user's cache; `force`: build even if an equal
    plan is there; `preflight`: refuse a build that cannot fit into memory. `trial` makes the cases
    by which the plan is judged; None, for a graph that is not a bundle's, leaves it unjudged.
    `gate`: False for a plan that shall not be judged, which its sidecar then says. `others`: other
    forms of the graph, to be built where the plan of this one is wrong, the best first.
    `attention_kernels`: "split" makes the softmax of each attention an output of the plan, so that
    attention is not computed by one fused kernel; "fp32" lets attention compute in FP32. `asked`:
    what the plan stands in for.
    """

    source: GraphSource
    capabilities: tuple[str, ...]
    axes: Mapping[str, AxisRange] = field(default_factory=lambda: DEFAULT_AXES)
    options: BuildOptions = field(default_factory=BuildOptions)
    folder: Path | None = None
    force: bool = False
    preflight: bool = True
    trial: TrialMaker | None = None
    gate: bool = True
    others: Callable[[], Iterator[GraphSource]] | None = None
    attention_kernels: AttentionKernels = "any"
    asked: Asked | None = None


@dataclass(frozen=True)
class BuiltPlan:
    """A plan in its place; `reused` when an equal one was there already."""

    stored: StoredPlan
    reused: bool
