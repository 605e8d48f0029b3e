"""A real bundle of MobileSAM and a small CLIP side by side, against open_clip's own towers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from reference_open_clip import reference_tokenizer, small_image_tower, small_text_tower
from typer.testing import CliRunner

import samclip
from samclip.cli.main import app
from samclip.engines.base import EngineOptions
from samclip.engines.limits import MAX_CROPS
from samclip.engines.plans.sidecar import DEFAULT_AXES
from samclip.engines.registry import get_backend
from samclip.errors import CapabilityError, ClosedError, InputError
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.clip_tower import Passes
from samclip.runtime.model import Model
from samclip.runtime.pixels.image import load_image, photo_paths
from samclip.runtime.plans.trial import Trials

NAMES = ["a cup", "a spoon", "a table", "a cat", "a rocket"]
MEAN = np.asarray([0.48145466, 0.4578275, 0.40821073])
STD = np.asarray([0.26862954, 0.26130258, 0.27577711])
SIDE, GRID, SCALE = 32, 4, float(np.exp(4.0))
BOXES = [(100.0, 60.0, 260.0, 170.0), (300.0, 200.0, 420.0, 390.0), (10.0, 10.0, 60.0, 40.0)]
# Of cosines in float32 through two towers of random weights, in ONNX Runtime against torch.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return load_image(photo_paths()[2])


@pytest.fixture(scope="module")
def model(two_towers_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    cache = tmp_path_factory.mktemp("cache")
    with samclip.load(two_towers_bundle, "onnxruntime", cache_dir=cache) as loaded:
        yield loaded


@torch.inference_mode()
def embed(pictures: list[Image.Image]) -> NDArray[np.float64]:
    """Embed pictures of 32 x 32 pixels with open_clip's image tower: unit rows."""
    arrays = [(np.asarray(picture) / 255.0 - MEAN) / STD for picture in pictures]
    images = torch.from_numpy(np.stack(arrays).transpose(0, 3, 1, 2).astype(np.float32))
    return unit(small_image_tower()(images).double().numpy())


@torch.inference_mode()
def texts() -> NDArray[np.float64]:
    tokens = torch.from_numpy(reference_tokenizer()(NAMES))
    return unit(small_text_tower(48)(tokens).double().numpy())


