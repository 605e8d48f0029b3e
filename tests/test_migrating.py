"""docs/migrating.md: every block runs, and answers that can be equal are equal."""

from __future__ import annotations

import ast
import re
import shutil
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pages import ROOT, Block, blocks, sections
from PIL import Image
from reference_mobile_sam import reference_mobile_sam
from reference_open_clip import load_open_clip
from reference_segment_anything import load_package

import samclip
from samclip.runtime.assets import packaged_photos
from samclip.runtime.bundles.home import find_bundle
from samclip.runtime.results.coco import unpack_counts

PAGE = ROOT / "docs" / "migrating.md"
PARTS = {
    "From segment-anything": "segment-anything",
    "From open_clip": "open_clip",
    "From ultralytics": "ultralytics",
}
pytestmark = pytest.mark.filterwarnings("ignore::samclip.UntrainedHeadWarning")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the page's code runs in, with its photos."""
    for name, photo in (("street.jpg", "coffee.jpg"), ("kitchen.jpg", "astronaut.jpg")):
        shutil.copy(packaged_photos() / photo, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def library_of(block: Block) -> str:
    """Return whose code a block is, by its first line."""
    return block.text.partition("\n")[0].removeprefix("# ")


def python_blocks(part: str) -> list[Block]:
    return [each for each in blocks(PAGE) if each.part == part and each.language == "python"]


def run(part: str, library: str) -> dict[str, Any]:
    """Run a library's blocks of a part, and those for both, one after the other: their names."""
    names: dict[str, Any] = {"__name__": library}
    for block in python_blocks(part):
        if library_of(block) in (library, "both"):
            text = "\n" * (block.line - 1) + block.text  # tracebacks with the page's lines
            exec(compile(text, str(PAGE), "exec"), names)
    return names


def draw(record: dict[str, Any]) -> NDArray[np.bool_]:
    """Draw the mask of a record with COCO's run lengths: HxW."""
    rle = record["segmentation"]
    counts = unpack_counts(rle["counts"])
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(rle["size"], order="F")


def iou(a: Any, b: Any) -> float:
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    assert a.dtype == b.dtype == np.bool_
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.slow
def test_segment_anything(
    desk: Path,
    mobile_sam_bundle: Path,
    mobile_sam_reference: Path,
    mobile_sam_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both run MobileSAM's weights, which stand in for ViT-B's, a tenth as large."""
    shutil.copytree(mobile_sam_bundle, desk / "my-bundle")
    registry = load_package().sam_model_registry
    sam = reference_mobile_sam(mobile_sam_reference, mobile_sam_checkpoint)
    monkeypatch.setitem(registry, "vit_b", lambda checkpoint: sam)
    theirs = run("From segment-anything", "segment-anything")
    ours = run("From segment-anything", "samclip")

    for name, shape in {"masks": (3,), "refined": (1,), "batch": (2, 1)}.items():
        assert ours[name].shape == (*shape, 400, 600)
        assert type(ours[name]) is type(theirs[name])
        assert iou(ours[name], theirs[name]) > 0.999
    np.testing.assert_allclose(ours["scores"], theirs["scores"], atol=1e-3)
    np.testing.assert_allclose(ours["batch_scores"], theirs["batch_scores"], atol=1e-3)
    np.testing.assert_allclose(ours["logits"], theirs["logits"], atol=0.02)  # in about [-40, 20]
    np.testing.assert_allclose(ours["embedding"], theirs["embedding"], atol=1e-3)
    np.testing.assert_array_equal(ours["found"].masks, ours["batch"][:, 0])
    assert len(ours["records"]) == len(theirs["records"]) > 2
    for one, other in zip(ours["records"], theirs["records"], strict=True):
        assert iou(draw(one), draw(other)) > 0.999


class Preprocess:
    """As much of open_clip's image transform as its model of 32 pixels needs."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        pixels = np.asarray(image.convert("RGB").resize((32, 32)), np.float32)
        return torch.from_numpy(pixels / 255).permute(2, 0, 1)  # HWC -> CHW


@pytest.fixture
def open_clip(text_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put open_clip in place, without torchvision; its ViT-B-16 is small, its text tower ours."""
    parts = load_open_clip("model")
    state = torch.load(text_checkpoint, weights_only=True)
    clip = parts.CLIP(
        48,
        parts.CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=16, image_size=32),
        parts.CLIPTextCfg(width=64, heads=1, layers=2),
    )
    missing, surplus = clip.load_state_dict(state, strict=False)
    assert not surplus
    assert all(name.startswith("visual.") for name in missing)
    package: Any = types.ModuleType("open_clip")
    package.create_model_and_transforms = lambda *_, **__: (clip, None, Preprocess())
    tokenizer = load_open_clip("tokenizer").SimpleTokenizer()
    package.get_tokenizer = lambda name: tokenizer
    classifier = load_open_clip("zero_shot_classifier")
    package.build_zero_shot_classifier = classifier.build_zero_shot_classifier
    metadata = load_open_clip("zero_shot_metadata")
    package.SIMPLE_IMAGENET_TEMPLATES = metadata.SIMPLE_IMAGENET_TEMPLATES
    monkeypatch.setitem(sys.modules, "open_clip", package)


def test_open_clip(desk: Path, lite2_bundle: Path, open_clip: None) -> None:
    shutil.copytree(lite2_bundle, desk / "my-bundle")  # with the text tower of `text_checkpoint`
    theirs, ours = run("From open_clip", "open_clip"), run("From open_clip", "samclip")
    for name in ("text_features", "classifier"):
        expected = theirs[name].numpy()
        assert ours[name].dtype == expected.dtype
        np.testing.assert_allclose(ours[name], expected, atol=1e-5)  # of unit vectors
    assert ours["scale"] == pytest.approx(theirs["scale"].item(), rel=1e-6)
    assert ours["probabilities"].shape == theirs["probabilities"].shape == (1, 3)
    np.testing.assert_allclose(ours["probabilities"][0], ours["answer"].probabilities, atol=1e-6)
    image = ours["image_features"] / np.linalg.norm(ours["image_features"])
    by_hand = torch.tensor(ours["scale"] * image @ ours["text_features"].T).softmax(0)
    np.testing.assert_allclose(ours["probabilities"][0], by_hand, atol=1e-5)
    assert ours["features"].shape == (2, 48)
    assert theirs["features"].shape == (2, 48)
    np.testing.assert_allclose(ours["features"][0], image, atol=1e-5)


@pytest.mark.slow
def test_ultralytics(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their blocks are parsed alone: the package is not among what tests install."""
    for block in python_blocks("From ultralytics"):
        ast.parse(block.text)
    shutil.copytree(find_bundle(None), desk / "my-bundle")
    ours = run("From ultralytics", "samclip")
    with Image.open(desk / "answer.jpg") as picture:
        assert picture.format == "JPEG"
    assert (desk / "street.json").stat().st_size > 500
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(ours["result"]) > 0
    assert any(line.startswith("cup ") for line in printed)


def test_every_block_says_whose_it_is() -> None:
    for part, library in PARTS.items():
        found = Counter(library_of(block) for block in python_blocks(part))
        assert found.keys() <= {library, "samclip", "both"}
        assert min(found[library], found["samclip"]) >= 2
    others = [block for block in blocks(PAGE) if block.part not in PARTS]
    assert {block.language for block in others} == {"bash"}


def test_tables_and_text_name_what_there_is() -> None:
    text = "\n".join(line for section in sections(PAGE) for line in section.lines)
    owners = {"result": samclip.AutoMasks, "scene": samclip.Scene, "vocabulary": samclip.Vocabulary}
    named = re.findall(r"\b(result|scene|vocabulary)\.(\w+)", text)
    assert len(set(named)) > 10
    for owner, name in named:
        kind = owners[owner]
        assert hasattr(kind, name) or name in kind.__dataclass_fields__, f"{owner}.{name}"
