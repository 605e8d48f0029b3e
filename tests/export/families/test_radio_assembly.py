"""A fabricated C-RADIO becomes a model that equals its references, or a message that says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from made_radio import (
    SAM_WIDTH,
    SMALL,
    SMALL_SIZES,
    TEACHERS,
    TEXT_WIDTHS,
    arguments,
    head_v1,
    head_v2,
    radio_state,
    randomised,
    save_radio,
    save_sam,
)
from reference_radio import reference_radio
from reference_segment_anything import (
    load_segment_anything,
    reference_mask_decoder,
    reference_prompt_encoder,
    relative_error,
)
from safetensors.torch import save_file
from torch import Tensor

from samclip.errors import CheckpointError
from samclip.export.checkpoints.radio import trunk_weights
from samclip.export.families.radio_assembly import (
    RadioAssembly,
    RadioFiles,
    RadioSettings,
    assemble_radio,
)
from samclip.export.models.mask_decoder import PromptedMaskDecoder
from samclip.export.models.radio.heads import HeadV2, make_head
from samclip.export.models.text_tower import TextTower, TextTowerConfig

State = dict[str, Tensor]
DEFAULT = RadioSettings(image_size=192)
GAMMA = "base_model.blocks.2.ls1.gamma"


class Odd:
    """An object that no checkpoint may hold."""


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunk_weights, "RADIO_SIZES", SMALL_SIZES)


@pytest.fixture(scope="module")
def state() -> State:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return radio_state()


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(6)
        return save_sam(tmp_path_factory.mktemp("sam") / "sam_vit_h.pth")


Build = Callable[..., RadioAssembly]


@pytest.fixture
def build(state: State, sam: Path, tmp_path: Path) -> Build:
    """Assemble the state with changes (None removes a weight), and with `args` and settings."""

    def make(
        changes: dict[str, Tensor | None] | None = None,
        args: dict[str, Any] | None = None,
        settings: RadioSettings | None = None,
        text: Path | None = None,
        **saved: Any,
    ) -> RadioAssembly:
        whole = {key: v for key, v in (state | (changes or {})).items() if v is not None}
        path = save_radio(tmp_path / "c-radio.pth.tar", whole, arguments(**(args or {})), **saved)
        return assemble_radio(RadioFiles(path, sam, text), settings or DEFAULT)

    return make


def head_of(state: State, prefix: str) -> torch.nn.Module:
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    head = make_head(own, prefix, 1)
    head.load_state_dict(own)
    return head.eval()


def same(module: torch.nn.Module, state: State, prefix: str) -> None:
    for key, value in module.state_dict().items():
        assert torch.equal(value, state[prefix + key]), prefix + key


@torch.no_grad()
@pytest.mark.parametrize("photo", [(192, 192), (144, 192), (192, 80)])
def test_one_pass_equals_the_chain_of_references(
    photo: tuple[int, int], build: Build, state: State, sam: Path, mobile_sam_reference: Path
) -> None:
    mean, tx = torch.randn(SMALL.width), torch.randn(SMALL.width, SMALL.width) * 0.1
    normaliser = {"_feature_normalizer.mean": mean, "_feature_normalizer.tx": tx}
    model = build(normaliser).model
    image = torch.randn(1, 3, *photo)
    padded = F.pad(image, (0, 192 - photo[1], 0, 192 - photo[0]))
    features, embeddings = model.encoder(padded)

    below = {k.removeprefix("base_model."): v for k, v in state.items() if "base_model" in k}
    below.pop("reg_token")
    tokens = reference_radio(SMALL, below, 8)(image).last_hidden_state
    patches = (tokens[:, 8:] - mean) @ tx.T
    rows, columns = photo[0] // 16, photo[1] // 16
    maps = head_of(state, "_feature_projections.sam.")(patches).mT.reshape(1, -1, rows, columns)
    maps = F.pad(maps, (0, 12 - columns, 0, 12 - rows))
    weights = torch.load(sam)
    original = load_segment_anything(mobile_sam_reference)
    encoder = original.image_encoder.ImageEncoderViT(192, 16, 3, SAM_WIDTH, 0, 16, out_chans=256)
    neck = {k.removeprefix("image_encoder.neck."): v for k, v in weights.items() if "neck" in k}
    encoder.neck.load_state_dict(neck)
    expected = encoder.neck(maps)
    assert relative_error(embeddings, expected) < 1e-5

    def part(name: str) -> State:
        return {k.removeprefix(name): v for k, v in weights.items() if k.startswith(name)}

    prompts = reference_prompt_encoder(mobile_sam_reference, 192, part("prompt_encoder."))
    decoder = reference_mask_decoder(mobile_sam_reference, part("mask_decoder."))
    corners = torch.rand(1, 2, 2) * 150
    sparse, dense = prompts(None, corners.flatten(1), None)
    masks, iou = decoder.predict_masks(
        image_embeddings=expected,
        image_pe=prompts.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
    )
    ours = PromptedMaskDecoder(model.prompt_encoder, model.mask_decoder)
    prompt = (corners, torch.tensor([[2.0, 3.0]]), torch.zeros(1, 1, 48, 48), torch.zeros(1))
    found_iou, found = ours(embeddings, *prompt)
    # Two convolutions and a transformer after the encoder add to its error.
    assert relative_error(found, masks) < 1e-4
    assert relative_error(found_iou, iou) < 1e-4

    mask = torch.zeros(1, 12, 12)
    mask[:, :rows, :columns] = 1
    image_embed, patch_embeds = model.clip_head(features, mask)
    names = head_of(state, "_heads.siglip2.")  # the summary head, for patches too; slot 1
    assert relative_error(image_embed, names(tokens[:, 1])) < 1e-5
    inside = patch_embeds[:, :, :rows, :columns].flatten(2).mT
    assert relative_error(inside, names(patches)) < 1e-5
    outside = patch_embeds[:, :, mask[0] == 0].mT  # finite, and the whole image's
    torch.testing.assert_close(outside, image_embed[:, None].expand_as(outside), atol=1e-4, rtol=0)


def test_statistics_sources_and_notes(build: Build) -> None:
    assembly = build()
    assert assembly.model_type == "radio-v3-b"
    wanted = (122.7709383, 116.7460125, 104.09373615)
    assert assembly.mean == pytest.approx(wanted, rel=1e-6)
    assert assembly.std == pytest.approx((68.5005327, 66.6321579, 70.32316305), rel=1e-6)
    assert [(each.role, each.file) for each in assembly.sources] == [
        ("merged", "c-radio.pth.tar"),
        ("sam", "sam_vit_h.pth"),
    ]
    assert "teacher siglip2" in assembly.notes
    assert "align_corners=False" in assembly.notes
    other = build(settings=RadioSettings(image_size=192, align_corners=True))
    assert "align_corners=True" in other.notes
    ours, theirs = (each.model.encoder.trunk.positions for each in (assembly, other))
    assert not torch.equal(ours, theirs)
    windows = build(settings=RadioSettings(image_size=192, window_size=4))
    assert windows.model.encoder.trunk.config.window_size == 4
    assert "windows of 4 x 4" in windows.notes


def test_averaged_weights_in_halves_are_preferred(build: Build, state: State) -> None:
    averaged = {f"module.{key}": (2 * value).half() for key, value in state.items()}
    averaged |= {f"module.{k}": v for k, v in state.items() if k.startswith("input_")}
    model = build(averaged=averaged, optimizer={"state": {"exp_avg": torch.ones(3)}}).model
    found = model.encoder.trunk.blocks[1].attn.qkv.weight
    assert found.dtype == torch.float32
    assert torch.equal(found, (2 * state["base_model.blocks.1.attn.qkv.weight"]).half().float())


def test_the_other_spelling_of_layer_scale(build: Build, state: State) -> None:
    renamed: dict[str, Tensor | None] = {}
    for key in state:
        if key.endswith(".gamma"):
            renamed |= {key: None, key.replace("gamma", "grandma"): state[key]}
    model = build(renamed).model
    assert torch.equal(model.encoder.trunk.blocks[2].ls1.gamma, state[GAMMA])
    with pytest.raises(CheckpointError, match="twice"):
        build({GAMMA.replace("gamma", "grandma"): state[GAMMA]})


def test_heads_by_number_with_ten_teachers_more(build: Build, state: State) -> None:
    """`_heads.1` is not `_heads.10`; and `siglip2` is not `siglip2-g`."""
    others = [{"name": f"dino_{n}", "type": "dino_v2"} for n in range(7)]
    numbered: dict[str, Tensor | None] = {}
    for key, value in state.items():
        if key.startswith("_heads.siglip2."):
            numbered |= {key: None, key.replace(".siglip2.", ".1.", 1): value}
    for prefix in ("_heads.10", "_heads.siglip2-g", "_feature_projections.sam3"):
        extra = randomised(head_v2(SMALL.width, 48, 40, 2))
        numbered |= {f"{prefix}.{key}": value for key, value in extra.items()}
    table = {"base_model.patch_generator.cls_token.token": torch.randn(16, SMALL.width)}
    teachers = [*TEACHERS, *others[:6], {"name": "siglip2-g", "type": "siglip2"}]
    teachers += [{"name": "sam3", "type": "sam3", "use_summary": False}]
    model = build(numbered | table, {"teachers": teachers}).model
    same(model.clip_head.head, state, "_heads.siglip2.")
    same(model.encoder.sam_head, state, "_feature_projections.sam.")


def test_a_head_by_name_and_by_number_is_two_heads(build: Build, state: State) -> None:
    again = {k.replace(".siglip2.", ".1.", 1): v for k, v in state.items() if "_heads.sigl" in k}
    with pytest.raises(CheckpointError, match=r"head of siglip2 twice, as .*_heads\.1\."):
        build(dict(again))


@pytest.mark.parametrize("slot", [0, 2])
def test_slots_are_read(slot: int, build: Build) -> None:
    order = [TEACHERS[1] | {"token_slot": slot}, *(TEACHERS[0], *TEACHERS[2:])]
    assert build(args={"teachers": order}).model.encoder.slot == slot


def test_forms_of_heads_are_read(build: Build, state: State) -> None:
    changes: dict[str, Tensor | None] = {k: None for k in state if k.startswith("_heads.siglip2.")}
    v1 = randomised(head_v1(SMALL.width, 36, 20))
    changes |= {f"_heads.siglip2.{key}": value for key, value in v1.items()}
    teachers = [TEACHERS[0], TEACHERS[1] | {"mlp_version": "v1"}, *TEACHERS[2:]]
    assert build(changes, {"teachers": teachers}).model.clip_head.head.out == 20
    with pytest.raises(CheckpointError, match=r"_heads.siglip2.* has the form v1, and args say v2"):
        build(changes)


def test_the_teacher_for_names_can_be_chosen(build: Build) -> None:
    settings = RadioSettings(image_size=192, teacher="clip")
    model = build(settings=settings).model
    assert (model.clip_head.head.out, model.encoder.slot) == (TEXT_WIDTHS["clip"], 0)
    with pytest.raises(CheckpointError, match="no teacher 'dino_v2' with a text tower"):
        build(settings=RadioSettings(image_size=192, teacher="dino_v2"))


def save_clip_text(folder: Path, width: int) -> Path:
    """Save a CLIP text tower in open_clip's layout, its activation stated nowhere."""
    tower = TextTower(TextTowerConfig(width=64, heads=1, layers=1, embed_dim=width))
    weights = {key: value for key, value in tower.state_dict().items() if key != "attn_mask"}
    save_file(weights | {"logit_scale": torch.tensor(4.0)}, folder / "text.safetensors")
    return folder / "text.safetensors"