def unit(rows: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def test_a_photo_is_classified_as_open_clip_does(model: Model, image: NDArray[np.uint8]) -> None:
    height, width = image.shape[:2]
    wide = int(SIDE * width / height)
    left = round((wide - SIDE) / 2)
    resized = Image.fromarray(image).resize((wide, SIDE), Image.Resampling.BICUBIC)
    expected = (embed([resized.crop((left, 0, left + SIDE, SIDE))]) @ texts().T)[0]
    scene = model.encode(image)
    answer = scene.classify(NAMES)
    np.testing.assert_allclose(answer.logits / SCALE, expected, atol=TOLERANCE)
    powers = np.exp(SCALE * expected)
    np.testing.assert_allclose(answer.probabilities, powers / powers.sum(), atol=1e-3)
    assert answer.trained_head
    scene.classify(NAMES[:3])
    assert scene.passes == Passes(sam=1, clip=1)  # the photo's embedding is kept


def check_names(masks: samclip.Masks, rows: NDArray[np.float64]) -> None:
    cosines = rows @ texts().T
    order = np.sort(cosines, axis=1)
    clear = order[:, -1] - order[:, -2] > 10 * TOLERANCE
    assert clear.any()
    assert masks.class_ids is not None
    assert masks.name_probabilities is not None
    np.testing.assert_array_equal(masks.class_ids[clear], cosines.argmax(axis=1)[clear])
    powers = np.exp(SCALE * cosines)
    expected = powers.max(axis=1) / powers.sum(axis=1)
    np.testing.assert_allclose(masks.name_probabilities, expected, atol=2e-3)


def crops(image: NDArray[np.uint8], masks: NDArray[np.bool_], margin: float) -> list[Image.Image]:
    """Cut a square around each mask, written down once more; all of them have room."""
    found = []
    for mask in masks:
        rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
        y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        side = int(np.ceil(max(y1 - y0, x1 - x0) * (1 + 2 * margin)))
        top, left = round((y0 + y1 - side) / 2), round((x0 + x1 - side) / 2)
        assert top >= 0
        assert left >= 0
        window = image[top : top + side, left : left + side]
        assert window.shape[:2] == (side, side)
        found.append(Image.fromarray(window).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return found


def squares(image: NDArray[np.uint8], count: int) -> NDArray[np.bool_]:
    rng = np.random.default_rng(count)
    masks = np.zeros((count, *image.shape[:2]), np.bool_)
    for mask in masks:
        y, x = rng.integers(60, image.shape[0] - 120), rng.integers(60, image.shape[1] - 120)
        mask[y : y + rng.integers(1, 60), x : x + rng.integers(1, 60)] = True
    return masks


@pytest.mark.parametrize("count", [1, MAX_CROPS, MAX_CROPS + 3])
def test_masks_are_named_by_crops(count: int, model: Model, image: NDArray[np.uint8]) -> None:
    masks = squares(image, count)
    scene = model.encode(image)
    before = model.passes
    named = scene.name(masks, NAMES)
    check_names(named, embed(crops(image, masks, 0.1)))
    assert scene.passes == Passes(sam=1, crops=count)
    assert model.passes.crops == before.crops + count
    assert model.encoder_passes == before.sam


def test_examples_are_embedded_as_masks_are_named(model: Model, image: NDArray[np.uint8]) -> None:
    masks = squares(image, 2)
    scene = model.encode(image)
    given = {NAMES[3]: [(scene, masks[0]), (scene, masks[1])]}
    taught = model.vocabulary(NAMES, examples=given)
    expected = embed(crops(image, masks, 0.1)).sum(axis=0)
    assert taught.examples is not None
    np.testing.assert_allclose(taught.examples.sums[3], expected, atol=2 * TOLERANCE)
    assert taught.examples.counts.tolist() == [0, 0, 0, 2, 0]
    # One pass over the photo, for what all pictures have in common.
    assert scene.passes == Passes(sam=1, clip=1, crops=2)
    assert scene.name(masks, taught).vocabulary == tuple(NAMES)
    assert scene.semantic(taught).names == tuple(NAMES)


def test_masks_are_named_by_tokens_when_asked(model: Model, image: NDArray[np.uint8]) -> None:
    scene = model.encode(image)
    masks = scene.segment(boxes=BOXES, names=NAMES, name_by="crop-feature")
    again = scene.name(masks, NAMES, name_by="crop-feature")
    assert scene.passes == Passes(sam=1, clip=1)  # one for all masks of the scene
    assert again.names == masks.names
    # Tokens cover the whole photo, squashed: a mask's share of each, by counting its pixels.
    height, width = image.shape[:2]
    rows, columns = np.arange(height) * GRID // height, np.arange(width) * GRID // width
    places = rows[:, None] * GRID + columns[None, :]
    shares = np.stack([np.bincount(places[mask], minlength=GRID**2) for mask in masks.masks])
    tokens = scene.patch_embeds.reshape(48, -1).T  # DxGxG -> GGxD
    pooled = (shares / shares.sum(axis=1, keepdims=True)) @ tokens
    # A pixel on the border of two tokens counts for one of them here.
    cosines = unit(pooled) @ texts().T
    assert masks.class_ids is not None
    order = np.sort(cosines, axis=1)
    clear = order[:, -1] - order[:, -2] > 0.02
    np.testing.assert_array_equal(cosines.argmax(axis=1)[clear], masks.class_ids[clear])


def test_tokens_are_of_the_squashed_photo(model: Model, image: NDArray[np.uint8]) -> None:
    seen: list[torch.Tensor] = []
    tower: Any = small_image_tower()
    last = tower.transformer.resblocks[-1]
    last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    small = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pixels = ((np.asarray(small) / 255.0 - MEAN) / STD).transpose(2, 0, 1)[None]
    with torch.inference_mode():
        tower(torch.from_numpy(pixels.astype(np.float32)))
        normed = last.ln_1(seen[0])
        weight, bias = last.attn.in_proj_weight[128:], last.attn.in_proj_bias[128:]
        x = seen[0] + last.attn.out_proj(torch.nn.functional.linear(normed, weight, bias))
        x = x + last.mlp(last.ln_2(x))
        dense = (tower.ln_post(x) @ tower.proj)[0, 1:].numpy()  # ggxD, row by row
    found = model.encode(image).patch_embeds.reshape(48, -1).T
    np.testing.assert_allclose(found, dense, atol=TOLERANCE * np.abs(dense).max())


@pytest.mark.parametrize("turned", [False, True])
def test_a_map_lies_on_the_photo(turned: bool, model: Model, image: NDArray[np.uint8]) -> None:
    photo = np.ascontiguousarray(image.transpose(1, 0, 2) if turned else image)
    scene = model.encode(photo)
    coarse = scene.semantic(NAMES)
    refined = scene.semantic(NAMES, refine=True)
    assert scene.passes == Passes(sam=1, clip=1)
    tokens = unit(scene.patch_embeds.reshape(48, -1).T) @ texts().T
    best = tokens.argmax(axis=1).reshape(GRID, GRID)
    order = np.sort(tokens, axis=1)
    # A pixel lies up to half a pixel off a token's centre, and takes some of its neighbours.
    clear = (order[:, -1] - order[:, -2] > 0.02).reshape(GRID, GRID)
    assert clear.sum() > GRID
    height, width = photo.shape[:2]
    for row in range(GRID):
        for column in range(GRID):
            place = int((row + 0.5) * height / GRID), int((column + 0.5) * width / GRID)
            assert coarse.labels[place] == best[row, column] or not clear[row, column]
    assert refined.labels.shape == (height, width)
    assert (refined.labels == coarse.labels).mean() > 0.2
    assert refined.refined


def test_everything_counts_its_crops(model: Model, image: NDArray[np.uint8]) -> None:
    scene = model.encode(image)
    found = scene.everything(
        NAMES, points_per_side=4, pred_iou_thresh=0.3, stability_score_thresh=0.5
    )
    assert len(found) > 1
    assert scene.passes == Passes(sam=1, crops=len(found))
    assert str(scene.passes) == f"1 SAM pass, {len(found)} CLIP crops"
    assert str(Passes(sam=2, clip=1, crops=1)) == "2 SAM passes, 1 CLIP pass, 1 CLIP crop"


def test_outside_of_the_mask_may_be_masked(
    two_towers_bundle: Path, model: Model, image: NDArray[np.uint8]
) -> None:
    bundle = Bundle.open(two_towers_bundle)
    described = bundle.manifest.clip_tower
    assert described is not None
    other = msgspec.structs.replace(described, crop_background="masked", crop_margin=0.0)
    manifest = msgspec.structs.replace(bundle.manifest, clip_tower=other)
    masks = squares(image, 2)
    hidden = [np.where(mask[..., None], image, np.rint(255 * MEAN)) for mask in masks]
    expected = embed(
        [
            crops(picture.astype(np.uint8), mask[None], 0.0)[0]
            for picture, mask in zip(hidden, masks, strict=True)
        ]
    )
    backend = get_backend("onnxruntime")
    with Model(replace(bundle, manifest=manifest), backend, EngineOptions()) as masked:
        check_names(masked.encode(image).name(masks, NAMES), expected)
        empty = np.zeros((1, *image.shape[:2]), np.bool_)
        whole = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        check_names(masked.encode(image).name(empty, NAMES), embed([whole]))


def test_attacks(model: Model, image: NDArray[np.uint8], lite2_bundle: Path) -> None:
    scene = model.encode(image)
    with pytest.raises(InputError, match="name_by must be 'crop-image' or 'crop-feature'"):
        scene.segment(boxes=BOXES, names=NAMES, name_by="crop-images")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give names"):
        scene.everything(name_by="crop-image")
    scene.close()
    for ask in (
        scene.classify,
        scene.semantic,
        lambda names: scene.segment(boxes=BOXES, names=names),
    ):
        with pytest.raises(ClosedError):
            ask(NAMES)
    with samclip.load(lite2_bundle, "onnxruntime") as other:
        with pytest.raises(CapabilityError, match="no separate CLIP"):
            other.encode(image).segment(boxes=BOXES, names=NAMES, name_by="crop-image")
        assert other.encode(image).passes == Passes(sam=1)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_other_engines_agree(
    backend: str, two_towers_bundle: Path, model: Model, image: NDArray[np.uint8]
) -> None:
    """OpenVINO, and ONNX Runtime in a separate process with a time limit."""
    pytest.importorskip(backend)
    limit = 120.0 if backend == "onnxruntime" else None
    masks = squares(image, MAX_CROPS + 1)
    scene = model.encode(image)
    with samclip.load(two_towers_bundle, backend, timeout=limit) as other:
        theirs = other.encode(image)
        # Two libraries in float32; logits are cosines times 55.
        np.testing.assert_allclose(
            theirs.classify(NAMES).logits, scene.classify(NAMES).logits, atol=5e-3
        )
        found, expected = theirs.name(masks, NAMES), scene.name(masks, NAMES)
        assert found.name_probabilities is not None
        np.testing.assert_allclose(found.name_probabilities, expected.name_probabilities, atol=5e-3)


def test_plans_are_built_for_and_judged_on_crops(two_towers_bundle: Path) -> None:
    bundle = Bundle.open(two_towers_bundle)
    graph = bundle.manifest.graphs.clip_encoder
    assert graph is not None
    assert graph.inputs[0].shape == ("crops", 3, SIDE, SIDE)
    assert DEFAULT_AXES["crops"].most == MAX_CROPS
    trial = Trials(bundle).make("clip_encoder", DEFAULT_AXES)
    shapes = [question.feeds["images"].shape for question in trial.questions]
    assert [shape[0] for shape in shapes] == [1, 8, MAX_CROPS]


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_commands_say_the_passes(two_towers_bundle: Path, tmp_path: Path) -> None:
    photo = photo_paths()[2]
    asked = ("segment", photo, "--box", "100,60,260,170", "--box", "300,200,420,390")
    named = (*asked, "--names", "cup,spoon", "--bundle", two_towers_bundle, "--output")
    assert "passes: 1 SAM pass, 2 CLIP crops" in run(*named, tmp_path / "a.png")
    pooled = run(*named, tmp_path / "b.png", "--name-by", "crop-feature")
    assert "passes: 1 SAM pass, 1 CLIP pass" in pooled
    record = json.loads(run(*named, tmp_path / "c.png", "--json"))
    assert record["passes"] == {"sam": 1, "clip": 0, "crops": 2}
    shown = run("info", two_towers_bundle)
    assert "CLIP at 32 x 32" in shown
