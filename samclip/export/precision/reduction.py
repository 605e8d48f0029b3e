"""Reduced precisions, added to the FP32 graphs of a bundle one after the other, each gated.

Ranges and calibration are measured on one set of photos, the gates on another. What fails a gate
in INT8 is made again with its worst layers in the wider type, until the gate holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec.structs import replace

from samclip.export.graph_files import GraphFiles, with_variants
from samclip.export.options import ExportOptions, PrecisionOptions
from samclip.export.precision.chain import DraftBundle, reduced_model, reference_model
from samclip.export.precision.feeds import record_feeds
from samclip.export.precision.gates import Gate, Judgement, enforce_gates
from samclip.export.precision.making import Made, Maker
from samclip.export.precision.photo_sets import PhotoSets, photo_sets
from samclip.export.precision.variants import in_order
from samclip.export.progress import Progress
from samclip.runtime.bundles.manifest import CalibrationRecord, ReducedPrecision, Reduction

# FP16 before what is judged beside it: the runtime takes a graph that has no INT8 in FP16.
ORDER: tuple[ReducedPrecision, ...] = ("fp16", "bf16", "int8", "int8_fp16")

Store = Callable[[GraphFiles], GraphFiles]


@dataclass(frozen=True)
class Reduced:
    """The graphs with all their variants, as they are stored, and what each precision costs."""

    graphs: tuple[GraphFiles, ...]
    reductions: tuple[Reduction, ...]


def reduce_graphs(
    draft: DraftBundle,
    graphs: Sequence[GraphFiles],
    options: ExportOptions,
    store: Store,
    progress: Progress,
) -> Reduced:
    """Add variants in every precision that `options` ask for; raises GateError and ExportError.

    `draft` holds `graphs`, in FP32, and the texts; `store` gives a graph with its weights as they
    are stored. With --no-verify there are no gates, and INT8 has no automatic fall-back: nothing
    tells when it would be needed.
    """
    sets, wanted = photo_sets(options), options.precision.precisions
    with TemporaryDirectory(prefix="samclip-feeds-") as folder:
        feeds = record_feeds(draft, sets.measured, Path(folder), progress)
        maker = Maker(graphs, feeds, options.precision, progress)
        gate = None
        if options.verify:
            with reference_model(draft) as model:
                gate = Gate(model, sets.held_back, progress)
        work = _Work(draft, tuple(graphs), maker, store, gate)
        done = [work.add(precision) for precision in ORDER if precision in wanted]
    records = [_record(made, judged, options.precision, sets) for made, judged in done]
    records.sort(key=lambda record: wanted.index(record.precision))
    return Reduced(tuple(store(files) for files in work.graphs), tuple(records))


class _Work:
    """The graphs as far as they have got."""

    def __init__(
        self,
        draft: DraftBundle,
        graphs: tuple[GraphFiles, ...],
        maker: Maker,
        store: Store,
        gate: Gate | None,
    ) -> None:
        self.graphs = graphs
        self._draft, self._maker, self._store, self._gate = draft, maker, store, gate

    def add(self, precision: ReducedPrecision) -> tuple[Made, Judgement | None]:
        """Add a precision to the graphs; INT8 with ever more layers left out, until it passes."""
        fallen_back: tuple[str, ...] = ()
        while True:
            made = self._maker.make(precision, fallen_back)
            graphs = tuple(_extended(files, made) for files in self.graphs)
            judgement = self._judge(graphs, precision) if made.models else None
            if judgement is None or not judgement.failed:
                self.graphs = graphs
                return made, judgement
            further = self._maker.fall_back(precision, fallen_back)
            if further is None:
                enforce_gates([judgement])
            else:
                fallen_back = further

    def _judge(self, graphs: Sequence[GraphFiles], precision: ReducedPrecision) -> Judgement | None:
        if self._gate is None:
            return None
        stored = [self._store(files) for files in graphs]
        with reduced_model(self._draft.with_graphs(stored), precision) as model:
            return self._gate.judge(model, precision)


def _extended(files: GraphFiles, made: Made) -> GraphFiles:
    """Add what was made of a graph to its variants, in the order of preference."""
    extended = with_variants(files, made.models.get(files.name, {}))
    graph = replace(extended.graph, variants=in_order(extended.graph.variants))
    return GraphFiles(files.name, graph, extended.files)


def _record(
    made: Made, judgement: Judgement | None, options: PrecisionOptions, sets: PhotoSets
) -> Reduction:
    quantised = made.precision in {"int8", "int8_fp16"}
    return Reduction(
        precision=made.precision,
        photos=0 if judgement is None else judgement.photos,
        gates=() if judgement is None else judgement.rows,
        keep=options.keep_fp32,
        kept=made.kept,
        calibration=CalibrationRecord(
            photos=len(sets.measured), method=options.calib_method, smooth=options.smooth
        )
        if quantised
        else None,
        fallen_back=made.fallen_back,
        sensitive=made.sensitive,
        skipped=("not judged: --no-verify",) if judgement is None else judgement.skipped,
    )
