"""Calibration: the ranges measured, the feeds refused, and the cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from int8_graphs import SIZE, Array, photo_feeds, small_network

from samclip.errors import CalibrationError
from samclip.export.precision import calibration
from samclip.export.precision.calibration import Method, Range, calibrate, write_calibration
from samclip.export.precision.photos import neighbour_correlation

METHODS: tuple[Method, ...] = ("minmax", "entropy", "percentile")


@pytest.fixture(scope="module")
def network() -> ir.Model:
    return small_network()


@pytest.mark.parametrize("method", METHODS)
def test_ranges_hold_what_the_method_says(network: ir.Model, method: Method) -> None:
    feeds = photo_feeds(4)
    found = calibrate(network, feeds, method)
    values = np.concatenate([feed["image"].ravel() for feed in feeds])
    span = found.inputs["stem"]
    assert (found.method, found.photos) == (method, 4)
    if method == "minmax":
        assert (span.low, span.high) == (values.min(), values.max())
    else:
        assert values.min() <= span.low < 0 < span.high <= values.max()
        assert np.mean((values < span.low) | (values > span.high)) < 0.05


def test_outputs_are_taken_behind_their_rectifier(network: ir.Model) -> None:
    found = calibrate(network, photo_feeds())
    assert found.outputs["stem"].low == 0
    assert found.outputs["pw"].low < 0
    assert found.outputs["stem"] == found.inputs["dw"]


def test_the_graph_is_left_as_it_was(network: ir.Model) -> None:
    before = ir.to_proto(network).SerializeToString(deterministic=True)
    calibrate(network, photo_feeds())
    assert ir.to_proto(network).SerializeToString(deterministic=True) == before


def test_no_photos_are_refused(network: ir.Model) -> None:
    with pytest.raises(CalibrationError, match="no photos"):
        calibrate(network, [])


@pytest.mark.parametrize("kind", ["noise", "one colour", "nan", "noise in padding"])
def test_feeds_unlike_photos_are_refused(network: ir.Model, kind: str) -> None:
    image = np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
    match kind:
        case "one colour":
            image[:] = 0.5
        case "nan":
            image[0, 0, 0, 0] = np.nan
        case "noise in padding":
            image[:, :, SIZE // 2 :] = 0
    with pytest.raises(CalibrationError, match=r"not a photo|not finite"):
        calibrate(network, [*photo_feeds(1), {"image": image}])


def test_smooth_pictures_are_distinguished_from_noise() -> None:
    noise = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    assert abs(neighbour_correlation(noise)) < 0.1
    assert neighbour_correlation(photo_feeds(1)[0]["image"]) > 0.7


def test_an_unknown_method_is_refused(network: ir.Model) -> None:
    with pytest.raises(CalibrationError, match="minmax, entropy, percentile"):
        calibrate(network, photo_feeds(), "median")  # type: ignore[arg-type]


class TestCache:
    def test_what_was_measured_is_read_back(
        self, network: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = calibrate(network, photo_feeds(), cache=tmp_path)
        monkeypatch.delattr(calibration, "observe")
        assert calibrate(network, photo_feeds(), cache=tmp_path) == first
        assert len([*tmp_path.iterdir()]) == 1

    def test_graph_feeds_and_method_each_have_their_own(
        self, network: ir.Model, tmp_path: Path
    ) -> None:
        calibrate(network, photo_feeds(), cache=tmp_path)
        calibrate(network, photo_feeds(), "percentile", cache=tmp_path)
        calibrate(network, photo_feeds(seed=1), cache=tmp_path)
        calibrate(small_network(seed=1), photo_feeds(), cache=tmp_path)
        assert len([*tmp_path.iterdir()]) == 4

    @pytest.mark.parametrize("damage", ["cut", "changed", "emptied"])
    def test_a_damaged_file_is_made_again(
        self, network: ir.Model, tmp_path: Path, damage: str
    ) -> None:
        first = calibrate(network, photo_feeds(), cache=tmp_path)
        (file,) = tmp_path.iterdir()
        whole = file.read_bytes()
        changed = whole.replace(b'"photos":3', b'"photos":4')
        file.write_bytes({"cut": whole[:-9], "changed": changed, "emptied": b""}[damage])
        assert calibrate(network, photo_feeds(), cache=tmp_path) == first
        assert file.read_bytes() == whole

    @pytest.mark.parametrize("planted", ["link", "pipe", "writable for everybody"])
    def test_a_planted_file_is_not_read(
        self, network: ir.Model, tmp_path: Path, planted: str
    ) -> None:
        first = calibrate(network, photo_feeds(), cache=tmp_path / "cache")
        (file,) = (tmp_path / "cache").iterdir()
        data = file.read_bytes().partition(b"\n")[2].replace(b'"photos":3', b'"photos":4')
        evil = hashlib.sha256(data).hexdigest().encode() + b"\n" + data
        file.unlink()
        if planted == "pipe":
            os.mkfifo(file)
        else:
            target = tmp_path / "other" if planted == "link" else file
            target.write_bytes(evil)
            target.chmod(0o666)
            if planted == "link":
                target.chmod(0o600)
                file.symlink_to(target)
        assert calibrate(network, photo_feeds(), cache=tmp_path / "cache") == first

    def test_feeds_that_are_read_once_have_no_key(self, network: ir.Model, tmp_path: Path) -> None:
        def once() -> Iterator[dict[str, Array]]:
            yield from photo_feeds()

        with pytest.raises(CalibrationError, match="only once"):
            calibrate(network, once(), cache=tmp_path)
        assert calibrate(network, once()).photos == 3


@pytest.mark.parametrize("change", ["names", "infinite", "turned", "pipe", "folder", "everyones"])
def test_a_cached_calibration_is_not_believed(
    network: ir.Model, change: str, tmp_path: Path
) -> None:
    """A file whose digest is right, with ranges that are not those of this graph."""
    feeds = photo_feeds(2)
    right = calibrate(network, feeds, cache=tmp_path)
    (file,) = tmp_path.glob("*.json")
    layer = next(iter(right.inputs))
    ranges = {"infinite": Range(0.0, 1e999), "turned": Range(1.0, -1.0)}
    inputs = {**right.inputs, layer: ranges.get(change, Range(0.0, 9e9))}
    if change == "names":
        inputs["other"] = Range(0.0, 1.0)
    write_calibration(msgspec.structs.replace(right, inputs=inputs), file)
    if change == "everyones":
        file.chmod(0o666)
    if change in {"pipe", "folder"}:
        file.unlink()
        (os.mkfifo if change == "pipe" else os.mkdir)(file)
    assert calibrate(network, feeds, cache=tmp_path) == right
