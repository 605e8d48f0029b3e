"""Precisions added one after the other, with a gate whose verdict the test chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from layered_encoder import Features, encoder
from tiny_bundle import tiny_manifest

from samclip.errors import GateError
from samclip.export.graph_files import GraphFiles, described
from samclip.export.options import ExportOptions, PrecisionOptions
from samclip.export.plan import plan_reduction
from samclip.export.precision import reduction
from samclip.export.precision.draft_bundle import DraftBundle
from samclip.export.precision.gates import Judgement
from samclip.export.precision.reduction import NOT_JUDGED, Reduced, reduce_graphs
from samclip.progress import SILENT
from samclip.runtime.bundles.manifest import GateMeasure, GateRow, ReducedPrecision

Verdict = Callable[[DraftBundle, ReducedPrecision], float]
LIMIT = 0.9


def layers_in_int8(draft: DraftBundle, precision: ReducedPrecision) -> set[str]:
    graph = draft.manifest.graphs.encoder
    (variant,) = [v for v in graph.variants if v.precision == precision]
    model = GraphFiles("encoder", graph, draft.contents).models(precision)[variant.file]
    weighed = [(node.name, node.inputs[1]) for node in model.graph if node.op_type == "MatMul"]
    return {str(name) for name, weight in weighed if weight is not None and weight.producer()}


@dataclass
class StandIn:
    """In the place of `Gate`: values that `verdicts` give, by measure."""

    verdicts: Mapping[GateMeasure, Verdict]

    def judge(self, model: Any, precision: ReducedPrecision) -> Judgement:
        rows = (
            GateRow(measure=measure, value=verdict(model, precision), limit=LIMIT, samples=8)
            for measure, verdict in self.verdicts.items()
        )
        return Judgement(precision, 4, tuple(rows))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Reduced]:
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / "cache"))
    calib = tmp_path / "calib"
    calib.mkdir()
    (calib / "photo.jpg").write_bytes(b"never opened")

    @contextmanager
    def itself(draft: DraftBundle, *_: Any) -> Iterator[DraftBundle]:
        yield draft

    def run(
        *precisions: ReducedPrecision,
        verdict: Verdict,
        verify: bool = True,
        of_names: Verdict | None = None,
    ) -> Reduced:
        verdicts: dict[GateMeasure, Verdict] = {"mask_iou_mean": verdict}
        files, others = encoder(), _others()
        if of_names is not None:
            verdicts["semantic_agreement"] = of_names
            files, others = encoder(two_outputs=True), [*others, _head()]
        monkeypatch.setattr(reduction, "record_feeds", lambda *_: {"encoder": Features()})
        monkeypatch.setattr(reduction, "reference_model", itself)
        monkeypatch.setattr(reduction, "reduced_model", itself)
        monkeypatch.setattr(reduction, "Gate", lambda *_: StandIn(verdicts))
        manifest = tiny_manifest(graphs=described([files, *others]))
        draft = DraftBundle(tmp_path, manifest, dict(files.files))
        options = ExportOptions(
            tmp_path / "c",
            tmp_path / "b",
            precision=PrecisionOptions(precisions, calib=calib),
            verify=verify,
        )
        graphs = [files, *others]
        return reduce_graphs(draft, graphs, plan_reduction(options), lambda files: files, SILENT)

    return run


def _others() -> list[GraphFiles]:
    """A manifest needs a mask decoder; here one of which nothing is made."""
    like = encoder()
    files = {name.replace("encoder", "mask_decoder"): data for name, data in like.files.items()}
    variant = msgspec.structs.replace(
        like.graph.variants[0], file="mask_decoder.onnx", weights="mask_decoder.safetensors"
    )
    graph = msgspec.structs.replace(like.graph, variants=(variant,))
    return [GraphFiles("mask_decoder", graph, files)]


def _head() -> GraphFiles:
    """Return a head that reads the encoder's output `h`, of which nothing is made either."""
    like = encoder()
    (spec,) = like.graph.inputs
    files = {name.replace("encoder", "clip_head"): data for name, data in like.files.items()}
    variant = msgspec.structs.replace(
        like.graph.variants[0], file="clip_head.onnx", weights="clip_head.safetensors"
    )
    read = (msgspec.structs.replace(spec, name="h"),)
    graph = msgspec.structs.replace(like.graph, inputs=read, variants=(variant,))
    return GraphFiles("clip_head", graph, files)


