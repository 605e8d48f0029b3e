"""A real bundle of a small Open-Vocabulary SAM, on ONNX Runtime, against its torch modules."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from ovsam_bundle import NAMES, random_texts, write_ovsam_bundle
from PIL import Image
from reference_ovsam import TOLERANCE, Reference, check_masks, check_names
from small_ovsam import SMALL_OVSAM, random_ovsam
from typer.testing import CliRunner

import samclip
from samclip.engines.plans.sidecar import DEFAULT_AXES
from samclip.errors import CapabilityError, ClosedError, PromptError, VocabularyError
from samclip.export.models.ovsam.model import Ovsam
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Graphs
from samclip.runtime.model import Model
from samclip.runtime.pixels.prompts import MAX_PROMPTS
from samclip.runtime.tasks.region_naming import MAX_REGIONS, MAX_TEXTS
from samclip.runtime.tasks.regions import regions_of

BOXES = [(10.0, 10.0, 60.0, 60.0), (0.0, 30.0, 120.0, 90.0), (80.0, 5.0, 99.0, 20.5)]
POINTS = [[(30, 30)], [(60, 50)], [(110, 85)]]
TEXT = random_texts(len(NAMES), SMALL_OVSAM.embed_dim)


@pytest.fixture(scope="module")
def network() -> Ovsam:
    return random_ovsam()


@pytest.fixture(scope="module")
def bundle(
    network: Ovsam, graphs_traced_once: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return write_ovsam_bundle(network, tmp_path_factory.mktemp("ovsam") / "small")


@pytest.fixture(scope="module")
def model(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with samclip.load(bundle, "onnxruntime", cache_dir=tmp_path_factory.mktemp("cache")) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def expected(network: Ovsam, model: Model, image: NDArray[np.uint8]) -> Reference:
    return Reference(network, model, image)


@pytest.mark.parametrize("count", [1, 80, 1203, 22_000])
def test_boxes_get_torchs_masks_and_names(
    count: int, model: Model, image: NDArray[np.uint8], expected: Reference
) -> None:
    before = model.encoder_passes
    scene = model.encode(image)
    masks = scene.segment(boxes=BOXES, names=NAMES[:count])
    assert model.encoder_passes == before + 1
    logits = [expected.mask(np.reshape(box, (2, 2)), [2, 3]) for box in BOXES]
    check_masks(masks, logits)
    pairs = zip(BOXES, logits, strict=True)
    check_names(masks, [expected.probabilities(b, m, TEXT[:count], 0.9) for b, m in pairs])


@pytest.mark.parametrize("count", [1, 1203])
def test_both_opinions_are_torchs(
    count: int, model: Model, image: NDArray[np.uint8], expected: Reference
) -> None:
    scene, text = model.encode(image), TEXT[:count]
    masks, features = scene.segment(boxes=BOXES), scene.features
    regions = regions_of(masks, features.letterbox, features.mask_size)
    wanted = [expected.opinions(box, text) for box in BOXES]
    found = features.score_regions(regions, text), features.score_regions_by_clip(regions, text)
    for logits, reference in zip(found, map(np.stack, zip(*wanted, strict=True)), strict=True):
        assert logits.shape == (len(BOXES), count)
        assert np.abs(logits - reference).max() < 100 * TOLERANCE
        if count > 1:  # another box says something else
            assert np.abs(logits[0] - logits[2]).max() > 1000 * TOLERANCE


def test_points_are_named_by_the_boxes_of_their_masks(
    model: Model, image: NDArray[np.uint8], expected: Reference
) -> None:
    masks = model.encode(image).segment(points=POINTS, names=NAMES[:80])
    logits = [expected.mask([point[0], (0, 0)], [1, -1]) for point in POINTS]
    check_masks(masks, logits)
    pairs = zip(masks.boxes, logits, strict=True)
    check_names(masks, [expected.probabilities(b, m, TEXT[:80], 0.9) for b, m in pairs])


def test_masks_refine_and_are_named_by_what_comes_of_it(
    model: Model, image: NDArray[np.uint8], expected: Reference
) -> None:
    scene = model.encode(image)
    first = scene.segment(boxes=BOXES[0])
    assert first.low_res_logits is not None
    given = first.low_res_logits[0]
    points = [(30, 30), (50, 20)]
    together = scene.segment(points=points, labels=[1, 0], boxes=BOXES[0], mask=given)
    check_masks(
        together, [expected.mask([*points, BOXES[0][:2], BOXES[0][2:]], [1, 0, 2, 3], given)]
    )
    alone = scene.segment(mask=given, names=NAMES[:80])
    assert alone.low_res_logits is not None
    (box,), (logits,) = alone.boxes, alone.low_res_logits
    check_names(alone, [expected.probabilities(box, logits, TEXT[:80], 0.9)])


def test_what_was_seen_in_training_is_the_classifiers(
    model: Model, image: NDArray[np.uint8], expected: Reference
) -> None:
    vocabulary = model.vocabulary(NAMES[:80], seen=NAMES[:80])
    masks = model.encode(image).segment(boxes=BOXES, names=vocabulary)
    assert masks.low_res_logits is not None
    pairs = zip(BOXES, masks.low_res_logits, strict=True)
    check_names(masks, [expected.probabilities(b, m, TEXT[:80], 0.1) for b, m in pairs])


def test_masks_from_elsewhere_get_the_same_names(model: Model, image: NDArray[np.uint8]) -> None:
    scene = model.encode(image)
    found = scene.segment(points=POINTS, names=NAMES[:80])
    given = scene.name(found.masks, NAMES[:80])
    assert given.names == found.names


def test_more_masks_than_one_run_takes(model: Model, image: NDArray[np.uint8]) -> None:
    rng = np.random.default_rng(1)
    corners = rng.random((MAX_REGIONS + 5, 2)) * (80, 60)
    boxes = np.hstack([corners, corners + 3 + rng.random(corners.shape) * 26])
    scene = model.encode(image)
    together = scene.segment(boxes=boxes, names=NAMES[:80])
    for row in (0, MAX_REGIONS - 1, MAX_REGIONS, len(boxes) - 1):
        assert scene.segment(boxes=boxes[row], names=NAMES[:80]).names == together[row].names


def test_synonyms(model: Model, image: NDArray[np.uint8]) -> None:
    scene = model.encode(image)
    (best,) = scene.segment(boxes=BOXES[0], names=NAMES[:80]).names or ()
    others = [name for name in NAMES[:20] if name != best]
    vocabulary = model.vocabulary(others, synonyms={others[3]: [best]})
    assert scene.segment(boxes=BOXES[0], names=vocabulary).names == (others[3],)


def test_the_whole_image(model: Model, image: NDArray[np.uint8], expected: Reference) -> None:
    answer = model.encode(image).classify(NAMES[:80])
    box = torch.tensor([[0.0, 0, *expected.letterbox.input_size[::-1]]])
    with torch.no_grad():
        wanted = expected.network.clip_roi(expected.c5, box, torch.from_numpy(TEXT[:80]))[0]
    np.testing.assert_allclose(answer.logits, wanted, atol=100 * TOLERANCE)


def test_attacks(model: Model, image: NDArray[np.uint8]) -> None:
    scene = model.encode(image)
    for names in ([], "name 1", [3]):
        with pytest.raises(VocabularyError):
            scene.segment(boxes=BOXES, names=names)  # type: ignore[arg-type]
    with pytest.raises(CapabilityError, match="no text encoder"):
        scene.segment(boxes=BOXES, names=["what nobody has embedded"])
    with pytest.raises(PromptError):
        scene.segment(boxes=[(5, 5, 5, 9)], names=NAMES[:2])
    with pytest.raises(PromptError, match="mask must be logits of 32x32"):
        scene.segment(mask=np.zeros((64, 64)), names=NAMES[:2])
    with pytest.raises(PromptError):
        scene.name(np.ones((9, 9), bool), NAMES[:2])
    for refused in (scene.everything, lambda: scene.semantic(NAMES[:2])):
        with pytest.raises(CapabilityError, match="choose another bundle"):
            refused()
    scene.close()
    with pytest.raises(ClosedError):
        scene.segment(boxes=BOXES, names=NAMES[:2])


def test_plans_can_be_built_for_every_dynamic_axis(bundle: Path) -> None:
    graphs = Bundle.open(bundle).manifest.graphs
    described = [getattr(graphs, name) for name in Graphs.__struct_fields__]
    inputs = [spec for graph in described if graph is not None for spec in graph.inputs]
    dynamic = {axis for spec in inputs for axis in spec.shape if isinstance(axis, str)}
    assert dynamic == {"prompts", "points", "regions", "vocabulary"}
    assert dynamic <= set(DEFAULT_AXES)
    most = {"prompts": MAX_PROMPTS, "regions": MAX_REGIONS, "vocabulary": MAX_TEXTS}
    assert {name: DEFAULT_AXES[name].most for name in most} == most


def run(*arguments: object) -> str:
    from samclip.cli.main import app

    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_the_command_names_what_it_segments(
    bundle: Path,
    model: Model,
    image: NDArray[np.uint8],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / "cache"))
    Image.fromarray(image).save(tmp_path / "noise.png")
    names = ["--names", ",".join(NAMES[:80])]
    asked = ["segment", tmp_path / "noise.png", "--box", "10,10,60,60", "--bundle", bundle]
    record = json.loads(run(*asked, *names, "--backend", "onnxruntime", "--json"))
    masks = model.encode(image).segment(boxes=BOXES[0], names=NAMES[:80])
    (found,) = record["masks"]
    assert (found["name"],) == masks.names
    assert found["score"] == pytest.approx(float(masks.scores[0]), abs=1e-5)
    assert record["trained_head"] is True


def test_info_shows_what_the_bundle_is(bundle: Path) -> None:
    shown = run("info", bundle, "--verify")
    for part in ("roi_classifier", "clip_roi", "names regions", "vocabulary"):
        assert part in shown
    record = json.loads(run("info", bundle, "--json"))
    assert record["manifest"]["region_head"] == {"trained": True, "embed_dim": 24}
    assert record["manifest"]["clip_head"] is None