def test_a_clip_tower_chooses_its_teacher_and_its_activation(build: Build, tmp_path: Path) -> None:
    """`args` name the teacher's model, which says QuickGELU; SigLIP 2 is first without a tower."""
    found = build(text=save_clip_text(tmp_path, TEXT_WIDTHS["clip"]))
    assert "teacher clip" in found.notes
    assert found.text is not None
    assert isinstance(found.text.config, TextTowerConfig)
    assert found.text.config.quick_gelu
    assert [each.role for each in found.sources] == ["merged", "sam", "text"]
    others = [TEACHERS[0] | {"model": "ViT-H-14"}, *TEACHERS[1:]]
    plain = build(text=tmp_path / "text.safetensors", args={"teachers": others})
    assert plain.text is not None
    assert isinstance(plain.text.config, TextTowerConfig)
    assert not plain.text.config.quick_gelu


def test_a_tower_of_another_space_is_refused(build: Build, tmp_path: Path) -> None:
    """As wide as SigLIP's, a CLIP tower is not of its space; and widths alone decide nothing."""
    tower = save_clip_text(tmp_path, TEXT_WIDTHS["siglip2"])
    with pytest.raises(CheckpointError, match=r"siglip2, 40-d by the text tower of siglip2-g-384"):
        build(text=tower)
    with pytest.raises(CheckpointError, match=r"no teacher of c-radio.*clip, 24-d by the text"):
        build(text=tower, settings=RadioSettings(image_size=192, teacher="clip"))
    siglip = [TEACHERS[0] | {"model": "ViT-SO400M-14-SigLIP"}, *TEACHERS[1:]]
    right = save_clip_text(tmp_path, TEXT_WIDTHS["clip"])
    settings = RadioSettings(image_size=192, quick_gelu=False)
    with pytest.raises(CheckpointError, match=r"clip, 24-d by the text tower of ViT-SO400M"):
        build(text=right, args={"teachers": siglip}, settings=settings)


