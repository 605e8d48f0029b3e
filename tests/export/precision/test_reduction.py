"""Precisions added one after the other, with a gate whose verdict the test chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from samclip.runtime.bundles.manifest import GateRow, ReducedPrecision

Verdict = Callable[[DraftBundle, ReducedPrecision], float]


def layers_in_int8(draft: DraftBundle, precision: ReducedPrecision) -> int:
    graph = draft.manifest.graphs.encoder
    (variant,) = [v for v in graph.variants if v.precision == precision]
    model = GraphFiles("encoder", graph, draft.contents).models(precision)[variant.file]
    return sum(node.op_type == "QuantizeLinear" for node in model.graph)


@dataclass
class StandIn:
    """In the place of `Gate`: an IoU that `verdict` gives."""

    verdict: Verdict

    def judge(self, model: Any, precision: ReducedPrecision) -> Judgement:
        row = GateRow(
            measure="mask_iou_mean", value=self.verdict(model, precision), limit=0.9, samples=8
        )
        return Judgement(precision, 4, (row,))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Reduced]:
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / "cache"))
    calib = tmp_path / "calib"
    calib.mkdir()
    (calib / "photo.jpg").write_bytes(b"never opened")

    @contextmanager
    def itself(draft: DraftBundle, *_: Any) -> Iterator[DraftBundle]:
        yield draft

    def run(*precisions: ReducedPrecision, verdict: Verdict, verify: bool = True) -> Reduced:
        monkeypatch.setattr(reduction, "record_feeds", lambda *_: {"encoder": Features()})
        monkeypatch.setattr(reduction, "reference_model", itself)
        monkeypatch.setattr(reduction, "reduced_model", itself)
        monkeypatch.setattr(reduction, "Gate", lambda *_: StandIn(verdict))
        files = encoder()
        manifest = tiny_manifest(graphs=described([files, *_others()]))
        draft = DraftBundle(tmp_path, manifest, dict(files.files))
        options = ExportOptions(
            tmp_path / "c",
            tmp_path / "b",
            precision=PrecisionOptions(precisions, calib=calib),
            verify=verify,
        )
        graphs = [files, *_others()]
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
        return 1.0 if layers_in_int8(draft, precision) < 2 else 0.5

    (record,) = run("int8", verdict=verdict).reductions
    assert len(record.fallen_back) == 1
    worst = record.sensitive[0]
    assert record.fallen_back == (f"{worst.graph}/{worst.layer}",)
    assert record.calibration is not None
    assert record.calibration.photos == 1
    assert record.gates[0].value == 1.0


def test_int8_that_never_passes_names_the_gate(run: Callable[..., Reduced]) -> None:
    with pytest.raises(GateError, match=r"int8 mask_iou_mean: 0\.5000"):
        run("int8", verdict=lambda *_: 0.5)


def test_without_verification_nothing_is_judged(run: Callable[..., Reduced]) -> None:
    (record,) = run("int8", verdict=lambda *_: 0.5, verify=False).reductions
    assert record.photos == 0
    assert record.gates == record.fallen_back == ()
    assert record.skipped == (NOT_JUDGED,)
