"""Every benchmark on a real bundle that names boxes: a figure, or what it lacks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_data import NAMES, Made, rectangle, stripes, write_camvid, write_coco
from ovsam_bundle import write_ovsam_bundle
from small_ovsam import random_ovsam

from samclip.benchmarks.latency.photo_pipeline import NO_MAP
from samclip.runtime.assets import packaged_photos

Bench = Callable[..., Any]
ON = ("--backend", "onnxruntime", "--threads", "1")
GRAPHS = {"encoder", "mask_decoder", "roi_classifier", "clip_roi"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ovsam_bundle(random_ovsam(), tmp_path_factory.mktemp("bundles") / "regions", NAMES)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    objects = [Made("red", rectangle(0, 0, 64, 64)), Made("blue", rectangle(160, 0, 224, 64))]
    photos = {name: (stripes(0, 2), objects) for name in ("a.png", "b.png")}
    return write_coco(tmp_path / "coco", photos)


@pytest.fixture
def record(tmp_path: Path) -> Callable[[], dict[str, Any]]:
    return lambda: json.loads((tmp_path / "report.json").read_bytes())


def test_latency(bench: Bench, bundle: Path, tmp_path: Path, record: Callable[[], Any]) -> None:
    result = bench("latency", bundle, *ON, "--quick", "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.stderr
    stages = {t["name"] for t in record()["timings"] if t["part_of"] == NO_MAP}
    assert {"encoder", "mask decoder", "RoI classifier", "CLIP RoI"} < stages
    result = bench("latency", bundle, *ON, "--quick", "--everything")
    assert result.exit_code == 1
    assert "needs a decoder with three masks" in result.stderr


def test_memory(bench: Bench, bundle: Path, tmp_path: Path, record: Callable[[], Any]) -> None:
    result = bench("memory", bundle, *ON, "--repeats", "1", "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.stderr
    stages = [use["stage"] for use in record()["memory"]]
    assert stages[-2:] == ["classify 20 names", "name a mask, 20 names"]
    disk = [use["disk"] or 0 for use in record()["memory"]]
    assert disk[-1] > disk[-2]  # the classifier's graph
    result = bench("memory", bundle, *ON, "--everything")
    assert result.exit_code == 1
    assert "cannot segment everything" in result.stderr


def test_roofline(bench: Bench, bundle: Path, tmp_path: Path, record: Callable[[], Any]) -> None:
    result = bench("roofline", bundle, *ON, "--repeats", "1", "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.stderr
    found = {graph["graph"]: graph for graph in record()["roofline"]["graphs"]}
    assert set(found) == GRAPHS
    assert found["clip_roi"]["sizes"] == {"regions": 1, "vocabulary": 20}
    assert found["roi_classifier"]["sizes"] == {"regions": 1, "vocabulary": 20}


def test_baselines(
    bench: Bench, bundle: Path, coco: Path, tmp_path: Path, record: Callable[[], Any]
) -> None:
    models = ("--bundle", bundle, "--sam", bundle, "--clip", "samclip-tiny", *ON)
    report = ("--json", tmp_path / "report.json")
    result = bench("accuracy", "baselines", coco, *models, "--prompt", "point", *report)
    assert result.exit_code == 0, result.stderr
    found = {(row["model"], row["measure"]): row["value"] for row in record()["rows"]}
    macs = "point multiply-accumulates a photo"
    own = found["regions", macs]
    assert own == pytest.approx(26.5e6 + 10e6 + 0.6e6, rel=0.05)  # encoder, decoder, classifiers
    assert found["crop-image", macs] > found["crop-feature", macs] > own
    parts = 275_248 + 624_276 + 400 + 207_640
    assert found["regions", "vision parameters"] == pytest.approx(parts, rel=0.01)
    of_tiny = 10.74e6 + 2.12e6  # its decoder is not run
    without = 400 + 207_640
    expected = pytest.approx(parts - without + of_tiny, rel=0.01)
    assert found["crop-image", "vision parameters"] == expected


def test_accuracy(
    bench: Bench, bundle: Path, coco: Path, tmp_path: Path, record: Callable[[], Any]
) -> None:
    report = ("--json", tmp_path / "report.json")
    result = bench("accuracy", "names", coco, "-b", bundle, *ON, *report)
    assert result.exit_code == 0, result.stderr
    assert "so crops are left out" in result.stderr
    assert {row["model"] for row in record()["rows"]} == {"regions in one pass"}
    result = bench("accuracy", "instances", coco, "-b", bundle, *ON, *report)
    assert result.exit_code == 0, result.stderr
    measures = {row["measure"] for row in record()["rows"]}
    assert {"point mIoU", "point + click mIoU", "box again mIoU"} < measures
    assert "point mIoU, best of three" not in measures
    camvid = write_camvid(tmp_path / "camvid", {"a": (stripes(0), np.zeros((256, 256), np.uint8))})
    result = bench("accuracy", "semantic", camvid, "-b", bundle, *ON)
    assert result.exit_code == 1
    assert "cannot name pixels or tokens" in result.stderr


def test_what_needs_a_semantic_map_is_refused(bench: Bench, bundle: Path) -> None:
    result = bench("amortised", "--bundle", bundle, *ON)
    assert result.exit_code == 1
    assert "gives no semantic map" in result.stderr


def test_agreement_with_itself(
    bench: Bench, bundle: Path, tmp_path: Path, record: Callable[[], Any]
) -> None:
    given = ("--limit", "1", "--json", tmp_path / "report.json", *ON[:2])
    result = bench("agreement", bundle, bundle, packaged_photos(), *given)
    assert result.exit_code == 0, result.stderr
    found = {row["measure"]: row["value"] for row in record()["rows"]}
    assert found["region names cosine"] == pytest.approx(1.0, abs=1e-6)
    assert found["SAM embedding cosine"] == pytest.approx(1.0, abs=1e-6)
