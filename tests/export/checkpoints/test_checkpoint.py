import pickle
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import (
    SHOWN_KEYS,
    fit_state,
    guess_model_type,
    read_checkpoint,
)
from samclip.export.checkpoints.fetch import PACKAGED_CHECKPOINTS


def test_reads_real_mobile_sam(mobile_sam_checkpoint: Path) -> None:
    checkpoint = read_checkpoint(mobile_sam_checkpoint)
    assert checkpoint.sha256 == PACKAGED_CHECKPOINTS["mobile_sam"].files[0].sha256
    assert guess_model_type(checkpoint.state) == "vit_t"
    assert checkpoint.part("prompt_encoder.")["no_mask_embed.weight"].shape == (1, 256)


def test_safetensors_and_torch_files_hold_the_same(tmp_path: Path) -> None:
    state = {"a": torch.arange(3.0), "b.c": torch.ones(2, 2)}
    save_file(state, tmp_path / "w.safetensors", metadata={"note": "x"})
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "w.pth")
    safe, plain = (read_checkpoint(tmp_path / name) for name in ("w.safetensors", "w.pth"))
    assert safe.metadata == {"note": "x"}
    for checkpoint in (safe, plain):
        assert checkpoint.state.keys() == state.keys()
        assert all(torch.equal(checkpoint.state[key], state[key]) for key in state)


@pytest.mark.parametrize(("width", "expected"), [(768, "vit_b"), (1024, "vit_l"), (1280, "vit_h")])
def test_guesses_vit_by_its_width(width: int, expected: str) -> None:
    state = {"image_encoder.pos_embed": torch.zeros(1, 2, 2, width)}
    assert guess_model_type(state) == expected


def test_guesses_nothing_from_other_weights() -> None:
    assert guess_model_type({"visual.proj": torch.zeros(1)}) is None


def test_a_model_folder_is_searched(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert read_checkpoint(tmp_path).path.name == "model.safetensors"


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('the checkpoint ran code')",))


def _write_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Hostile(), protocol=2))


def _write_torch_code(path: Path) -> None:
    torch.save({"w": torch.zeros(1), "hook": Hostile()}, path)


def _write_half(path: Path) -> None:
    torch.save({"w": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:900])


@pytest.mark.parametrize(
    "write",
    [
        _write_pickle,
        _write_torch_code,
        _write_half,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"<html>Not found</html>"),
        lambda path: torch.save([1, 2], path),
        lambda path: torch.save({"epoch": 1}, path),
    ],
    ids=["pickle", "code", "truncated", "empty", "html", "list", "no tensors"],
)
def test_refuses_what_is_no_checkpoint(tmp_path: Path, write: object) -> None:
    path = tmp_path / "w.pth"
    write(path)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=r"w\.pth"):
        read_checkpoint(path)


def test_refuses_damaged_safetensors_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(CheckpointError, match="not a valid safetensors"):
        read_checkpoint(tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "none.pth")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="holds none of"):
        read_checkpoint(tmp_path / "folder")


def test_fit_names_every_kind_of_misfit() -> None:
    module = nn.Linear(2, 3)
    with pytest.raises(CheckpointError) as caught:
        fit_state(module, {"weight": torch.zeros(3, 9), "extra": torch.zeros(1)}, "head")
    message = str(caught.value)
    assert "head" in message
    assert "missing: bias" in message
    assert "unexpected: extra" in message
    assert "weight (3, 9), expected (3, 2)" in message


def test_fit_shortens_long_lists_and_leaves_the_module_alone() -> None:
    module = nn.Linear(2, 3)
    before = module.weight.clone()
    extra = {f"key{i:02}": torch.zeros(1) for i in range(SHOWN_KEYS + 4)}
    with pytest.raises(CheckpointError, match="and 4 more"):
        fit_state(module, {**module.state_dict(), "weight": before + 1, **extra}, "head")
    assert torch.equal(module.weight, before)


def test_fit_tolerates_ignored_keys() -> None:
    module = nn.Linear(2, 3)
    state = {"weight": torch.ones(3, 2), "bias": torch.ones(3), "old": torch.zeros(1)}
    fit_state(module, state, "head", ignored=("old",))
    assert torch.equal(module.weight, torch.ones(3, 2))


@pytest.mark.filterwarnings("ignore")  # torch warns of pickle protocols in damaged files
@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_load_or_raise_one_type(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "w.pth"
    state = {"a": torch.arange(60.0), "b": torch.ones(3, 4)}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    whole, random = path.read_bytes(), Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[random.randrange(len(whole))] ^= 1 << random.randrange(8)
        path.write_bytes(
            damaged if random.random() < 0.5 else whole[: random.randrange(len(whole))]
        )
        try:
            read_checkpoint(path)
        except CheckpointError:
            refused += 1
    assert refused >= 60  # every truncation, at least
