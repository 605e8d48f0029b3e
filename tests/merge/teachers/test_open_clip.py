"""The teacher against open_clip's own image tower, with random weights."""

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from reference_open_clip import load_open_clip
from safetensors.torch import save_file
from torch import nn

from samclip.errors import CheckpointError, TrainingError
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.teachers import open_clip
from samclip.merge.teachers.base import ClassTeacher
from samclip.merge.teachers.open_clip import CLIP_MEAN, CLIP_STD, OpenClip

MODEL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77},
}


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip without the packages that it needs only for other parts."""
    pytest.importorskip("transformers")  # which looks for torchvision when it is imported
    monkeypatch.setattr(open_clip, "_library", lambda: load_open_clip("model"))


@pytest.fixture
def tower(library: None) -> nn.Module:
    torch.manual_seed(0)
    built: nn.Module = load_open_clip("model")._build_vision_tower(24, MODEL["vision_cfg"])
    return built.eval()


@pytest.fixture
def checkpoint(tower: nn.Module, tmp_path: Path) -> Path:
    """A model folder as hubs have it, with a text tower's weights in the file as well."""
    state = {f"visual.{key}": value.contiguous() for key, value in tower.state_dict().items()}
    save_file(state | {"positional_embedding": torch.zeros(1)}, tmp_path / "model.safetensors")
    table = {
        "model_cfg": MODEL,
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "size": 1},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(table))
    return tmp_path


@pytest.fixture
def batch() -> PixelBatch:
    generator = torch.Generator().manual_seed(0)
    return PixelBatch.of([torch.rand(3, 32, 32, generator=generator) * 255 for _ in range(2)], 48)


def test_embeddings_are_open_clips(checkpoint: Path, tower: nn.Module, batch: PixelBatch) -> None:
    teacher = OpenClip(None, checkpoint)
    with torch.no_grad():
        expected = tower((batch.pixels[:, :, :32, :32] / 255 - 0.5) / 0.25)
    embeds = teacher.embed(batch)
    assert teacher.embed_dim == 24
    assert not isinstance(teacher, ClassTeacher)
    assert torch.allclose(embeds, F.normalize(expected, dim=1), atol=1e-5)  # float32


def test_without_a_table_the_statistics_are_clips(
    checkpoint: Path, tower: nn.Module, batch: PixelBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkpoint / "open_clip_config.json").unlink()
    monkeypatch.setattr(
        open_clip, "_library_table", lambda _: open_clip.ModelTable(24, MODEL["vision_cfg"])
    )
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    with torch.no_grad():
        expected = tower((batch.pixels[:, :, :32, :32] / 255 - mean) / std)
    embeds = OpenClip("tiny", checkpoint).embed(batch)
    assert torch.allclose(embeds, F.normalize(expected, dim=1), atol=1e-5)  # float32


def test_pictures_are_squashed_to_the_towers_square(checkpoint: Path) -> None:
    teacher = OpenClip(None, checkpoint)
    wide = PixelBatch.of([torch.rand(3, 20, 60) * 255])
    assert torch.allclose(
        teacher.embed(wide),
        teacher.embed(PixelBatch(wide.resized(32, 32), torch.tensor([[32, 32]]))),
    )


def test_the_librarys_own_tables_are_known(checkpoint: Path) -> None:
    assert open_clip._library_table("ViT-L-14").embed_dim == 768
    with pytest.raises(CheckpointError, match="did you mean 'ViT-B-32'"):
        OpenClip("ViT-B32", checkpoint)
    with pytest.raises(CheckpointError, match=r"do not fit the image tower of ViT-B-32"):
        OpenClip("ViT-B-32", checkpoint)


def test_a_table_that_is_missing_or_wrong(checkpoint: Path) -> None:
    file = checkpoint / "open_clip_config.json"
    file.write_text(json.dumps({"model_cfg": {**MODEL, "vision_cfg": {"no_such": 1}}}))
    with pytest.raises(CheckpointError, match="cannot build the image tower"):
        OpenClip(None, checkpoint)
    for data in (b'{"model_cfg": {}}', b'{"\xff": 1}', b'{"model_cfg":' + b"[" * 100_000):
        file.write_bytes(data)
        with pytest.raises(CheckpointError, match="is not a table of open_clip"):
            OpenClip(None, checkpoint)
    file.unlink()
    with pytest.raises(CheckpointError, match="name the model, such as ViT-B-32"):
        OpenClip(None, checkpoint)


def test_fingerprints_distinguish_tables(checkpoint: Path) -> None:
    before = OpenClip(None, checkpoint).fingerprint
    file = checkpoint / "open_clip_config.json"
    file.write_text(json.dumps({"model_cfg": MODEL}))
    assert OpenClip(None, checkpoint).fingerprint != before


def test_a_missing_library_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(TrainingError, match="pip install open_clip_torch torchvision"):
        open_clip._library()


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_folders_of_transformers_need_no_library(
    kind: str, tmp_path: Path, batch: PixelBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sharded `CLIPModel` or `SiglipModel` embeds as transformers does."""
    transformers = pytest.importorskip("transformers")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    vision = {**sizes, "intermediate_size": 96, "image_size": 32, "patch_size": 8}
    text = {**sizes, "intermediate_size": 96, "vocab_size": 50, "projection_size": 64}
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    torch.manual_seed(0)
    if kind == "clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
        model = transformers.CLIPModel(config).eval()
    else:
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        model = transformers.SiglipModel(config).eval()
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    teacher = OpenClip(None, tmp_path)
    mean, std = (CLIP_MEAN, CLIP_STD) if kind == "clip" else ((0.5,) * 3, (0.5,) * 3)
    shift, scale = (torch.tensor(each).reshape(3, 1, 1) for each in (mean, std))
    pixels = (batch.resized(32, 32) / 255 - shift) / scale
    with torch.no_grad():
        expected = model.get_image_features(pixel_values=pixels).pooler_output
    assert teacher.embed_dim == expected.shape[1]
    assert torch.allclose(teacher.embed(batch), F.normalize(expected, dim=1), atol=1e-5)  # float32
    with pytest.raises(CheckpointError, match="leave the model's name out, 'ViT-B-32'"):
        OpenClip("ViT-B-32", tmp_path)
