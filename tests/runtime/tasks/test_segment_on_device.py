"""Masks on the device: real graphs on both CPU backends, TensorRT's engines on a stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from onnx import helper
from tensorrt_bench import Bench, tensorrt_bench
from tiny_bundle import make_model

import samclip
from samclip.engines.base import GraphSource
from samclip.engines.cuda.memory import CudaTensor
from samclip.engines.device_tensor import part_of
from samclip.engines.plans.gate.cases import answer
from samclip.engines.plans.sidecar import AxisRange
from samclip.errors import CapabilityError, ClosedError, InputError, PromptError
from samclip.export.graph_files import GraphFiles
from samclip.export.models.mask_upscaler import mask_upscaler_graph
from samclip.export.options import DEFAULT_OPSET
from samclip.runtime.assets import DEFAULT_BUNDLE, packaged_bundles
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.writing import write_bundle
from samclip.runtime.pixels.image import Letterbox, load_image, photo_paths
from samclip.runtime.plans.trial import Trials
from samclip.runtime.scene import Scene

POINTS = [[(150, 60)], [(40, 90), (60, 100)], [(200, 30)]]  # three batches' shapes are two
TOLERANCE = 2e-5  # of the largest logit: float32 sums in another order
# Taps are made so that these sizes differ: the photo's, in the square, and of the logits.
SIZES = ((1, 1), (1, 500), (500, 1), (480, 640), (333, 517), (1080, 1920), (512, 512), (2048, 1365))


def upscaler(image_size: int) -> GraphFiles:
    return mask_upscaler_graph((image_size, image_size)).write(("chunk",), DEFAULT_OPSET)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """samclip-tiny with a mask upscaler."""
    tiny = Bundle.open(packaged_bundles() / DEFAULT_BUNDLE)
    manifest = tiny.manifest
    made = upscaler(manifest.preprocessing.image_size)
    graphs = msgspec.structs.replace(manifest.graphs, mask_upscaler=made.graph)
    files = {name: tiny.read(name) for name in manifest.files} | dict(made.files)
    target = tmp_path_factory.mktemp("bundles") / "upscaling"
    return write_bundle(target, msgspec.structs.replace(manifest, graphs=graphs), files)


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def scene(request: pytest.FixtureRequest, bundle: Path) -> Iterator[Scene]:
    if request.param == "openvino":
        pytest.importorskip("openvino")
    photo = load_image(photo_paths()[1])[3:, :-7]  # no round numbers
    options: dict[str, Any] = {"threads": 1, "aspects": "1:1"}  # that the upscaler is made for
    with samclip.load(bundle, request.param, **options) as model, model.encode(photo) as scene:
        yield scene


@pytest.mark.parametrize("multimask", [False, True])
def test_masks_are_those_of_segment(scene: Scene, multimask: bool) -> None:
    asked: dict[str, Any] = {"points": POINTS, "multimask": multimask}
    expected = scene.segment(**asked, return_logits=True)
    found = scene.segment_on_device(**asked, return_logits=True)
    assert len(found) == len(found.masks) == (9 if multimask else 3)
    assert found.prompt_index.tolist() == expected.prompt_index.tolist()
    assert found.scores.tolist() == expected.scores.tolist()
    assert found.logits is not None
    assert expected.logits is not None
    for row, mask in enumerate(found):
        assert (mask.shape, mask.dtype) == (scene.size, np.uint8)
        logits = expected.logits[row]
        near = TOLERANCE * np.abs(logits).max()
        np.testing.assert_allclose(found.logits[row].numpy(), logits, rtol=0, atol=near)
        tensor = torch.from_dlpack(mask)
        assert tensor.data_ptr() == mask.numpy().ctypes.data
        assert set(tensor.unique().tolist()) <= {0, 1}
        wrong = tensor.numpy().astype(bool) != expected.masks[row]
        assert np.abs(logits[wrong]).max(initial=0) <= near
    np.testing.assert_array_equal(found.numpy(), np.stack([mask.numpy() for mask in found]) > 0)
    assert 0.01 < found.numpy().mean() < 0.9
    assert scene.segment_on_device(boxes=[(10, 10, 90, 80)]).logits is None
    assert len(scene.segment_on_device(boxes=[])) == 0


def test_encoder_outputs_are_lent_and_outlive_scene_and_model(bundle: Path) -> None:
    model = samclip.load(bundle, "onnxruntime", threads=1, aspects="1:1")
    scene = model.encode(photo_paths()[1])
    assert set(scene.tensor_names) == {"backbone_features", "image_embeddings"}
    lent = scene.tensor("image_embeddings")
    expected = scene.image_embeddings
    tensor = torch.from_dlpack(lent)
    assert tensor.data_ptr() == scene.tensor("image_embeddings").numpy().ctypes.data
    masks = scene.segment_on_device(points=[(5, 5)])
    with pytest.raises(
        InputError, match=r"no output 'image_embedding'.*did you mean 'image_embeddings'"
    ):
        scene.tensor("image_embedding")
    scene.close()
    model.close()
    np.testing.assert_array_equal(tensor.numpy(), expected)
    assert masks[0].numpy().shape == scene.size
    for use in (lambda: scene.tensor("x"), lambda: scene.tensor_names):
        with pytest.raises(ClosedError):
            use()
    with pytest.raises(ClosedError):
        scene.segment_on_device(points=[(5, 5)])


def test_what_cannot_be_answered_on_the_device(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PromptError, match=r"masks of .* GB; for this image at most [\d,]+ are"):
        scene.segment_on_device(boxes=[(0, 0, 9, 9)] * 16_000)
    with samclip.load(backend="onnxruntime", threads=1) as model, model.encode(scene.image) as old:
        with pytest.raises(CapabilityError, match=r"no mask_upscaler graph.*or call segment"):
            old.segment_on_device(points=[(5, 5)])
        assert len(old.segment(points=[(5, 5)])) == 1
    monkeypatch.setattr("samclip.runtime.features.MAX_PHOTO_SIDE", 100)
    with pytest.raises(CapabilityError, match="have up to 100 a side"):
        scene.segment_on_device(points=[(5, 5)])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [64, 512, 1024])
def test_taps_are_both_resizes_and_the_crop_between_them(side: int, size: tuple[int, int]) -> None:
    letterbox, small = Letterbox.fit(size, side), side // 4
    logits = np.random.default_rng(side).normal(0, 8, (small, small)).astype(np.float32)
    weights = []
    for taps in letterbox.upscale_taps(small):
        assert taps.dtype == np.float32
        first, second, share = taps.T[:, :, None]
        away = [np.abs(places - np.arange(small)) for places in (first, second)]
        tents = [np.maximum(0, 1 - distance) for distance in away]
        weights.append((1 - share) * tents[0] + share * tents[1])
        np.testing.assert_allclose(weights[-1].sum(axis=1), 1, atol=1e-6)
    found = weights[0] @ logits @ weights[1].T
    near = TOLERANCE * np.abs(logits).max()
    np.testing.assert_allclose(found, letterbox.upscale(logits), rtol=0, atol=near)


def test_on_a_gpu_no_pixel_of_a_mask_comes_to_the_host(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = upscaler(64)
    (_, source), *_ = made.sources()
    logits = np.random.default_rng(1).normal(0, 8, (2, 3, 16, 16)).astype(np.float32)
    letterbox = Letterbox.fit((48, 70), 64)
    rows, columns = letterbox.upscale_taps(16)
    with tensorrt_bench("cuda-python", monkeypatch, tmp_path) as bench:
        bench.gpu.memory = 2**24
        decoded = decoder_output(bench, logits)
        taps = dict.fromkeys(("rows", "columns"), ((1, 3), (48, 3), (99, 3)))
        bench.module.bounds = {"low_res_mask": ((16, 16),) * 3, **taps}
        engine = bench.start(GraphSource("mask_upscaler", source.onnx))
        bench.gpu.copies.clear()
        feeds = {"low_res_mask": part_of(decoded, 1, 2), "rows": rows, "columns": columns}
        found = engine.run(feeds)
        assert "on device" in bench.gpu.copies
        assert "to host" not in bench.gpu.copies
        assert isinstance(found["mask"], CudaTensor)
        assert found["mask"].dtype == np.uint8
        expected = letterbox.upscale(logits[1, 2])
        np.testing.assert_allclose(found["logits"].numpy(), expected, rtol=0, atol=1e-3)
        np.testing.assert_array_equal(found["mask"].numpy(), found["logits"].numpy() > 0)
        engine.close()
        del found, feeds, decoded


def decoder_output(bench: Bench, logits: np.ndarray) -> CudaTensor:
    """Put logits on the stand-in, as a decoder's output."""

    dims = list(logits.shape)
    node = helper.make_node("Neg", ["x"], ["y"])
    bench.module.bounds = {"x": (logits.shape,) * 3}
    engine = bench.start(GraphSource("decoder", make_model([node], {"x": dims}, {"y": dims})))
    found = engine.run({"x": -logits})["y"]
    engine.close()
    assert isinstance(found, CudaTensor)
    return found


def test_plans_of_the_graph_are_judged_on_photos_sizes(bundle: Path) -> None:
    axes = {name: AxisRange(least=1, best=30, most=47) for name in ("height", "width")}
    cases = list(answer(Trials(Bundle.open(bundle)).make("mask_upscaler", axes)))
    shapes = [case.expected["mask"].shape for case in cases[:-1]]
    assert shapes == [(1, 1), (30, 30), (47, 47)]
    for case, (height, width) in zip(cases, shapes, strict=False):
        small = case.feeds["low_res_mask"]
        expected = Letterbox.fit((height, width), 4 * len(small)).upscale(small)
        np.testing.assert_allclose(case.expected["logits"], expected, rtol=0, atol=1e-4)
