"""The tables of `samclip info`."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table
from tiny_bundle import graph, tiny_manifest

from samclip.cli import tables
from samclip.cli.bundle import print_bundle
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.home import find_bundle
from samclip.runtime.bundles.manifest import (
    ClipHead,
    GateRow,
    KeptNode,
    Reduction,
    RegionHead,
    Variant,
)

ROWS = (
    GateRow(measure="mask_iou_worst", value=0.971234, limit=0.96, samples=1234),
    GateRow(measure="top1_agreement", value=1.0, samples=40),
)
KEPT = KeptNode(
    graph="encoder",
    attention="bias",
    node="node_conv_7",
    tensor="val_8",
    peak=123456.0,
    reason="a value beyond the range",
)
REDUCTION = Reduction(
    precision="int8_fp16",
    photos=4,
    gates=ROWS,
    keep=("clip_head:Softmax",),
    kept=(KEPT,),
    fallen_back=("encoder/stem",),
    skipped=("names are not judged",),
)


def text(table: Table) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_gates_are_listed_with_their_limits() -> None:
    shown = text(tables.gates_table(tiny_manifest(reductions=(REDUCTION,))))
    for part in ("int8_fp16", "mask iou worst", "0.97123", "0.96", "1,234", "top1 agreement"):
        assert part in shown


def test_exceptions_are_listed_with_their_reasons() -> None:
    shown = text(tables.exceptions_table(tiny_manifest(reductions=(REDUCTION,))))
    for part in (
        "encoder (bias) node_conv_7",
        "val_8 reaches 123,456",
        "encoder/stem",
        "clip_head:Softmax",
        "names are not judged",
    ):
        assert part in shown


def test_an_fp32_bundle_has_neither() -> None:
    assert tables.gates_table(tiny_manifest()).row_count == 0
    assert tables.exceptions_table(tiny_manifest()).row_count == 0


def test_the_summary_describes_the_head() -> None:
    for head, shown in (
        ({}, "none: cannot name anything"),
        ({"clip_head": ClipHead(trained=True, embed_dim=8, grid=4)}, "trained; 8-d, 4 x 4 tokens"),
        ({"region_head": RegionHead(trained=True, embed_dim=9)}, "trained; 9-d, names regions"),
        ({"region_head": RegionHead(trained=False, embed_dim=9)}, "UNTRAINED: names mean nothing"),
    ):
        assert shown in text(tables.summary_table(tiny_manifest(**head)))


def test_the_classifiers_of_regions_are_listed() -> None:
    manifest = tiny_manifest()
    roi = graph(Variant(file="roi.onnx", opset=20, backends=("onnxruntime",)))
    graphs = replace(manifest.graphs, roi_classifier=roi, clip_roi=roi)
    shown = text(tables.graphs_table(replace(manifest, graphs=graphs)))
    places = [shown.index(name) for name in ("mask_decoder", "roi_classifier", "clip_roi")]
    assert places == sorted(places)


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_no_name_is_broken_where_a_column_can_be_left_out(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`samclip info` of the shipped bundle: in 80 columns each file and output is in one piece."""
    monkeypatch.setattr(tables.out, "_width", columns)
    bundle = Bundle.open(find_bundle("samclip-tiny"))
    manifest = bundle.manifest
    print_bundle(bundle, verified=False, signer=None, wide=False)
    shown = capsys.readouterr().out.split("exported with")[0]  # lines, from here on
    assert "…" not in shown
    assert max(map(len, shown.splitlines()[1:])) <= columns
    names = {*manifest.files, *(row.output for row in (*manifest.parity, *manifest.rounding))}
    broken = {name for name in names if name not in shown}
    assert not broken or columns < 80
    assert ("see --wide" in shown) == (columns < 200)
    print_bundle(bundle, verified=False, signer=None, wide=True)
    assert "onnxruntime, openvino, cuda, tensorrt, tensorrt-rtx" in capsys.readouterr().out
