"""C-RADIO through the whole export, by the command, and back from its bundle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_radio import (
    SMALL,
    SMALL_SIZES,
    TEXT_WIDTHS,
    arguments,
    radio_state,
    save_radio,
    save_sam,
    write_published,
)
from numpy.typing import NDArray
from reference_radio import reference_radio
from torch import Tensor
from transformers import AutoTokenizer
from typer.testing import CliRunner, Result

import samclip
from samclip.engines.steps import ExportBundle
from samclip.errors import CapabilityError
from samclip.export.checkpoints.radio import trunk_weights
from samclip.export.cli import app
from samclip.export.families.radio_assembly import RadioFiles, RadioSettings, assemble_radio
from samclip.export.models.radio.heads import make_head
from samclip.export.models.radio.sizes import RADIO_SIZES
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.pixels.image import load_image, photo_paths, preprocess
from tests.support.made_siglip import save_siglip

pytestmark = pytest.mark.usefixtures("graphs_traced_once")

# Long names, and few: a random tower embeds short ones, which are mostly padding, nearly alike.
NAMES = (
    "a cup of coffee on a wooden table in the sun",
    "grey squirrels between yellow autumn leaves of oak trees and beeches",
    "An_Astronaut!",
)
CANONICAL = (*NAMES[:2], "an astronaut")  # by SigLIP 2's rules
OTHERS = ("a dog", "the streets of a town in the rain")
SIGLIP = "siglip2"
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
def state() -> dict[str, Tensor]:
    return {key: value.half() for key, value in radio_state().items()}


@pytest.fixture(scope="module")
def files(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The checkpoint in halves, SAM, and names."""
    folder = tmp_path_factory.mktemp("radio")
    (folder / "names.txt").write_text("\n".join(NAMES), "utf-8")
    return {
        "radio": save_radio(folder / "c-radio.pth.tar", state, arguments(), averaged=state),
        "sam": save_sam(folder / "sam_vit_h.pth"),
        "siglip": folder / "siglip",
        "names": folder / "names.txt",
    }


@pytest.fixture(scope="module")
def siglip(files: dict[str, Path]) -> Any:
    """transformers' SigLIP 2, saved; its table of tokens is large enough to be stored as INT8."""
    sizes = {"hidden_size": 128, "intermediate_size": 160, "projection_size": TEXT_WIDTHS[SIGLIP]}
    return save_siglip(files["siglip"], sizes=sizes)


@pytest.fixture(scope="module")
def texts(siglip: Any, files: dict[str, Path]) -> NDArray[np.float32]:
    return embedded_by(siglip, files, CANONICAL)


def embedded_by(siglip: Any, files: dict[str, Path], names: Sequence[str]) -> NDArray[np.float32]:
    """Canonical names as transformers tokenizes and embeds them, of unit length."""
    tokenizer = AutoTokenizer.from_pretrained(files["siglip"])
    tokens = tokenizer(list(names), padding="max_length", max_length=64, return_tensors="pt")
    with torch.inference_mode():
        found = siglip.get_text_features(input_ids=tokens["input_ids"]).pooler_output
    return np.asarray(torch.nn.functional.normalize(found, dim=1).numpy())


def square(files: dict[str, Path]) -> tuple[object, ...]:
    """The options of a C-RADIO with SAM's part, for the square alone."""
    weights = ("--checkpoint", files["radio"], "--sam-checkpoint", files["sam"])
    return (*weights, "--imgsz", SIZE, "--aspects", "1:1")