REMOVED = (
    GAMMA,
    "base_model.blocks.3.attn.qkv.bias",
    "base_model.blocks.3.mlp.fc2.weight",
    "base_model.patch_generator.pos_embed",
    "base_model.patch_generator.embedder.weight",
    "base_model.patch_generator.cls_token.token",
    "input_conditioner.norm_mean",
    "_heads.siglip2.blocks.1.2.bias",
    "_heads.siglip2.final.2.weight",
    "_feature_projections.sam.fc1.weight",
    "_feature_projections.sam.blocks.0.0.weight",
)


@pytest.mark.parametrize("name", REMOVED)
def test_a_missing_weight_is_named(name: str, build: Build) -> None:
    with pytest.raises(CheckpointError) as caught:
        build({name: None})
    assert name in str(caught.value)


def test_a_trunk_without_any_layer_scale_is_not_v3_b(build: Build, state: State) -> None:
    with pytest.raises(CheckpointError, match=r"missing: base_model.blocks.0.ls1.gamma"):
        build({key: None for key in state if key.endswith(".gamma")})


@pytest.mark.parametrize(
    "name",
    [
        "base_model.blocks.2.ls1.lambda1",
        "base_model.blocks.4.norm1.weight",
        "base_model.norm.weight",
        "base_model.cls_token",
        "_heads.siglip2.blocks.0.1.weight",
        "_heads.10.fc1.weight",
        "_heads.siglip.fc1.weight",
        "_feature_normalizer.scale",
        "novelty",
    ],
)
def test_a_weight_that_nothing_uses_is_named(name: str, build: Build) -> None:
    with pytest.raises(CheckpointError) as caught:
        build({name: torch.ones(SMALL.width)})
    assert name in str(caught.value) or "_feature_normalizer.mean" in str(caught.value)


