"""`SamModel`, `CLIPModel` and `SiglipModel` folders, whole or in shards, where files are read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from made_radio import SAM_WIDTH, SMALL_SIZES, TEXT_WIDTHS, arguments, radio_state, save_radio
from reference_transformers_sam import MASKS, PROMPTS, VISION, rename
from safetensors.torch import save_file
from torch import Tensor, nn

from samclip.export.checkpoints.hugging_face_sam import GAUSSIAN
from samclip.export.checkpoints.radio import trunk_weights
from samclip.export.exportable import Exportable
from samclip.export.families.read_model import read_model
from samclip.export.graphs import LoweredGraph, PlainGraph
from samclip.export.models import merged
from samclip.export.models.mask_decoder import SamMaskDecoder
from samclip.export.models.prompt_encoder import PromptEncoder
from samclip.export.models.sam_vit import SAM_VIT_CONFIGS, SamVit, sam_neck
from samclip.export.options import ExportOptions, TwoTowers
from samclip.merge.teachers.sam import Sam
from tests.support.made_siglip import save_siglip

State = dict[str, Tensor]
WEIGHTS = "model.safetensors"
SHALLOW = replace(SAM_VIT_CONFIGS["vit_b"], depth=2)
SETTINGS = {
    "vit_b": {"global_attn_indexes": [2, 5, 8, 11], "num_attention_heads": 12},
    "vit_h": {"global_attn_indexes": [7, 15, 23, 31], "num_attention_heads": 16},
}
PARTS = (
    ("image_encoder.", "vision_encoder.", VISION),
    ("prompt_encoder.", "prompt_encoder.", PROMPTS),
    ("mask_decoder.", "mask_decoder.", MASKS),
)


@pytest.fixture(scope="module", autouse=True)
def small_sizes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(2)
        patch.setattr(trunk_weights, "RADIO_SIZES", SMALL_SIZES)
        configs = MappingProxyType({**SAM_VIT_CONFIGS, "vit_b": SHALLOW})
        patch.setattr(merged, "SAM_VIT_CONFIGS", configs)
        yield


def sam_state(encoder: nn.Module, size: int) -> State:
    parts = {
        "image_encoder": encoder,
        "prompt_encoder": PromptEncoder(size),
        "mask_decoder": SamMaskDecoder(),
    }
    return {f"{part}.{k}": v for part, m in parts.items() for k, v in m.state_dict().items()}


def hugging_face(state: State) -> State:
    """The same weights under the names of `SamModel`."""
    found: State = {}
    for part, theirs, rules in PARTS:
        own = {k.removeprefix(part): v for k, v in state.items() if k.startswith(part)}
        found |= {theirs + key: value for key, value in rename(own, rules).items()}
    found["shared_image_embedding.positional_embedding"] = state[GAUSSIAN]
    return {key: value.clone() for key, value in found.items()}


def save_folders(place: Path, name: str, state: State, config: dict[str, object]) -> None:
    """Write `<name>` in one file, and `<name>-shards` in two and an index."""
    whole, shards = place / name, place / f"{name}-shards"
    whole.mkdir()
    shards.mkdir()
    save_file(state, whole / WEIGHTS)
    keys, index = sorted(state), {}
    for number, own in enumerate((keys[::2], keys[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({key: state[key] for key in own}, shards / file)
        index |= dict.fromkeys(own, file)
    (shards / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": index}), "utf-8")
    for folder in (whole, shards):
        (folder / "config.json").write_text(json.dumps(config), "utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAM ViT-B of two blocks, SAM ViT-H without any, CLIP and SigLIP 2, a C-RADIO."""
    from transformers import CLIPConfig, CLIPModel

    place = tmp_path_factory.mktemp("folders")
    for name, encoder in (
        ("vit_b", SamVit(SHALLOW, 64)),
        ("vit_h", nn.ModuleDict({"neck": sam_neck(SAM_WIDTH)})),
    ):
        state = sam_state(encoder, 64)
        if name == "vit_h":
            state["image_encoder.pos_embed"] = torch.zeros(1, 4, 4, SAM_WIDTH)
            state["image_encoder.blocks.0.norm1.weight"] = torch.full((8,), torch.nan)  # not read
        torch.save(state, place / f"{name}.pth")
        config = {"model_type": "sam", "vision_config": SETTINGS[name]}
        save_folders(place, name, hugging_face(state), config)
    sizes = {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2}
    sizes |= {"intermediate_size": 256, "projection_dim": 48}
    vision = sizes | {"image_size": 32, "patch_size": 16}
    config = CLIPConfig(text_config=sizes, vision_config=vision, projection_dim=48)
    clip = CLIPModel(config)
    clip.save_pretrained(place / "clip")
    clip.save_pretrained(place / "clip-shards", max_shard_size="4MB")
    widths = {"projection_size": TEXT_WIDTHS["siglip2"], "hidden_size": TEXT_WIDTHS["siglip2"]}
    save_siglip(place / "siglip", sizes=widths)
    save_siglip(place / "siglip-shards", sizes=widths, shards="40KB")
    assert [*place.glob("*-shards/model-0*")]
    save_radio(place / "radio.pth", radio_state(), arguments())
    return place


