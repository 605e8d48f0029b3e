"""C-RADIO through the whole export, by the command, and back from its bundle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_radio import (
    SMALL_SIZES,
    TEXT_WIDTHS,
    arguments,
    radio_state,
    save_radio,
    save_sam,
    write_published,
)
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

import samclip
from samclip.errors import CapabilityError
from samclip.export.checkpoints.radio import trunk_weights
from samclip.export.cli import app
from samclip.export.families.radio_assembly import RadioFiles, RadioSettings, assemble_radio
from samclip.export.models.radio.sizes import RADIO_SIZES
from samclip.export.models.text_tower import TextTower, TextTowerConfig
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.pixels.image import load_image, photo_paths, preprocess

NAMES = ("a cup", "a spoon", "a table", "a cat", "a rocket")
SIZE = 192


def run(*options: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in options])


@pytest.fixture(scope="module", autouse=True)
def small_sizes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(7)
        patch.setattr(trunk_weights, "RADIO_SIZES", SMALL_SIZES)
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The checkpoint in halves, SAM, and the text tower of the teacher `clip`."""
    folder = tmp_path_factory.mktemp("radio")
    halves = {key: value.half() for key, value in radio_state().items()}
    tower = TextTower(TextTowerConfig(width=64, heads=1, layers=1, embed_dim=TEXT_WIDTHS["clip"]))
    text = {key: value for key, value in tower.state_dict().items() if key != "attn_mask"}
    save_file(text | {"logit_scale": torch.tensor(4.0)}, folder / "text.safetensors")
    return {
        "radio": save_radio(folder / "c-radio.pth.tar", halves, arguments(), averaged=halves),
        "sam": save_sam(folder / "sam_vit_h.pth"),
        "text": folder / "text.safetensors",
    }