@pytest.fixture(scope="module")
def written(
    files: dict[str, Path],
    siglip: Any,
    photos: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """The output of the command with --json, for a bundle with the tower, its table in INT8."""
    folder = tmp_path_factory.mktemp("exports")
    result = run(
        *square(files),
        *("--model-type", "radio-v3-b", "--text-checkpoint", files["siglip"]),
        *("--output", folder / "bundle", "--photos", photos, "--json"),
        *("--labels", files["names"], "--templates", "none", "--attention", "bias"),
        *("--weights-dtype", "text_encoder=int8"),
    )
    assert result.exit_code == 0, result.stderr
    said: dict[str, Any] = json.loads(result.stdout)
    return said


def test_one_command_writes_a_bundle_with_a_text_tower(written: dict[str, Any]) -> None:
    bundle = Bundle.open(Path(written["path"]))
    bundle.verify()
    manifest = bundle.manifest
    assert manifest.model_type == "radio-v3-b"
    assert manifest.clip_head is not None
    assert manifest.clip_head.trained
    assert (manifest.clip_head.embed_dim, manifest.clip_head.grid) == (TEXT_WIDTHS[SIGLIP], 12)
    assert manifest.preprocessing.mean == pytest.approx((122.77, 116.75, 104.09), abs=0.05)
    assert manifest.text is not None
    assert (manifest.text.embed_dim, manifest.text.context_length) == (TEXT_WIDTHS[SIGLIP], 64)
    assert manifest.text.canonical
    tower = manifest.graphs.text_encoder
    assert tower is not None
    assert tower.variants[0].weights_dtype == "int8"
    notes = manifest.provenance.notes
    assert "space of the teacher siglip2" in notes
    assert "align_corners=False" in notes
    assert {row.output for row in manifest.parity} == {
        *("backbone_features", "image_embeddings", "image_embed", "patch_embeds"),
        *("image_tokens", "image_keys", "image_queries", "image_values"),
        *("iou_predictions", "low_res_masks", "text_embeddings"),
    }
    assert all(row.max_rel_error <= 1e-5 for row in manifest.parity)


@torch.no_grad()
def test_the_runtime_answers_all_tasks_with_transformers_numbers(
    written: dict[str, Any],
    state: dict[str, Tensor],
    siglip: Any,
    texts: NDArray[np.float32],
    files: dict[str, Path],
) -> None:
    photo = load_image(photo_paths()[1])[:SIZE, :SIZE]  # no padding, which transformers cannot mask
    with samclip.load(written["path"], "onnxruntime", precision="fp32") as loaded:
        array, _ = preprocess(photo, loaded.manifest.preprocessing)
        floats = {key: value.float() for key, value in state.items()}
        trunk = {k.removeprefix("base_model."): v for k, v in floats.items() if "base_model" in k}
        trunk.pop("reg_token")
        tokens = reference_radio(SMALL, trunk, 8)(torch.from_numpy(array)).last_hidden_state
        prefix = f"_heads.{SIGLIP}."
        own = {k.removeprefix(prefix): v for k, v in floats.items() if k.startswith(prefix)}
        head = make_head(own, prefix, 1)
        head.load_state_dict(own)
        image = torch.nn.functional.normalize(head(tokens[0, 1]), dim=0).numpy()
        scene = loaded.encode(photo)
        vocabulary = loaded.vocabulary(NAMES)  # baked at export, by the rounded tower
        assert float((vocabulary.embeddings * texts).sum(1).min()) > 0.999  # INT8
        answer = scene.classify(vocabulary)
        scale = float(siglip.logit_scale.exp())
        expected = scale * (vocabulary.embeddings @ image)
        np.testing.assert_allclose(answer.logits, expected, atol=1e-5 * scale)
        computed = loaded.vocabulary(OTHERS).embeddings
        assert float((computed * embedded_by(siglip, files, OTHERS)).sum(1).min()) > 0.999  # INT8
        masks = scene.segment(boxes=[(10, 20, 100, 140)], names=NAMES)
        assert masks.masks.shape[1:] == photo.shape[:2]
        found_map = scene.semantic(vocabulary)
        assert found_map.labels.shape == photo.shape[:2]
        assert loaded.encoder_passes == 1

        wide = load_image(photo_paths()[1])
        settings = RadioSettings(image_size=SIZE)
        files_ = RadioFiles(files["radio"], files["sam"], files["siglip"])
        encoder = assemble_radio(files_, settings).model.encoder
        array, _ = preprocess(wide, loaded.manifest.preprocessing)
        _, embeddings = encoder(torch.from_numpy(array))
        found = loaded.encode(wide).features.image_embeddings()
        limit = 1e-5 * float(embeddings.abs().max())
        np.testing.assert_allclose(found, embeddings.numpy(), atol=limit, rtol=0)


def test_a_board_in_all_precisions_names_without_the_tower(
    siglip: Any, texts: NDArray[np.float32], files: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "calib").mkdir()
    for photo in (photo_paths()[0], photo_paths()[3]):
        (tmp_path / "calib" / photo.name).write_bytes(photo.read_bytes())
    result = run(
        *square(files),
        *("--text-checkpoint", files["siglip"], "--output", tmp_path / "board", "--no-verify"),
        *("--vocabulary", files["names"], "--templates", "none", "--attention", "bias"),
        *("--no-text-encoder", "--fp16", "--int8", "--calib", tmp_path / "calib"),
    )
    assert result.exit_code == 0, result.output
    manifest = Bundle.open(tmp_path / "board").manifest
    assert {row.precision for row in manifest.reductions} == {"fp16", "int8", "int8_fp16"}
    assert all(gate.passed for row in manifest.reductions for gate in row.gates)
    with samclip.load(tmp_path / "board", "onnxruntime", precision="fp32") as board:
        assert board.manifest.graphs.text_encoder is None
        assert not {"tokenizer.json", "text_encoder.onnx"} & set(board.manifest.files)
        scene = board.encode(photo_paths()[0])
        assert scene.classify(NAMES).names == NAMES
        found = board.vocabulary(["An astronaut", NAMES[0].upper()]).embeddings
        np.testing.assert_allclose(found, texts[[2, 0]], atol=1e-5)
        with pytest.raises(CapabilityError, match=r"none of the 3 names.*'a dog'") as caught:
            scene.classify(["an astronaut", "a dog"])
        assert ExportBundle((("vocabulary", None),)) in caught.value.steps


def test_without_a_text_tower_masks_remain(
    files: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    result = run(
        *square(files),
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
