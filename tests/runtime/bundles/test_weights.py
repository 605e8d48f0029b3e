"""Weights files: our reader and writer against the official safetensors package."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from samclip.errors import ExportError, IntegrityError
from samclip.runtime.bundles.weights import (
    DTYPES,
    MAX_HEADER_BYTES,
    parse_weights,
    serialise_weights,
    weight_offsets,
)

RNG = np.random.default_rng(0)
SAMPLE: dict[str, NDArray[np.generic]] = {
    "conv.weight": RNG.standard_normal((3, 5)).astype(np.float32),
    "norm.bias": RNG.standard_normal(7).astype(np.float16),
    "quantised": RNG.integers(-128, 128, (5, 3), dtype=np.int8),
    "zero_point": np.array(7, np.uint8),
    "index": np.arange(3, dtype=np.int64),
    "mask": np.array([True, False, True]),
    "empty": np.zeros((0, 4), np.float32),
    "名前": np.arange(2, dtype=np.int32),
}


def assert_equal(got: dict, expected: dict) -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].dtype == array.dtype, name
        assert got[name].shape == array.shape, name
        np.testing.assert_array_equal(got[name], array)


def make_file(header: dict | bytes, data: bytes = b"") -> bytes:
    """A safetensors file with any header, right or wrong."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


def tensor(begin: int, end: int, shape: list | None = None, dtype: str = "F32") -> dict:
    shape = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_round_trip_is_exact() -> None:
    assert_equal(parse_weights(serialise_weights(SAMPLE)), SAMPLE)


def test_official_package_reads_what_we_write() -> None:
    assert_equal(safetensors.numpy.load(serialise_weights(SAMPLE)), SAMPLE)


def test_we_read_what_the_official_package_writes() -> None:
    data = safetensors.numpy.save(SAMPLE, metadata={"format": "np"})
    assert_equal(parse_weights(data), SAMPLE)


def test_tensors_come_in_the_official_order() -> None:
    """Descending dtype size, then name: so no tensor needs padding before it."""
    ours, theirs = serialise_weights(SAMPLE), safetensors.numpy.save(SAMPLE)
    order = [
        sorted(offsets, key=lambda n: (offsets[n], SAMPLE[n].size > 0))
        for offsets in map(weight_offsets, (ours, theirs))
    ]
    sizes = [[SAMPLE[name].dtype.itemsize for name in names] for names in order]
    assert sizes[0] == sizes[1] == sorted(sizes[0], reverse=True)


@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda name: name != "__metadata__"),
        hnp.arrays(
            st.sampled_from(list(DTYPES.values())), hnp.array_shapes(min_dims=0, min_side=0)
        ),
        max_size=5,
    )
)
def test_round_trip_of_anything(arrays: dict[str, NDArray[np.generic]]) -> None:
    data = serialise_weights(arrays)
    for loaded in (parse_weights(data), safetensors.numpy.load(data)):
        assert loaded.keys() == arrays.keys()
        for name, array in arrays.items():
            assert loaded[name].shape == array.shape
            assert loaded[name].tobytes() == array.tobytes()


def test_nothing_is_copied() -> None:
    data = serialise_weights(SAMPLE)
    base = np.frombuffer(data, np.uint8)
    for name, array in parse_weights(data).items():
        assert not array.flags.writeable or array.size == 0
        assert array.size == 0 or np.shares_memory(array, base), name


def test_data_is_aligned() -> None:
    offsets = weight_offsets(serialise_weights(SAMPLE))
    assert min(offset for offset, _ in offsets.values()) % 64 == 0
    assert all(offsets[name][0] % SAMPLE[name].dtype.itemsize == 0 for name in SAMPLE)


def test_offsets_point_at_the_tensors() -> None:
    data = serialise_weights(SAMPLE)
    for name, (offset, length) in weight_offsets(data).items():
        assert data[offset : offset + length] == SAMPLE[name].tobytes()


def test_same_arrays_give_the_same_bytes() -> None:
    assert serialise_weights(SAMPLE) == serialise_weights(dict(reversed(SAMPLE.items())))