@pytest.fixture(scope="module")
def written(
    files: dict[str, Path], photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The output of the command with --json, for a bundle with a text tower in all precisions."""
    folder = tmp_path_factory.mktemp("exports")
    (folder / "calib").mkdir()
    for photo in (photo_paths()[0], photo_paths()[3]):
        (folder / "calib" / photo.name).write_bytes(photo.read_bytes())
    (folder / "names.txt").write_text("\n".join(NAMES), "utf-8")
    result = run(
        *("--model-type", "radio-v3-b", "--checkpoint", files["radio"]),
        *("--sam-checkpoint", files["sam"], "--text-checkpoint", files["text"], "--gelu"),
        *("--imgsz", SIZE, "--output", folder / "bundle", "--photos", photos, "--json"),
        *("--fp16", "--int8", "--calib", folder / "calib", "--labels", folder / "names.txt"),
        *("--templates", "none", "--attention", "bias"),
    )
    assert result.exit_code == 0, result.stderr
    said: dict[str, Any] = json.loads(result.stdout)
    return said


def test_one_command_writes_all_precisions(written: dict[str, Any]) -> None:
    bundle = Bundle.open(Path(written["path"]))
    bundle.verify()
    manifest = bundle.manifest
    assert manifest.model_type == "radio-v3-b"
    assert manifest.clip_head is not None
    assert manifest.clip_head.trained
    assert (manifest.clip_head.embed_dim, manifest.clip_head.grid) == (TEXT_WIDTHS["clip"], 12)
    assert manifest.preprocessing.mean == pytest.approx((122.77, 116.75, 104.09), abs=0.05)
    assert {row.precision for row in manifest.reductions} == {"fp16", "int8", "int8_fp16"}
    assert all(gate.passed for row in manifest.reductions for gate in row.gates)
    assert manifest.text is not None
    assert manifest.text.embed_dim == TEXT_WIDTHS["clip"]
    notes = manifest.provenance.notes
    assert "space of the teacher clip" in notes
    assert "align_corners=False" in notes
    assert {row.output for row in manifest.parity} == {
        *("backbone_features", "image_embeddings", "image_embed", "patch_embeds"),
        *("iou_predictions", "low_res_masks", "text_embeddings"),
    }
    assert all(row.max_rel_error <= 1e-5 for row in manifest.parity)


@torch.no_grad()
def test_the_runtime_answers_all_tasks_with_torchs_numbers(
    written: dict[str, Any], files: dict[str, Path]
) -> None:
    photo = load_image(photo_paths()[1])
    settings = RadioSettings(image_size=SIZE, quick_gelu=False)
    chain = assemble_radio(RadioFiles(files["radio"], files["sam"], files["text"]), settings)
    model = chain.model
    with samclip.load(written["path"], "onnxruntime", precision="fp32") as loaded:
        array, letterbox = preprocess(photo, loaded.manifest.preprocessing)
        features, embeddings = model.encoder(torch.from_numpy(array))
        mask = torch.from_numpy(letterbox.token_mask(12))
        image_embed, _ = model.clip_head(features, mask)
        scene = loaded.encode(photo)
        found = scene.features.image_embeddings()
        scale = float(embeddings.abs().max())
        np.testing.assert_allclose(found, embeddings.numpy(), atol=1e-5 * scale, rtol=0)
        vocabulary = loaded.vocabulary(NAMES)
        answer = scene.classify(vocabulary)
        unit = torch.nn.functional.normalize(image_embed[0], dim=0)
        cosines = vocabulary.embeddings @ unit.numpy()
        np.testing.assert_allclose(answer.logits, cosines * np.exp(4.0), atol=1e-3)
        masks = scene.segment(boxes=[(10, 20, 200, 240)], names=NAMES)
        assert masks.masks.shape[1:] == photo.shape[:2]
        found_map = scene.semantic(vocabulary)
        assert found_map.labels.shape == photo.shape[:2]
        assert loaded.encoder_passes == 1


def test_without_a_text_tower_masks_remain(
    files: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    result = run(
        *("--checkpoint", files["radio"], "--sam-checkpoint", files["sam"], "--imgsz", SIZE),
        *("--output", tmp_path / "b", "--photos", photos, "--window-size", 4, "--align-corners"),
    )
    assert result.exit_code == 0, result.output
    manifest = Bundle.open(tmp_path / "b").manifest
    assert manifest.model_type == "radio-v3-b"
    assert manifest.text is None
    assert manifest.graphs.text_encoder is None
    assert "space of the teacher siglip2" in manifest.provenance.notes
    assert "align_corners=True" in manifest.provenance.notes
    assert "windows of 4 x 4" in manifest.provenance.notes
    with samclip.load(tmp_path / "b", "onnxruntime") as model:
        scene = model.encode(photo_paths()[0])
        assert len(scene.segment(points=[[(300, 200)]])) == 1
        with pytest.raises(CapabilityError):
            scene.classify(NAMES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--sam-checkpoint sam_vit_h_4b8939.pth"),
        (("--sam-checkpoint", "SAM", "--head-pool", 2), "--head-pool changes nothing"),
        (("--sam-checkpoint", "SAM", "--model-type", "radio-v3-h"), "64 wide"),
        (("--sam-checkpoint", "SAM", "--teacher", "sam"), "no teacher 'sam' with a text tower"),
        (("--sam-checkpoint", "SAM", "--labels", "NAMES"), "--vocabulary needs a text tower"),
    ],
)
def test_options_that_do_not_fit(
    options: tuple[object, ...], words: str, files: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "names.txt").write_text("cat", "utf-8")
    places = {"SAM": files["sam"], "NAMES": tmp_path / "names.txt"}
    given = [places.get(str(each), each) for each in options]
    result = run("--checkpoint", files["radio"], "--output", tmp_path / "b", "--imgsz", 64, *given)
    assert result.exit_code == 1
    assert words in " ".join(result.output.split())
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model-type", "radio-v3-b"), "does not fit --model-type radio-v3-b"),
        (("--sam-checkpoint", "SAM"), "--sam-checkpoint is for a C-RADIO"),
        (("--align-corners",), "--align-corners is for a C-RADIO"),
        (("--window-size", 8), "--window-size is for a C-RADIO"),
    ],
)
def test_other_models_have_none_of_it(
    options: tuple[object, ...], words: str, files: dict[str, Path], tmp_path: Path
) -> None:
    given = [files["sam"] if each == "SAM" else each for each in options]
    result = run("--checkpoint", files["sam"], "--output", tmp_path / "b", *given)
    assert result.exit_code == 1
    assert words in " ".join(result.output.split())


@pytest.mark.slow
def test_v3_b_at_512_px_in_full(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trunk_weights, "RADIO_SIZES", RADIO_SIZES)
    write_published(tmp_path, "radio-v3-b")
    result = run(
        *("--model-type", "radio-v3-b", "--checkpoint", tmp_path / "radio-v3-b.pth.tar"),
        *("--sam-checkpoint", tmp_path / "sam_vit_h.pth", "--imgsz", 512),
        *("--output", tmp_path / "b", "--photos", photos),
    )
    assert result.exit_code == 0, result.output
    with samclip.load(tmp_path / "b", "onnxruntime") as model:
        scene = model.encode(photo_paths()[0])
        assert len(scene.segment(boxes=[(10, 20, 200, 240)])) == 1
        assert scene.features.image_embeddings().shape == (1, 256, 32, 32)
