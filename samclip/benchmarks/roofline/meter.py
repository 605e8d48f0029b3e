"""What answers cost: all runs of graphs that they took, counted in the shapes that they ran in."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from samclip.benchmarks.roofline.counted_backend import Run
from samclip.benchmarks.roofline.measure import Counted, count_in_shapes
from samclip.benchmarks.roofline.work import Work


@dataclass
class Works:
    """The work of runs, each counted once, for meters that share models."""

    known: dict[tuple[Counted, Run], Work] = field(default_factory=dict)

    def of(self, counted: Counted, run: Run) -> Work:
        """Count a run; raises CountError, and CapabilityError where onnx is not installed."""
        if (counted, run) not in self.known:
            graph, shapes = run
            self.known[counted, run], _ = count_in_shapes(counted, graph, dict(shapes))
        return self.known[counted, run]


class Meter:
    """Adds up what the graphs of some models do between `begin` and `end`, kind by kind."""

    def __init__(self, models: Sequence[Counted], works: Works) -> None:
        self._models = models
        self._works = works
        self._runs: dict[str, Counter[tuple[Counted, Run]]] = defaultdict(Counter)

    def begin(self) -> None:
        """Forget runs so far that nobody has taken."""
        for counted in self._models:
            counted.backend.runs.clear()

    def end(self, kind: str) -> None:
        """Take the runs since `begin` as those of an answer of this kind."""
        for counted in self._models:
            for run, times in counted.backend.runs.items():
                self._runs[kind][counted, run] += times
        self.begin()

    def macs(self, kind: str) -> int:
        """Add up the multiply-accumulates of all answers of a kind; raises as `Works.of`."""
        runs = self._runs[kind].items()
        return sum(times * self._works.of(*run).macs for run, times in runs)

    def parameters(self) -> int:
        """Add up the parameters of the graphs that ran, a bundle's graph once; raises as above."""
        runs = [run for runs in self._runs.values() for run in runs]
        found = {
            (str(counted.model.bundle.path), run[0]): self._works.of(counted, run).parameters
            for counted, run in runs
        }
        return sum(found.values())