def test_what_a_training_leaves_behind_is_not_in_the_way(build: Build) -> None:
    left = ("_loss_states.a", "adaloss_b.c", "lean_in_expected_losses", "weight_balance_mask")
    build({name: torch.ones(2) for name in left})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_model.patch_generator.pos_embed": torch.ones(1, 64, 64)}, "wrong shape: base_m"),
        ({"base_model.patch_generator.embedder.weight": torch.ones(64, 588)}, "wrong shape"),
        (
            {"base_model.blocks.0.attn.qkv.weight": torch.ones(64, 64)},
            r"qkv.weight \(64, 64\)",
        ),
        ({"base_model.patch_generator.cls_token.token": torch.ones(7, 64)}, "7 rows"),
        ({GAMMA: torch.full((64,), torch.nan)}, "not finite"),
        ({"input_conditioner.norm_mean": torch.zeros(3, 1, 1)}, "padding cannot be known"),
        ({"base_model.blocks.0.parametrizations.weight.original": torch.ones(2)}, "a training"),
    ],
)
def test_weights_that_do_not_fit(changes: State, words: str, build: Build) -> None:
    with pytest.raises(CheckpointError, match=words):
        build(changes)


@pytest.mark.parametrize(
    ("teachers", "words"),
    [
        (TEACHERS[:3], "no teacher `sam`"),
        ([TEACHERS[2], TEACHERS[3]], "no teacher with a text tower"),
        ([*TEACHERS[:3], TEACHERS[3] | {"fd_upsample_factor": 2}], "2 times finer"),
        ([*TEACHERS[:3], {"name": "sam_b", "type": "sam"}], r"missing: _feature_projections.sam_b"),
    ],
)
def test_teachers_that_do_not_fit(teachers: list[Any], words: str, build: Build) -> None:
    args = {"teachers": teachers, "cpe_num_registers": 8 - len(teachers)}
    with pytest.raises(CheckpointError, match=words):
        build(args=args)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (RadioSettings(image_size=200), "multiple of 16 from 64 to 2048"),
        (RadioSettings(image_size=2064), "multiple of 16 from 64 to 2048"),
        (RadioSettings(image_size=192, window_size=5), "windows of 5 tokens"),
        (RadioSettings(image_size=192, model_type="radio-v3-h"), "64 wide, as that of radio-v3-b"),
        (RadioSettings(image_size=192, model_type="radio-v3-x"), "unknown model type"),
    ],
)
def test_settings_that_do_not_fit(settings: RadioSettings, words: str, build: Build) -> None:
    with pytest.raises(CheckpointError, match=words):
        build(settings=settings)


