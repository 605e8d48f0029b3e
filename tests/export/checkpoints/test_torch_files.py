"""Files of torch.save: the same tensors as torch reads, and nothing else."""

from __future__ import annotations

import argparse
import datetime
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import read_checkpoint

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32)
OTHERS = (torch.int16, torch.int8, torch.uint8, torch.bool)


def tensors() -> dict[str, Tensor]:
    """Tensors of every dtype, and with every form of place in a storage."""
    base = torch.arange(24.0).reshape(4, 6)
    made = {f"w.{dtype}".replace("torch.", ""): base.to(dtype) for dtype in (*DTYPES, *OTHERS)}
    made |= {"transposed": base.T, "slice": base[1:3, ::2], "scalar": torch.tensor(3.0)}
    made |= {"empty": torch.zeros(0, 5), "tied": base, "parameter": nn.Parameter(base + 1)}
    return made


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_every_tensor_is_the_one_that_torch_reads(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    content = OrderedDict(tensors())
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    expected = torch.load(path, weights_only=True)
    found = read_checkpoint(path).state
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype, key
        assert torch.equal(found[key], tensor), key
        assert found[key].stride() == tensor.stride(), key


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_plain_values_do_not_stand_in_the_way(zipped: bool, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.rand(2, 3, 4, 4)).sum().backward()
    optimiser.step()
    content: dict[str, Any] = {
        "model": model.state_dict(),
        "optimizer": optimiser.state_dict(),
        "best_iou": np.float64(0.9),
        "history": np.arange(5),
        "counts": {np.int64(1), 2},
        "args": argparse.Namespace(lr=0.1, output=Path("runs"), device=torch.device("cpu")),
        "seen": defaultdict(list, a=[1]),
        "dtype": torch.float16,
        "size": torch.Size([1, 2]),
        "date": datetime.datetime(2026, 1, 1),
        "epoch": 3,
    }
    path = tmp_path / "trained.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    state = read_checkpoint(path).state
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


class Odd:
    pass


def test_what_stands_in_the_way_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "trained.pth"
    torch.save({"model": {"w": torch.zeros(1)}, "hook": Odd()}, path)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert f"refers to {Odd.__module__}.Odd, a Python object" in message
    assert "torch.save(model.state_dict()" in message
    assert message.isprintable()
    assert "weights_only" not in message


def quantised() -> Tensor:
    return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


def nested() -> Tensor:
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


@pytest.mark.filterwarnings("ignore")  # torch's, of its prototypes
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("sparse", lambda: torch.eye(3).to_sparse()),
        ("sparse", lambda: torch.eye(3).to_sparse_csr()),
        ("quantised", quantised),
        ("nested", nested),
        ("meta", lambda: torch.zeros(3, device="meta")),
        ("complex64", lambda: torch.ones(3, dtype=torch.complex64)),
        ("float8_e4m3fn", lambda: torch.ones(3).to(torch.float8_e4m3fn)),
        ("uint16", lambda: torch.ones(3).to(torch.uint16)),
    ],
)
def test_tensors_that_are_no_weights_are_named(
    kind: str, make: Any, suffix: str, tmp_path: Path
) -> None:
    path, content = tmp_path / f"w.{suffix}", {"good": torch.ones(1), "odd.weight": make()}
    if suffix == "pth":
        torch.save(content, path)
    elif kind in {"complex64", "float8_e4m3fn", "uint16"}:
        save_file(content, path)
    else:  # which safetensors has not
        return
    with pytest.raises(CheckpointError, match=rf"odd\.weight.*{kind}"):
        read_checkpoint(path)