def weights_of(options: ExportOptions) -> dict[str, Tensor]:
    """All weights of all graphs that an export would write."""
    model: Exportable = read_model(options)
    found: dict[str, Tensor] = {}
    for graph in model.graphs:
        assert isinstance(graph, LoweredGraph | PlainGraph)
        spec = graph.spec("bias") if isinstance(graph, LoweredGraph) else graph.spec()
        found |= {f"{graph.name} {k}": v for k, v in spec.module.state_dict().items()}
    if model.text is not None and model.text.tower is not None:
        found |= {f"text {k}": v for k, v in model.text.tower.state_dict().items()}
    return found


CASES = {
    "a SAM": ("vit_b", {"image_size": 64}),
    "a SAM with CLIP's text": ("vit_b", {"image_size": 64, "text_checkpoint": "clip"}),
    "a SAM with a SigLIP's text": ("vit_b", {"image_size": 64, "text_checkpoint": "siglip"}),
    "a SAM and a CLIP": ("vit_b", {"image_size": 64, "clip_checkpoint": "clip", "two": True}),
    "a C-RADIO": (
        "radio.pth",
        {"image_size": 64, "sam_checkpoint": "vit_h", "text_checkpoint": "siglip"},
    ),
}


QUICK = ("a SAM and a CLIP", "a C-RADIO")  # which read all that the others do, but in one place


@pytest.mark.filterwarnings("ignore::samclip.errors.UntrainedHeadWarning")
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES],
)
def test_exports_read_them(case: str, place: Path) -> None:
    """Shards give what whole folders give; SAM's folders give what segment-anything's file does."""
    checkpoint, given = CASES[case]

    def read(form: str) -> dict[str, Tensor]:
        def named(name: str) -> Path:
            if name.endswith(".pth"):
                return place / name
            if form == "original":
                return place / (f"{name}.pth" if name.startswith("vit") else name)
            return place / (name + form)

        files = {k: named(v) for k, v in given.items() if isinstance(v, str)}
        options = ExportOptions(named(checkpoint), place / "out", image_size=64, **files)
        return weights_of(replace(options, two_towers=TwoTowers() if "two" in given else None))

    torch.manual_seed(0)  # of heads that are not trained
    expected = read("original")
    for form in ("", "-shards"):
        torch.manual_seed(0)
        found = read(form)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert len(expected) > 150


def test_teachers_of_masks_are_read_from_them(place: Path) -> None:
    states = [
        Sam(place / name, 64)._encoder.state_dict()
        for name in ("vit_b.pth", "vit_b", "vit_b-shards")
    ]
    for state in states[1:]:
        assert all(torch.equal(state[key], states[0][key]) for key in states[0])