def test_fp32_stays_and_comes_last(run: Callable[..., Reduced]) -> None:
    reduced = run("int8_fp16", "fp16", "int8", verdict=lambda *_: 1.0)
    variants = reduced.graphs[0].graph.variants
    assert [v.precision for v in variants] == ["int8_fp16", "fp16", "int8", "fp32"]
    assert {v.weights for v in variants} == {"encoder.safetensors"}
    assert [r.precision for r in reduced.reductions] == ["int8_fp16", "fp16", "int8"]
    assert {v.precision for v in reduced.graphs[1].graph.variants} == {"fp32"}  # the mask decoder


def test_a_gate_that_fails_ends_the_export(run: Callable[..., Reduced]) -> None:
    with pytest.raises(GateError, match=r"fp16 mask_iou_mean: 0\.5000"):
        run("fp16", verdict=lambda *_: 0.5)


def test_int8_leaves_out_as_few_layers_as_the_gate_lets(run: Callable[..., Reduced]) -> None:
    def verdict(draft: DraftBundle, precision: ReducedPrecision) -> float:
        return 1.0 if len(layers_in_int8(draft, precision)) < 2 else 0.5

    (record,) = run("int8", verdict=verdict).reductions
    assert len(record.fallen_back) == 1
    worst = record.sensitive[0]
    assert record.fallen_back == (f"{worst.graph}/{worst.layer}",)
    assert record.calibration is not None
    assert record.calibration.photos == 1
    assert record.gates[0].value == 1.0


@pytest.mark.parametrize("damaging", ["first", "second"])
def test_layers_that_names_do_not_need_are_kept_in_int8(
    run: Callable[..., Reduced], damaging: str
) -> None:
    """Of two layers either may cost most: `first`, which names are computed from, or `second`."""

    def verdict(draft: DraftBundle, precision: ReducedPrecision) -> float:
        return 0.5 if damaging in layers_in_int8(draft, precision) else 1.0

    def fine(*_: Any) -> float:
        return 1.0

    of_names = {"first": verdict, "second": fine}[damaging]
    of_masks = {"first": fine, "second": verdict}[damaging]
    (record,) = run("int8", verdict=of_masks, of_names=of_names).reductions
    assert record.fallen_back == (f"encoder/{damaging}",)
    assert {row.value for row in record.gates} == {1.0}


def test_int8_that_never_passes_names_the_gate(run: Callable[..., Reduced]) -> None:
    with pytest.raises(GateError, match=r"int8 mask_iou_mean: 0\.5000"):
        run("int8", verdict=lambda *_: 0.5)


def test_without_verification_nothing_is_judged(run: Callable[..., Reduced]) -> None:
    (record,) = run("int8", verdict=lambda *_: 0.5, verify=False).reductions
    assert record.photos == 0
    assert record.gates == record.fallen_back == ()
    assert record.skipped == (NOT_JUDGED,)


def test_the_order_of_layers_to_leave_out() -> None:
    """Convolutions that names need from the input on, others from the output on, linear last."""
    noisy = ["encoder/late", "clip_head/fc", "encoder/neck", "encoder/early", "encoder/seam"]
    noisy += ["encoder/fc", "encoder/qkv"]
    needed = ("encoder/early", "encoder/depthwise", "clip_head/fc", "encoder/qkv", "encoder/late")
    by_depth = dict.fromkeys(needed, True) | dict.fromkeys(
        ("encoder/seam", "encoder/fc", "encoder/neck"), False
    )
    linear = {"encoder/qkv", "encoder/fc"}
    names = reduction._order_for_names(noisy, by_depth, linear)
    assert names == ["clip_head/fc", "encoder/early", "encoder/late", "encoder/qkv"]
    masks = reduction._order_for_masks(noisy, by_depth, linear)
    assert masks[:2] == ["encoder/neck", "encoder/seam"]
    assert masks[2:] == ["encoder/late", "clip_head/fc", "encoder/early", *noisy[-2:]]
