"""The command with real weights and a real photo."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from cli_fakes import Run
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask


@pytest.fixture(autouse=True)
def places(tmp_path: Path, mobile_sam_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMCLIP_BUNDLE", str(mobile_sam_bundle))
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def decode(segmentation: dict[str, object]) -> NDArray[np.bool_]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools' own, under numpy 2
        return coco_mask.decode(segmentation).astype(np.bool_)


def test_box_finds_the_cup(run: Run, photo_path: Path, photo: NDArray[np.uint8]) -> None:
    result = run("segment", photo_path, "--box", "172,17,410,308", "--json", "-o", "cup.png")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    (mask,) = record["masks"]
    pixels = decode(mask["segmentation"])
    assert pixels.shape == photo.shape[:2]
    assert pixels[160, 290]  # in the coffee
    assert not pixels[380, 20]  # on the table
    assert mask["score"] > 0.8
    with Image.open("cup.png") as picture:
        assert picture.size == photo.shape[1::-1]


def test_points_alone_or_together(run: Run, photo_path: Path) -> None:
    points = ["--point", "290,160", "--point", "380,290"]
    together = json.loads(run("segment", photo_path, *points, "--json").stdout)
    separate = json.loads(run("segment", photo_path, *points, "--separate", "--json").stdout)
    assert len(together["masks"]) == 1
    assert len(separate["masks"]) == 2


def test_names_from_an_untrained_head_are_marked(run: Run, photo_path: Path) -> None:
    result = run("classify", photo_path, "--names", "a cup,a dog,a rocket", "--json")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["trained_head"] is False
    assert sorted(record["names"]) == ["a cup", "a dog", "a rocket"]
    assert sum(record["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert result.stderr.count("UNTRAINED") == 1
    assert "was never trained: the names" not in result.stderr  # only the panel warns


def test_semantic_regions_tile_the_image(run: Run, photo_path: Path) -> None:
    result = run("semantic", photo_path, "--names", "a cup,a table", "--json")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    covered = sum(decode(found["segmentation"]).astype(int) for found in record["classes"])
    assert (covered == 1).all()


@pytest.mark.parametrize("search", [[], ["--adaptive"]])
def test_everything_finds_the_cup_too(run: Run, photo_path: Path, search: list[str]) -> None:
    result = run("everything", photo_path, "--points-per-side", "6", *search, "--json")
    assert result.exit_code == 0, result.stderr
    masks = [decode(mask["segmentation"]) for mask in json.loads(result.stdout)["masks"]]
    assert masks
    assert any(mask[160, 290] for mask in masks)
    assert "UNTRAINED" not in result.stderr  # no names were asked for


def test_unknown_backend_is_refused_with_the_known_ones(run: Run, photo_path: Path) -> None:
    result = run("segment", photo_path, "--point", "9,9", "--backend", "onnxruntim")
    assert result.exit_code in {1, 2}
    assert "onnxruntime" in result.stderr
    assert "Traceback" not in result.stderr
