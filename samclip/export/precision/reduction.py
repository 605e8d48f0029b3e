"""Reduced precisions, added to the FP32 graphs of a bundle one after the other, each gated.

Ranges and calibration are measured on one set of photos, the gates on another. INT8 graphs that
fail a gate are made again with their worst layers in the wider type, until the gate holds.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec.structs import replace

from samclip.export.canvases import share_weights_files
from samclip.export.graph_files import GraphFiles, with_variants
from samclip.export.options import FUSED, INT8_PRECISIONS
from samclip.export.plan import ReductionPlan
from samclip.export.precision.draft_bundle import (
    DraftBundle,
    newest_needed,
    reduced_model,
    reference_model,
)
from samclip.export.precision.feeds import record_feeds
from samclip.export.precision.gates import Gate, Judgement, enforce_gates
from samclip.export.precision.sensitivity import LARGEST_SHARE, fall_back
from samclip.export.precision.variant_maker import MadeVariants, VariantMaker
from samclip.export.precision.variants import in_order
from samclip.progress import Progress
from samclip.runtime.bundles.manifest import (
    CalibrationRecord,
    GateRow,
    KeptNode,
    LayerError,
    ReducedPrecision,
    Reduction,
)

# FP16 before INT8 with FP16: for that the runtime takes the FP16 variants of graphs without INT8.
ORDER: tuple[ReducedPrecision, ...] = ("fp16", "bf16", "int8", "int8_fp16")

MAX_SENSITIVE = 10  # layers that the manifest lists
NOT_JUDGED = "not judged: --no-verify, or nothing was left to change"

Store = Callable[[GraphFiles], GraphFiles]


@dataclass(frozen=True)
class Reduced:
    """The graphs with all their variants, as they are stored, and what each precision costs."""

    graphs: tuple[GraphFiles, ...]
    reductions: tuple[Reduction, ...]


def reduce_graphs(
    draft: DraftBundle,
    graphs: Sequence[GraphFiles],
    plan: ReductionPlan,
    store: Store,
    progress: Progress,
) -> Reduced:
    """Add variants in every precision that `plan` asks for; raises GateError and ExportError.

    `draft` holds `graphs`, in FP32, and the texts; `store` returns a graph with its weights as they
    are stored. With --no-verify there are no gates, and INT8 has no automatic fall-back, because
    nothing shows when it would be needed.
    """
    wanted = plan.options.precisions
    with TemporaryDirectory(prefix="samclip-feeds-") as folder:
        feeds = record_feeds(draft, plan.photos.measured, Path(folder), progress)
        maker = VariantMaker(graphs, feeds, plan.options, plan.keep, progress)
        gate = None
        if plan.judged:
            with reference_model(draft) as model:
                gate = Gate(model, plan.photos.held_back, progress)
        reducer = _Reducer(
            graphs=tuple(graphs),
            draft=draft,
            maker=maker,
            store=store,
            gate=gate,
            plan=plan,
            progress=progress,
        )
        records = [reducer.add(precision) for precision in ORDER if precision in wanted]
    records.sort(key=lambda record: wanted.index(record.precision))
    stored = share_weights_files([store(files) for files in reducer.graphs])
    return Reduced(tuple(stored), tuple(records))


@dataclass(frozen=True)
class _Attempt:
    """The graphs with one more precision, without INT8 in the layers `left_out`, and the gates."""

    precision: ReducedPrecision
    graphs: tuple[GraphFiles, ...]
    kept: tuple[KeptNode, ...]
    left_out: frozenset[str]
    judgement: Judgement | None

    @property
    def judgements(self) -> tuple[Judgement, ...]:
        return () if self.judgement is None else (self.judgement,)


@dataclass
class _Reducer:
    """Adds precisions to `graphs`, one after the other."""

    graphs: tuple[GraphFiles, ...]
    draft: DraftBundle
    maker: VariantMaker
    store: Store
    gate: Gate | None
    plan: ReductionPlan
    progress: Progress

    def add(self, precision: ReducedPrecision) -> Reduction:
        """Add a precision to the graphs; INT8 with the fewest worst layers left out that pass."""
        if precision not in INT8_PRECISIONS:
            attempt = self.attempt(precision, frozenset())
            enforce_gates(attempt.judgements)
            return self._accept(attempt)
        sensitive = self.maker.sensitivity(precision)
        noisy = [f"{x.graph}/{x.layer}" for x in sorted(sensitive, key=_is_encoder_linear)]
        linear = {f"{x.graph}/{x.layer}" for x in sensitive if _is_encoder_linear(x)}
        by_depth = self.maker.layers_by_depth(precision)
        search = _Search(self, precision, len(noisy))
        if any(by_depth.values()):
            search.leave_out(_order_for_names(noisy, by_depth, linear), _is_of_names)
        order = _order_for_masks(noisy, by_depth, linear)
        found = search.leave_out([layer for layer in order if layer not in search.left_out])
        return self._accept(found, sensitive[:MAX_SENSITIVE])

    def attempt(self, precision: ReducedPrecision, left_out: frozenset[str]) -> _Attempt:
        made = self.maker.make(precision, left_out)
        added = [_add_variants(files, made) for files in self.graphs]
        graphs = tuple(share_weights_files(added))
        judgement = self._judge(graphs, precision) if made.models else None
        return _Attempt(precision, graphs, made.kept, left_out, judgement)

    def _accept(self, attempt: _Attempt, sensitive: tuple[LayerError, ...] = ()) -> Reduction:
        self.graphs = attempt.graphs
        judgement = attempt.judgement
        calibration = CalibrationRecord(
            photos=len(self.plan.photos.measured),
            method=self.plan.options.calib_method,
            smooth=self.plan.options.smooth,
        )
        return Reduction(
            precision=attempt.precision,
            photos=0 if judgement is None else judgement.photos,
            gates=() if judgement is None else judgement.rows,
            keep=self.plan.options.keep_fp32,
            kept=attempt.kept,
            calibration=calibration if attempt.precision in INT8_PRECISIONS else None,
            fallen_back=tuple(sorted(attempt.left_out)),
            sensitive=sensitive,
            skipped=(NOT_JUDGED,) if judgement is None else judgement.skipped,
        )

    def _judge(self, graphs: Sequence[GraphFiles], precision: ReducedPrecision) -> Judgement | None:
        """Judge the encoder's preferred variant, and the one that older libraries take.

        None without gates.
        """
        if self.gate is None:
            return None
        stored = share_weights_files([self.store(files) for files in graphs])
        draft = self.draft.with_graphs(stored)
        with reduced_model(draft, precision) as model:
            judged = self.gate.judge(model, precision)
        version = newest_needed(draft.manifest, precision)
        if version is None:
            return judged
        with reduced_model(draft, precision, version) as model:
            return judged.joined(self.gate.judge(model, precision), FUSED)


class _Search:
    """The search for the fewest of `count` layers to leave out of INT8, in one or more steps.

    `left_out` are those of the steps that have ended.
    """

    def __init__(self, reducer: _Reducer, precision: ReducedPrecision, count: int) -> None:
        self._reducer = reducer
        self._precision = precision
        self._count = count
        self._last: dict[frozenset[str], _Attempt] = {}  # that passed: graphs are large, keep one
        self.left_out: frozenset[str] = frozenset()

    def leave_out(
        self, in_order: Sequence[str], judged: Callable[[GateRow], bool] = lambda _: True
    ) -> _Attempt:
        """Leave out the fewest of these layers, the first of them, so that `judged` gates hold.

        Raises GateError when they do not hold with as many left out as may be.
        """
        before = self.left_out
        most = min(int(LARGEST_SHARE * self._count) - len(before), len(in_order))

        def holds(more: frozenset[str]) -> bool:
            left_out = before | more
            attempt = self._last.get(left_out) or self._try(left_out)
            if attempt.judgement is not None and any(map(judged, attempt.judgement.failed)):
                if len(more) >= most:  # no more may be left out
                    enforce_gates(attempt.judgements)
                return False
            self._last = {left_out: attempt}
            return True

        self.left_out = before | fall_back(in_order, holds, most)
        return self._last[self.left_out]

    def _try(self, left_out: frozenset[str]) -> _Attempt:
        attempt = self._reducer.attempt(self._precision, left_out)
        self._reducer.progress.note(_outcome(attempt, self._count))
        return attempt


def _is_of_names(row: GateRow) -> bool:
    """Whether a measure is one that no mask changes: all but those of masks and their features."""
    return row.measure not in ("image_embeddings_cosine", "mask_iou_mean", "mask_iou_worst")


def _outcome(attempt: _Attempt, layers: int) -> str:
    """Return a line about an attempt: how many layers compute in INT8, and which gates fail."""
    counted = f"{attempt.precision}: {layers - len(attempt.left_out)} of {layers} layers in INT8"
    if attempt.judgement is None:
        return f"{counted}, not judged"
    failed = sorted({row.measure for row in attempt.judgement.failed})
    return f"{counted}, {'below the limit: ' + ', '.join(failed) if failed else 'gates hold'}"


def _order_for_names(
    noisy: Sequence[str], by_depth: Mapping[str, bool], linear: Container[str]
) -> list[str]:
    """Order the layers that names need as they are to be left out of INT8.

    First those of the graphs that name, by their noise. Then the encoder's convolutions, from the
    input on: the noise of an early one passes through all later ones. Last its `linear` layers.
    """
    asked = [layer for layer in noisy if by_depth[layer]]
    heads = [layer for layer in asked if not layer.startswith("encoder/")]
    last = [layer for layer in asked if layer in linear]
    others = {*asked} - {*heads, *last}
    between = [layer for layer in by_depth if layer in others]
    return [*heads, *between, *last]


def _order_for_masks(
    noisy: Sequence[str], by_depth: Mapping[str, bool], linear: Container[str]
) -> list[str]:
    """Order the layers as they are to be left out of INT8 once names are right.

    First the convolutions that masks alone need, from the output on: the neck's noise is in the
    image embedding as it is. Then those that names need, and last the encoder's `linear` layers.
    """
    own = [x for x in by_depth if not by_depth[x] and x in noisy and x not in linear]
    return [*reversed(own), *(layer for layer in noisy if layer not in own)]


def _is_encoder_linear(error: LayerError) -> bool:
    """Whether a layer is one that INT8 is for, a linear one of the encoder: left out last.

    A layer's own noise says little about its effect on names: a recogniser's convolutions and its
    classifier change them long before the linear layers of an encoder do.
    """
    return error.graph == "encoder" and error.kind == "linear"


def _add_variants(files: GraphFiles, made: MadeVariants) -> GraphFiles:
    """Add the variants made from a graph to those that it has, in the order of preference."""
    extended = with_variants(files, made.models.get(files.name, {}))
    graph = replace(extended.graph, variants=in_order(extended.graph.variants))
    return GraphFiles(files.name, graph, extended.files)
