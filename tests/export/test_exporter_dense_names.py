"""Names by self-correlation through the whole export, and from its bundles in the runtime."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from made_radio import SMALL_SIZES, arguments, radio_state, save_radio, save_sam
from typer.testing import CliRunner, Result

import samclip
from samclip.export.checkpoints.metadata import MergedMetadata
from samclip.export.checkpoints.radio import trunk_weights
from samclip.export.cli import app
from samclip.export.families.merged_assembly import Assembly, Checkpoints, assemble, save_merged
from samclip.export.families.radio_assembly import RadioFiles, RadioSettings, assemble_radio
from samclip.export.models import clip_head, merged, sam_vit
from samclip.export.models.merged import MergedConfig, MergedModel
from samclip.export.models.self_correlation import TokenAggregation
from samclip.export.rebuilding.bundle_checkpoint import read_bundle_checkpoint
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.pixels.image import load_image, photo_paths, preprocess, preprocess_for

SIZE = 192
GRID = SIZE // 16
CANVAS = (144, 192)  # (h, w), 4:3
pytestmark = pytest.mark.filterwarnings("ignore::samclip.errors.UntrainedHeadWarning")


def run(*options: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in options])


# A pair of tokens whose score is within rounding of 0 may be left out here and kept there. What the
# steps do to the embeddings is a hundred times larger.
LEFT_OUT = 2e-3


def close(found: Any, wanted: torch.Tensor, tolerance: float = 2e-5) -> None:
    scale = float(wanted.abs().max())
    np.testing.assert_allclose(found, wanted.numpy(), atol=tolerance * scale, rtol=0)


@pytest.fixture(scope="module", autouse=True)
def small_sizes() -> Iterator[None]:
    vit = MappingProxyType({"vit_b": sam_vit.SamVitConfig(768, 2, 12, (1,))})
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(7)
        patch.setattr(trunk_weights, "RADIO_SIZES", SMALL_SIZES)
        for module in (sam_vit, clip_head, merged):
            patch.setattr(module, "SAM_VIT_CONFIGS", vit)
        yield


@pytest.mark.slow
@torch.no_grad()
def test_c_radio_names_by_both_steps_and_classifies_by_neither(
    photos: Path, tmp_path: Path
) -> None:
    radio = save_radio(tmp_path / "c-radio.pth.tar", radio_state(), arguments())
    sam = save_sam(tmp_path / "sam_vit_h.pth")
    result = run(
        *("--checkpoint", radio, "--sam-checkpoint", sam, "--photos", photos),
        *("--imgsz", f"{CANVAS[0]}x{CANVAS[1]}", "--aspects", "4:3"),
        *("--output", tmp_path / "b", "--recursive-attention", "--token-aggregation", "--fp16"),
        *("--attention", "chunk", "--attention", "bias", "--json"),
    )
    assert result.exit_code == 0, result.stderr
    manifest = Bundle.open(tmp_path / "b").manifest
    assert {row.output for row in manifest.parity} >= {"backbone_features", "aggregated_features"}
    assert all(gate.passed for row in manifest.reductions for gate in row.gates)
    aggregation = manifest.graphs.token_aggregation
    assert aggregation is not None
    assert {variant.precision for variant in aggregation.variants} == {"fp32"}
    graphs = json.loads(result.stdout)["manifest"]["graphs"]
    assert "mask_upscaler" not in graphs  # what is absent, older versions need not know

    square = assemble_radio(RadioFiles(radio, sam), RadioSettings(image_size=SIZE)).model
    model = square.at_canvas(CANVAS)
    photo = load_image(photo_paths()[1])
    with samclip.load(tmp_path / "b", "onnxruntime", precision="fp32") as loaded:
        array, letterbox = preprocess_for(photo, manifest.preprocessing, CANVAS)
        image, mask = torch.from_numpy(array), torch.from_numpy(letterbox.token_mask(GRID))
        plain, embeddings = model.encoder(image)
        model.encoder.trunk.add_recursion()
        recursive, _ = model.encoder(image)
        patches = model.clip_head(TokenAggregation(1)(recursive, mask), mask)[1][0]
        scene = loaded.encode(photo)
        assert scene.features.tensor_names == ("backbone_features", "image_embeddings")
        close(scene.features.image_embeddings(), embeddings)
        close(scene.features.image_embed(), model.clip_head(plain, mask)[0][0])
        close(scene.features.clip().patch_embeds, patches, LEFT_OUT)
        close(scene.features.image_embed(), model.clip_head(plain, mask)[0][0])  # still the plain
        assert len(scene.segment(boxes=[(10, 20, 200, 240)])) == 1
        assert loaded.encoder_passes == 1


@pytest.mark.slow
@torch.no_grad()
def test_a_sam_vit_has_features_for_names_of_its_own(photos: Path, tmp_path: Path) -> None:
    model = MergedModel(MergedConfig("vit_b", image_size=SIZE, embed_dim=32, head_pool=2)).eval()
    for name, parameter in model.named_parameters():
        if "pos" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    metadata = MergedMetadata(
        model_type="vit_b", image_size=SIZE, embed_dim=32, head_trained=True, head_pool=2
    )
    file = save_merged(Assembly(model, metadata), tmp_path / "vit.safetensors")
    result = run(
        *("--checkpoint", file, "--output", tmp_path / "b", "--photos", photos),
        *("--recursive-attention", "--token-aggregation", "--attention", "chunk", "--uint8-input"),
    )
    assert result.exit_code == 0, result.stderr
    whole = assemble(Checkpoints(file)).model
    encoder, head = whole.image_encoder, whole.clip_head
    assert isinstance(encoder, sam_vit.SamVit)
    photo = load_image(photo_paths()[1])
    with samclip.load(tmp_path / "b", "onnxruntime") as loaded:
        array, letterbox = preprocess(photo, loaded.manifest.preprocessing)
        encoder.add_recursion()
        plain, embeddings, recursive = encoder(torch.from_numpy(array))
        mask = torch.from_numpy(letterbox.token_mask(GRID // 2))
        tokens = TokenAggregation(0)(recursive, torch.from_numpy(letterbox.token_mask(GRID)))
        features = loaded.encode(photo).features
        close(features.image_embeddings(), embeddings)
        close(features.clip().patch_embeds, head(tokens, mask)[1][0], LEFT_OUT)
        close(features.image_embed(), head(plain, mask)[0][0])
        first = loaded.encode(photo).features
        close(first.image_embed(), head(plain, mask)[0][0])  # in the other order, too
    rebuilt: Mapping[str, torch.Tensor] = read_bundle_checkpoint(tmp_path / "b").checkpoint.state
    for key in ("image_encoder.blocks.1.attn.qkv.weight", "image_encoder.blocks.1.mlp.lin2.bias"):
        torch.testing.assert_close(rebuilt[key], whole.state_dict()[key], rtol=0, atol=0)


@pytest.mark.parametrize("option", ["--recursive-attention", "--token-aggregation"])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--checkpoint", "TINY_VIT"), "the encoder is a vit_t"),
        (("--checkpoint", "SAM", "--clip-checkpoint", "SAM", "--two-towers"), "of two towers"),
        (("--checkpoint", "SAM", "--model-type", "ovsam-rn50"), "names regions, not tokens"),
    ],
)
def test_models_without_such_tokens_refuse(
    option: str,
    given: tuple[str, ...],
    words: str,
    mobile_sam_checkpoint: Path,
    tmp_path: Path,
) -> None:
    files = {"SAM": save_sam(tmp_path / "sam_vit_h.pth"), "TINY_VIT": mobile_sam_checkpoint}
    options = [files.get(each, each) for each in given]
    result = run(*options, option, "--no-verify", "--output", tmp_path / "b")
    assert result.exit_code == 1
    assert words in " ".join(result.output.split())
    assert "Leave them out" in " ".join(result.output.split())
    assert not (tmp_path / "b").exists()
