"""Reduced precision from photos to verdict on a small but whole model, without stand-ins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coloured_graphs import coloured_draft, coloured_graphs
from fakes import flag
from PIL import Image

from samclip.errors import GateError
from samclip.export.options import ExportOptions, PrecisionOptions
from samclip.export.plan import plan_reduction
from samclip.export.precision import fp32_nodes
from samclip.export.precision.feeds import record_feeds
from samclip.export.precision.reduction import Reduced, reduce_graphs
from samclip.progress import SILENT
from samclip.runtime.bundles.manifest import ReducedPrecision

GAIN = 2.0**17  # one channel's values come to some 100,000


def _folder(path: Path, *images: np.ndarray) -> Path:  # type: ignore[type-arg]
    path.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(np.ascontiguousarray(image)).save(path / f"{number}.png")
    return path


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, Path]:
    return {
        "calib": _folder(tmp_path / "calib", flag()[:, ::-1], flag()[::2]),
        "photos": _folder(tmp_path / "photos", flag(), flag()[:, 30:]),
    }


@pytest.fixture
def run(
    photos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Reduced]:
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / "cache"))

    def run(*precisions: ReducedPrecision, gain: float = 1.0) -> Reduced:
        graphs = coloured_graphs(gain)
        options = ExportOptions(
            tmp_path / "c",
            tmp_path / "b",
            precision=PrecisionOptions(precisions, calib=photos["calib"]),
            photos=photos["photos"],
        )
        draft = coloured_draft(graphs, tmp_path)
        return reduce_graphs(draft, graphs, plan_reduction(options), lambda files: files, SILENT)

    return run


def test_all_precisions_pass_on_held_back_photos(run: Callable[..., Reduced]) -> None:
    reduced = run("int8_fp16", "fp16", "int8")
    assert [record.precision for record in reduced.reductions] == ["int8_fp16", "fp16", "int8"]
    for record in reduced.reductions:
        values = {row.measure: row.value for row in record.gates}
        assert record.photos == 2
        assert values["image_embeddings_cosine"] < 1  # something was rounded
        assert values.keys() >= {"mask_iou_worst", "semantic_agreement", "top1_agreement"}
    precisions = {g.name: {v.precision for v in g.graph.variants} for g in reduced.graphs}
    assert precisions["encoder"] == {"fp32", "fp16", "int8", "int8_fp16"}
    assert precisions["mask_decoder"] == {"fp32"}


def test_a_channel_that_overflows_is_found_kept_and_passes(run: Callable[..., Reduced]) -> None:
    (record,) = run("fp16", gain=GAIN).reductions
    assert {(node.graph, node.node) for node in record.kept} == {
        ("encoder", "widen"),
        ("encoder", "narrow"),
    }
    assert max(node.peak for node in record.kept) > 65_504
    assert all(row.passed for row in record.gates)


def test_the_same_channel_fails_the_gate_if_it_is_not_found(
    run: Callable[..., Reduced], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emulation shows the overflow, which FP16 on ONNX Runtime's CPU would not."""
    monkeypatch.setattr(fp32_nodes, "HEADROOM", 1e-6)
    with pytest.raises(GateError, match=r"fp16 gives no answer .* the graph 'encoder' holds"):
        run("fp16", gain=GAIN)


def test_feeds_are_what_the_runtime_gives_each_graph(
    photos: dict[str, Path], tmp_path: Path
) -> None:
    draft = coloured_draft(coloured_graphs(), tmp_path)
    paths = sorted(photos["photos"].iterdir())
    feeds = record_feeds(draft, paths, tmp_path / "feeds", SILENT)
    assert feeds.keys() == {"encoder", "clip_head"}  # nothing is measured of the mask decoder
    assert len(feeds["encoder"]) == len(feeds["clip_head"]) == 2
    for _ in range(2):  # they can be read again
        (first, _) = list(feeds["clip_head"])
        assert first["backbone_features"].shape == (1, 3, 16, 16)
        assert first["token_mask"].shape == (1, 16, 16)
