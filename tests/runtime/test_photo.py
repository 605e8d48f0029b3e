"""Photos on a GPU: encoded where they are, and brought to the host when their pixels are read."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fakes import IMAGE_SIZE
from gpu_arrays import ByDlpack, ByInterface, OnGpu
from numpy.typing import NDArray
from tensorrt_bench import CUDA_PACKAGES, FAKE_GPU, Bench, tensorrt_bench
from uint8_encoder import fake_encoder, uint8_model

from samclip.engines.base import EngineOptions
from samclip.engines.dlpack import CUDA
from samclip.engines.isolated.backend import IsolatedBackend
from samclip.engines.onnxruntime.backend import CPU
from samclip.errors import EngineRunError, ImageError
from samclip.runtime.model import Model

NAMES = ["red", "green", "blue"]
POINTS = [[(50, 40)], [(20, 90)]]
SIZES = [(128, IMAGE_SIZE), (IMAGE_SIZE, IMAGE_SIZE), (IMAGE_SIZE, 100)]


@pytest.fixture(params=CUDA_PACKAGES)
def bench(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Bench]:
    with tensorrt_bench(request.param, monkeypatch, tmp_path) as bench:
        yield bench


def photo(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def on_gpu(
    bench: Bench,
    model: Model,
    pixels: NDArray[np.uint8],
    kind: type[OnGpu] = ByDlpack,
    **place: Any,
) -> OnGpu:
    """Put a photo on the stand-in; `gap`: columns of a larger frame right of it."""
    gap = place.pop("gap", 0)
    frame = np.pad(pixels, ((0, 0), (0, gap), (0, 0)), constant_values=255)
    if gap:
        pitch = frame.shape[1] * 3
        place |= {"shape": pixels.shape, "strides": (pitch, 3, 1)}  # in elements and in bytes
    engine: Any = model._pool._engine("encoder")[0]
    return kind(bench.gpu, engine._memory.device, frame, **place)


def features(scene: Any) -> NDArray[np.float32]:
    found: NDArray[np.float32] = scene.tensor("backbone_features").numpy()
    return found


def copies(caplog: pytest.LogCaptureFixture) -> list[str]:
    """List what was logged about copies to the host."""
    return [message for message in caplog.messages if "copied" in message]


@pytest.mark.parametrize("kind", [ByDlpack, ByInterface])
def test_a_photo_on_the_gpu_is_encoded_there(
    bench: Bench, kind: type[OnGpu], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "samclip")
    model = uint8_model(bench.start)
    model.encode(np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 255, np.uint8))  # stays behind later photos
    for size, gap in [*((size, 0) for size in SIZES), ((128, IMAGE_SIZE), 7), (SIZES[2], 1)]:
        bench.gpu.takes_any_pitch = gap != 1
        pixels = photo(*size)
        expected = model.encode(pixels)
        given = on_gpu(bench, model, pixels, kind, gap=gap)
        bench.gpu.copied.clear()
        scene = model.encode(given)
        assert [size for way, size in bench.gpu.copied if way == "to device"] == [8]  # image_size
        given.overwrite(np.zeros_like(given._array))  # as a camera does
        np.testing.assert_array_equal(features(scene), features(expected))
        found, wanted = (each.segment(points=POINTS, names=NAMES) for each in (scene, expected))
        np.testing.assert_array_equal(found.masks, wanted.masks)
        assert found.names == wanted.names
        assert scene.size == size
        assert given.host_copies == 0
        kept = size[0] * IMAGE_SIZE * 3
        assert ("to host", kept) not in bench.gpu.copied
        np.testing.assert_array_equal(found.image, pixels)
        np.testing.assert_array_equal(found.draw(), wanted.draw())
        assert found.image is scene.image
        assert not scene.image.flags.writeable
        assert bench.gpu.copied.count(("to host", kept)) == 1
        given.free()
    assert copies(caplog) == []
    model.close()


def test_a_gpu_that_shares_the_hosts_memory_does_the_same(bench: Bench) -> None:
    bench.gpu.integrated = True
    bench.host_gpu = msgspec.structs.replace(FAKE_GPU, integrated=True)
    model = uint8_model(bench.start)
    pixels = photo(128, IMAGE_SIZE)
    expected = model.encode(pixels)
    given = on_gpu(bench, model, pixels)
    for _ in range(3):
        np.testing.assert_array_equal(features(model.encode(given)), features(expected))
    np.testing.assert_array_equal(model.encode(given).image, pixels)
    assert given.host_copies == 0
    given.free()
    model.close()


def test_only_pixels_are_a_reason_to_copy(bench: Bench) -> None:
    model = uint8_model(bench.start)
    pixels = photo(128, IMAGE_SIZE)
    given = on_gpu(bench, model, pixels)
    scene = model.encode(given)
    bench.gpu.copied.clear()
    answers: list[Any] = [
        scene.segment(points=POINTS),
        scene.segment(boxes=[(5, 5, 90, 90)])[[0]].best(1),
        scene.name(np.ones((1, *scene.size), bool), NAMES),
        scene.classify(NAMES),
        scene.semantic(NAMES, refine=True),
        scene.everything(points_per_side=2, names=NAMES)[:2],
    ]
    shallow = copy.copy(answers[0])
    repr([scene, *answers])
    assert [answer.to_dict() for answer in answers]
    assert ("to host", pixels.nbytes) not in bench.gpu.copied
    scene.close()
    model.close()
    given.free()
    with ThreadPoolExecutor(4) as threads:  # after the model is gone, and only one of them copies
        found = list(threads.map(lambda answer: answer.image, [*answers, shallow]))
    assert all(each is found[0] for each in found)
    assert bench.gpu.copied.count(("to host", pixels.nbytes)) == 1
    np.testing.assert_array_equal(found[0], pixels)


def test_results_and_crops_take_the_photo_of_their_scene(bench: Bench) -> None:
    model = uint8_model(bench.start)
    pixels = photo(128, IMAGE_SIZE)
    given = on_gpu(bench, model, pixels)
    scene, expected = model.encode(given), model.encode(pixels)
    given.overwrite(photo(128, IMAGE_SIZE, 1))
    first = scene.segment(points=POINTS)
    for same in (pickle.loads(pickle.dumps(first)), copy.deepcopy(first)):
        np.testing.assert_array_equal(same.image, pixels)
        np.testing.assert_array_equal(same[0].masks, first[0].masks)
    cropped = [
        each.everything(NAMES, points_per_side=2, crop_n_layers=1) for each in (scene, expected)
    ]
    assert cropped[0].to_dict() == cropped[1].to_dict()
    given.free()
    model.close()


def test_a_series_may_come_through_two_buffers(bench: Bench) -> None:
    model = uint8_model(bench.start)
    photos = [photo(128, IMAGE_SIZE, seed) for seed in range(4)]
    buffers = [on_gpu(bench, model, np.zeros_like(photos[0])) for _ in range(2)]

    def camera() -> Iterator[OnGpu]:
        for index, pixels in enumerate(photos):
            buffers[index % 2].overwrite(pixels)
            yield buffers[index % 2]

    for pixels, scene in zip(photos, model.encode_all(camera()), strict=True):
        np.testing.assert_array_equal(scene.image, pixels)
    assert bench.gpu.launches == 3  # the captured graph serves whatever lies behind the address
    for buffer in buffers:
        assert buffer.host_copies == 0
        buffer.free()
    model.close()


@pytest.mark.parametrize(
    ("size", "place", "reason"),
    [
        ((64, 128), {}, f"it has 128 x 64 pixels, expected {IMAGE_SIZE} on the longer side"),
        ((IMAGE_SIZE, 9), {"device": (CUDA, 1)}, "the backend 'fake' does not take it where it is"),
        ((IMAGE_SIZE, 9), {"strides": (27, 1, 9)}, "the backend 'fake' does not take it where it"),
    ],
)
def test_other_photos_come_over_the_host(
    bench: Bench,
    size: tuple[int, int],
    place: dict[str, Any],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "samclip")
    model = uint8_model(bench.start)
    pixels = photo(*size)
    given = on_gpu(bench, model, pixels, **place)
    for scene in model.encode_all([given, given]):
        np.testing.assert_array_equal(features(scene), features(model.encode(pixels)))
        np.testing.assert_array_equal(scene.image, pixels)
    assert given.host_copies == 2
    (said,) = copies(caplog)
    assert f"an image on a GPU is copied to the host: {reason}" in said
    given.free()
    model.close()


def test_what_cannot_be_taken_is_refused_as_ever(bench: Bench) -> None:
    model = uint8_model(bench.start, max_pixels=1000)
    large = on_gpu(bench, model, photo(128, IMAGE_SIZE))
    with pytest.raises(ImageError, match="at most 1,000 pixels"):
        model.encode(large)
    model._max_pixels = 2**20
    broken = on_gpu(bench, model, photo(128, IMAGE_SIZE), fails=True)
    with pytest.raises(EngineRunError, match="ByDlpack, cannot be ordered before a run"):
        model.encode(broken)
    np.testing.assert_array_equal(model.encode(large).image, large.cpu().numpy())
    for given in (large, broken):
        given.free()
    model.close()


def test_separate_processes_and_float_encoders_take_photos_from_the_host(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "samclip")
    on_host = uint8_model(lambda source: CPU.load(source, EngineOptions(threads=1)))
    isolated = uint8_model(
        lambda source: IsolatedBackend(CPU, 120).load(source, EngineOptions(threads=1))
    )
    floats = uint8_model(fake_encoder, uint8=False)
    owner = uint8_model(bench.start)
    pixels = photo(128, IMAGE_SIZE)
    given = on_gpu(bench, owner, pixels)
    expected = features(owner.encode(given))
    for count, model in enumerate((on_host, isolated, floats), 1):
        with model.encode(given) as scene:
            np.testing.assert_allclose(features(scene), expected, rtol=0, atol=1e-6)
            np.testing.assert_array_equal(scene.image, pixels)
        assert given.host_copies == count
        model.close()
    assert [message.split(": ")[1] for message in copies(caplog)] == [
        "the backend 'fake' does not take it where it is. Further ones are not logged.",
        "the backend 'fake' does not take it where it is. Further ones are not logged.",
        "the encoder takes normalised floats, not uint8 pixels. Further ones are not logged.",
    ]
    given.free()
    owner.close()


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()