@pytest.mark.parametrize("change", [lambda a: a.T, lambda a: a[::-1], lambda a: a.astype(">f4")])
def test_layout_and_byte_order_of_the_arrays_do_not_matter(change) -> None:
    array = change(SAMPLE["conv.weight"])
    loaded = parse_weights(serialise_weights({"w": array}))["w"]
    np.testing.assert_array_equal(loaded, array)


def test_unaligned_tensors_are_copied_to_be_aligned() -> None:
    header = {"a": tensor(0, 1, [1], "U8"), "b": tensor(1, 9)}
    data = make_file(header, b"\x01" + np.array([2, 3], "<f4").tobytes())
    np.testing.assert_array_equal(parse_weights(data)["b"], [2, 3])
    assert parse_weights(data)["b"].flags.aligned


@pytest.mark.parametrize(
    "arrays", [{"c": np.zeros(2, np.complex64)}, {"__metadata__": np.zeros(2, np.float32)}]
)
def test_what_the_format_cannot_hold_is_refused(arrays: dict) -> None:
    with pytest.raises(ExportError, match="cannot hold"):
        serialise_weights(arrays)


BAD = {
    "empty": b"",
    "short": b"\0" * 7,
    "header longer than the file": (100).to_bytes(8, "little") + b"{}",
    "header of 2^63 bytes": (2**63).to_bytes(8, "little") + b"{}",
    "header over the cap": make_file(b"{}" + b" " * MAX_HEADER_BYTES),
    "not JSON": make_file(b"{"),
    "not UTF-8": make_file(b'{"\xff": 1}'),
    "an array": make_file(b"[]"),
    "deeply nested": make_file(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "nested metadata": make_file(b'{"__metadata__":' + b"[" * 9999 + b"]" * 9999 + b"}"),
    "metadata not text": make_file({"__metadata__": {"a": 1}}),
    "trailing bytes": make_file({}, b"x"),
    "overlap": make_file({"a": tensor(0, 8), "b": tensor(4, 12)}, b"\0" * 12),
    "same bytes twice": make_file({"a": tensor(0, 8), "b": tensor(0, 8)}, b"\0" * 8),
    "hole": make_file({"a": tensor(0, 8), "b": tensor(12, 16)}, b"\0" * 16),
    "hole at the start": make_file({"a": tensor(4, 8)}, b"\0" * 8),
    "past the end": make_file({"a": tensor(0, 80)}, b"\0" * 8),
    "backwards": make_file({"a": tensor(8, 0, [0])}, b"\0" * 8),
    "negative offset": make_file({"a": tensor(-4, 4)}, b"\0" * 8),
    "negative dimension": make_file({"a": tensor(0, 8, [-1, -2])}, b"\0" * 8),
    "shape too small": make_file({"a": tensor(0, 8, [1])}, b"\0" * 8),
    "shape too large": make_file({"a": tensor(0, 8, [2**40, 2**40])}, b"\0" * 8),
    "impossible empty shape": make_file({"a": tensor(0, 0, [0] + [2**40] * 8)}),
    "rank 17": make_file({"a": tensor(0, 4, [1] * 17)}, b"\0" * 4),
    "float shape": make_file({"a": tensor(0, 8, [2.0])}, b"\0" * 8),
    "unknown dtype": make_file({"a": tensor(0, 8, dtype="F31")}, b"\0" * 8),
    "bfloat16": make_file({"a": tensor(0, 8, [4], "BF16")}, b"\0" * 8),
    "missing field": make_file({"a": {"dtype": "F32", "shape": [2]}}, b"\0" * 8),
    "unknown field": make_file({"a": {**tensor(0, 8), "x": 1}}, b"\0" * 8),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_bad_files_are_refused(data: bytes) -> None:
    for read in (parse_weights, weight_offsets):
        with pytest.raises(IntegrityError, match="not a valid safetensors file"):
            read(data)


def test_every_truncation_is_refused() -> None:
    data = serialise_weights(SAMPLE)
    for length in range(len(data)):
        with pytest.raises(IntegrityError):
            parse_weights(data[:length])
