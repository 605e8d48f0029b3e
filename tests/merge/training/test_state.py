import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from samclip.errors import TrainingError
from samclip.merge.training.state import STATE_KEY, Place, State, StateFolder

DIGEST = "d" * 64


def state(step: int = 7) -> State:
    return State(
        Place(DIGEST, 1, step),
        {"head.weight": torch.arange(6.0).reshape(2, 3).T},  # not contiguous
        {"step.head.weight": torch.tensor(3.0), "exp_avg.head.weight": torch.ones(2, 3)},
        {"head.weight": torch.zeros(3, 2)},
    )


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    folder = StateFolder(tmp_path / "run" / "state")
    folder.write(state())
    return folder


def test_what_was_written_is_read(folder: StateFolder) -> None:
    read, expected = folder.read(DIGEST), state()
    assert read is not None
    assert read.place == expected.place
    for group in ("model", "optimiser", "average"):
        ours, theirs = getattr(read, group), getattr(expected, group)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_folder_without_a_state(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    assert folder.read(DIGEST) is None
    folder.remove()


def test_a_state_replaces_the_one_before(folder: StateFolder) -> None:
    folder.write(state(step=9))
    read = folder.read(None)
    assert read is not None
    assert read.place.step == 9
    assert [file.name for file in folder.file.parent.iterdir()] == ["state.safetensors"]


def test_a_write_that_fails_keeps_the_state_before(folder: StateFolder) -> None:
    bad = State(Place(DIGEST, 1, 8), {"sparse": torch.eye(2).to_sparse()})
    with pytest.raises((ValueError, RuntimeError)):
        folder.write(bad)
    read = folder.read(DIGEST)
    assert read is not None
    assert read.place.step == 7
    assert [file.name for file in folder.file.parent.iterdir()] == ["state.safetensors"]


def test_another_runs_state_is_refused_unless_asked_for(folder: StateFolder) -> None:
    with pytest.raises(TrainingError, match=r"another configuration.*--resume.*--restart"):
        folder.read("e" * 64)
    assert folder.read(None) is not None


def test_a_state_can_be_forgotten(folder: StateFolder) -> None:
    folder.remove()
    assert folder.read(DIGEST) is None


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])


def cut_in_the_header(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:50])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def other_bytes(file: Path) -> None:
    file.write_bytes(b"no safetensors at all, whatever the name says" * 9)


def no_place(file: Path) -> None:
    save_file({"model/a": torch.ones(1)}, file)


def place_of_another_version(file: Path) -> None:
    place = json.dumps({"digest": DIGEST, "stage": 0, "step": 0, "epoch": 3})
    save_file({"model/a": torch.ones(1)}, file, metadata={STATE_KEY: place})


def place_of_nonsense(file: Path) -> None:
    save_file({"model/a": torch.ones(1)}, file, metadata={STATE_KEY: '{"digest": 5'})


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        cut_in_the_header,
        empty,
        other_bytes,
        no_place,
        place_of_another_version,
        place_of_nonsense,
    ],
)
def test_a_damaged_state_is_reported_with_the_remedy(
    folder: StateFolder, damage: Callable[[Path], None]
) -> None:
    damage(folder.file)
    for digest in (DIGEST, None):
        with pytest.raises(TrainingError, match=r"damaged.*--restart"):
            folder.read(digest)
