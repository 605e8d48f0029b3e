"""Capsules made here in torch and numpy, on the host, where both check them; and theirs here."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from samclip.engines.dlpack import CPU, CUDA, ExchangeError, Placed, TakenCapsule, make_capsule

TYPES = ("float32", "float16", "float64", "int64", "int32", "int8", "uint8", "bool")


class Owner:
    """What a capsule keeps alive."""


class Producer:
    """An array of the host behind capsules of ours; `newest`: the version that it offers."""

    def __init__(self, array: NDArray[Any], newest: int) -> None:
        self.array = array
        self._newest = newest
        self.owners: list[weakref.ref[Owner]] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return CPU, 0

    def __dlpack__(
        self, *, stream: Any = None, max_version: Any = None, **_: Any
    ) -> object:  # torch and numpy pass more
        assert stream is None
        owner = Owner()
        self.owners.append(weakref.ref(owner))
        asked = max_version if self._newest >= 1 else None
        assert self._newest < 1 or max_version is not None
        place = self.array.ctypes.data
        placed = Placed((CPU, 0), place, self.array.shape, self.array.dtype)
        return make_capsule(placed, owner, asked)

    @property
    def is_held(self) -> bool:
        gc.collect()
        return any(owner() is not None for owner in self.owners)


@pytest.mark.parametrize("newest", [0, 1])
@pytest.mark.parametrize("dtype", TYPES)
def test_torch_takes_a_capsule_and_gives_it_back_with_its_last_view(
    dtype: str, newest: int
) -> None:
    producer = Producer(np.arange(24).reshape(2, 3, 4).astype(dtype), newest)
    tensor = torch.from_dlpack(producer)
    assert tensor.data_ptr() == producer.array.ctypes.data
    np.testing.assert_array_equal(tensor.numpy(), producer.array)
    last = tensor[1, 2]
    del tensor
    assert producer.is_held
    assert last.shape == (4,)
    del last
    assert not producer.is_held


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (1, 1, 2)])
@pytest.mark.parametrize("newest", [0, 1])
def test_numpy_takes_every_shape(shape: tuple[int, ...], newest: int) -> None:
    if newest and np.lib.NumpyVersion(np.__version__) < "2.1.0":
        pytest.skip("this numpy reads the older form alone")
    producer = Producer(np.ones(shape, np.float32), newest)
    array = np.from_dlpack(producer)
    assert array.shape == shape
    del array
    assert not producer.is_held


def test_a_capsule_that_nobody_takes_gives_its_memory_back() -> None:
    producer = Producer(np.ones(3), 0)
    for version in (None, (1, 0)):
        producer._newest = 0 if version is None else 1
        capsule = producer.__dlpack__(max_version=version)
        assert producer.is_held
        del capsule
        assert not producer.is_held


@pytest.mark.parametrize("version", [None, (1, 0)])
def test_capsules_of_torch_are_read_and_given_back(version: tuple[int, int] | None) -> None:
    given = torch.arange(24, dtype=torch.int32).reshape(4, 6)
    strided = given.T[1:3]  # 2x4
    taken = TakenCapsule(strided.__dlpack__(max_version=version))
    placed = taken.placed
    assert (placed.device, placed.address) == ((CPU, 0), strided.data_ptr())
    assert (placed.shape, placed.strides) == ((2, 4), (1, 6))
    assert placed.dtype == np.int32
    assert not placed.is_contiguous
    assert TakenCapsule(given.__dlpack__(max_version=version)).placed.is_contiguous
    del taken  # gives the memory back to torch
    assert strided.sum() == given.T[1:3].sum()


def test_what_cannot_be_taken_is_named() -> None:
    capsule = torch.zeros(2).__dlpack__()
    TakenCapsule(capsule)
    with pytest.raises(ExchangeError, match=r"used_dltensor.* expected an unused capsule"):
        TakenCapsule(capsule)
    with pytest.raises(ExchangeError, match="gave 5, expected") as caught:
        TakenCapsule(5)
    assert isinstance(caught.value, BufferError)  # what consumers of DLPack expect
    with pytest.raises(ExchangeError, match="code 4 with 16 bits"):
        TakenCapsule(torch.zeros(2, dtype=torch.bfloat16).__dlpack__())


def test_arrays_that_live_until_the_process_ends_do_no_harm() -> None:
    code = """
import sys, threading
sys.path.insert(0, sys.argv[1])
import numpy as np, torch
from test_dlpack import Producer
kept = torch.from_dlpack(Producer(np.ones(10), 1))
torch.kept_by_a_module = torch.from_dlpack(Producer(np.ones(10), 0))
threading.Thread(target=lambda given=torch.from_dlpack(Producer(np.ones(5), 1)): None).start()
"""
    folder = str(__file__).rpartition("/")[0]
    ended = subprocess.run(
        [sys.executable, "-c", code, folder],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("shape", "strides", "pitch"),
    [
        ((4, 6, 3), None, 36),
        ((4, 6, 3), (18, 3, 1), 36),
        ((4, 6, 3), (30, 3, 1), 60),  # the left of a wider frame
        ((1, 6, 3), (5, 3, 1), 36),  # the stride of one row says nothing
        ((4, 1, 3), (3, 99, 1), 6),
        ((4, 6, 3), (6, 24, 1), None),  # columns first
        ((4, 6, 3), (18, 4, 1), None),  # without the alpha of 4 channels
        ((4, 6, 3), (-18, 3, 1), None),  # upside down
        ((4, 6, 3), (0, 3, 1), None),  # one row, again and again
    ],
)
def test_rows_without_gaps_have_a_pitch(
    shape: tuple[int, ...], strides: tuple[int, ...] | None, pitch: int | None
) -> None:
    placed = Placed((CUDA, 0), 4096, shape, np.dtype(np.int16), strides)
    assert placed.row_pitch == pitch
    packed = pitch == 2 * shape[1] * shape[2]
    assert placed.is_contiguous == packed