def test_args_that_are_objects_are_refused_by_name(build: Build) -> None:
    with pytest.raises(CheckpointError, match=r"test_radio_assembly\.Odd, a Python object"):
        build(args={"hook": Odd()})
    with pytest.raises(CheckpointError, match=r"(posix|os)\.system, a Python object"):
        build(args={"hook": Poison()})


class Poison:
    """A pickle that would run a command."""

    def __reduce__(self) -> Any:
        import os

        return os.system, ("touch /nowhere/poisoned",)


def test_a_backbone_alone_says_where_the_heads_are(state: State, sam: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({f"radio_model.{k}": v for k, v in state.items() if "base_model" in k}, file)
    with pytest.raises(CheckpointError, match=r"only in NVIDIA's .pth.tar"):
        assemble_radio(RadioFiles(file, sam), RadioSettings())


ORDERS = {
    "five teachers, two of them with text": (
        ["dino_v3_7b", "siglip2-g", "sam", "clip", "paintings"],
        {"siglip2-g": {"type": "siglip2"}, "clip": {"type": "open_clip"}},
        "siglip2-g",
    ),
    "CLIP alone, and one token for all": (["sam", "dfn"], {"dfn": {"type": "clip"}}, "dfn"),
    "SAM first, names by their beginnings": (["sam", "siglip2-so400m", "dino_v2"], {}, None),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("numbered", [False, True])
def test_other_teachers_slots_and_depths(order: str, numbered: bool, build: Build) -> None:
    """Every order, number of teachers, spelling and depth is read, and none is assumed."""
    names, settings, named = ORDERS[order]
    named = named or "siglip2-so400m"
    per_teacher = "one token" not in order
    slots = [(len(names) - 1 - index) for index in range(len(names))]
    teachers = [
        {"name": name, **settings.get(name, {}), "token_slot": slot}
        for name, slot in zip(names, slots, strict=True)
    ]
    prefix = (len(names) if per_teacher else 1) + 2
    fresh = radio_state(prefix=prefix)
    whole: dict[str, Tensor | None] = {
        k: v for k, v in fresh.items() if not k.startswith(("_heads", "_feature_proj"))
    }
    depths = {}
    for index, name in enumerate(names):
        label = index if numbered else name
        depths[name] = 1 + index
        width = SAM_WIDTH if name == "sam" else 20 + index
        for kind in ("_heads", "_feature_projections"):
            head = randomised(head_v2(SMALL.width, 32 + 8 * index, width, depths[name]))
            whole |= {f"{kind}.{label}.{key}": value for key, value in head.items()}
    args = {"teachers": teachers, "cls_token_per_teacher": per_teacher, "cpe_num_registers": 2}
    dropped: dict[str, Tensor | None] = dict.fromkeys(radio_state())
    model = build(dropped | whole, args).model
    index = names.index(named)
    assert model.encoder.slot == (slots[index] if per_teacher else 0)
    assert isinstance(model.clip_head.head, HeadV2)
    assert len(model.clip_head.head.blocks) == depths[named]
    label = str(index) if numbered else named
    kept = {key: value for key, value in whole.items() if value is not None}
    same(model.clip_head.head, kept, f"_heads.{label}.")
    sam_label = str(names.index("sam")) if numbered else "sam"
    same(model.encoder.sam_head, kept, f"_feature_projections.{sam_label}.")


def test_a_sam_of_another_size_is_refused(state: State, tmp_path: Path) -> None:
    file = save_radio(tmp_path / "c-radio.pth.tar", state)
    sam = save_sam(tmp_path / "sam_vit_b.pth", channels=768)
    with pytest.raises(CheckpointError, match=r"sam_vit_b.pth is a SAM whose neck takes 768"):
        assemble_radio(RadioFiles(file, sam), RadioSettings(image_size=192))
