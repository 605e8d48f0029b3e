"""Encoders that take uint8 pixels: their graphs normalise and pad exactly as the host does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import samclip
from samclip.engines.base import GraphSource
from samclip.engines.graphs.gate import check_source
from samclip.export.cpu_engine import open_on_cpu
from samclip.export.exporter import export_bundle
from samclip.export.families.merged_assembly import save_merged
from samclip.export.families.stitched import assemble_stitched
from samclip.export.graphs import GraphSpec, export_graph
from samclip.export.options import ExportOptions, PrecisionOptions
from samclip.export.precision.emulation import half_engine
from samclip.export.precision.half import HalfPrecision, to_half
from samclip.export.precision.keep import DEFAULT_KEEP
from samclip.export.uint8_input import uint8_spec
from samclip.runtime.assets import packaged_photos
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Preprocessing
from samclip.runtime.pixels.encoder_input import EncoderInput
from samclip.runtime.pixels.image import load_image, photo_paths
from samclip.runtime.plans.trial import Trials

SIDE = 64
SAM = Preprocessing(image_size=SIDE, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
SIZES = [(SIDE, SIDE), (SIDE, 37), (5, SIDE), (1, SIDE), (SIDE, 1)]
DECLARED = (
    ("image_u8", "uint8", (1, 256, 256, 3)),
    ("image_size", "int32", (2,)),
)


class Negation(nn.Module):
    """An encoder that shows what reaches it."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return (-image,)


def normalisation(opset: int) -> ir.Model:
    spec = GraphSpec("encoder", Negation(), {"image": torch.rand(1, 3, SIDE, SIDE)}, ("y",))
    return export_graph(uint8_spec(spec, SAM), opset)


def pixels(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("opset", [18, 20, 23])
def test_the_graph_computes_what_the_host_computes(opset: int) -> None:
    model = normalisation(opset)
    source = check_source(GraphSource("encoder", ir.to_proto(model).SerializeToString()))
    assert source.signature is not None
    declared = [(each.name, each.dtype, each.dims) for each in source.signature.inputs]
    assert declared == [("image_u8", "uint8", (1, SIDE, SIDE, 3)), ("image_size", "int32", (2,))]
    first = next(n for n in model.graph if model.graph.inputs[0] in n.inputs)
    assert first.op_type == "Cast"  # nothing else may read uint8 in TensorRT
    engine = open_on_cpu(model)
    for size in SIZES:
        image = pixels(*size)
        feeds = EncoderInput(SAM, uint8=True).place(image)
        expected = EncoderInput(SAM).place(image)["image"]
        np.testing.assert_array_equal(engine.run(feeds)["y"].numpy(), -expected)  # to the last bit
        feeds["image_u8"][feeds["image_u8"] == 0] = 99  # what lies in the padding does not matter
        outside = np.ones((SIDE, SIDE), bool)
        outside[: size[0], : size[1]] = False
        assert not engine.run(feeds)["y"].numpy()[..., outside].any()


@pytest.mark.parametrize(("half", "epsilon"), [("fp16", 2.0**-11), ("bf16", 2.0**-8)])
def test_half_precision_begins_behind_the_normalisation(
    half: HalfPrecision, epsilon: float
) -> None:
    """The values are rounded once, at the end: by half a unit in their last place."""
    model = normalisation(20)
    typed = to_half(model, half, DEFAULT_KEEP.nodes("encoder", model))
    image = pixels(SIDE, 37)
    found = half_engine(typed).run(EncoderInput(SAM, uint8=True).place(image))["y"].numpy()
    exact = EncoderInput(SAM).place(image)["image"]
    # 1e-6: a rounding of FP32 may bring a value to the other side of a tie.
    assert (np.abs(found + exact) <= np.abs(exact) * epsilon * (1 + 1e-3) + 1e-6).all()
    assert (found != -exact).any()


@pytest.fixture(scope="module")
def bundle(lite2_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bundles") / "uint8"
    options = ExportOptions(lite2_checkpoint, output, templates="simple", uint8_input=True)
    return export_bundle(options).path


def test_the_manifest_declares_the_form_and_parity_holds(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    declared = tuple((s.name, s.dtype, s.shape) for s in manifest.graphs.encoder.inputs)
    assert declared == DECLARED
    rows = [row for row in manifest.parity if row.graph == "encoder"]
    assert {row.image for row in rows} == {path.name for path in photo_paths()}
    assert all(row.max_rel_error <= row.tolerance == 1e-4 for row in rows)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_answers_are_those_of_the_float_form(
    backend: str, bundle: Path, lite2_bundle: Path
) -> None:
    photos = [load_image(packaged_photos() / name) for name in ("coffee.jpg", "astronaut.jpg")]
    photos.append(np.ascontiguousarray(photos[0].transpose(1, 0, 2)))
    limit = 240.0 if backend == "onnxruntime" else None
    with (
        samclip.load(bundle, backend=backend, timeout=limit) as model,  # None: in this process
        samclip.load(lite2_bundle, backend=backend) as floats,
    ):
        for photo in photos:
            scene, expected = model.encode(photo), floats.encode(photo)
            # Both are equal to the last bit today; a library may fuse the division.
            np.testing.assert_allclose(
                scene.image_embeddings, expected.image_embeddings, rtol=0, atol=1e-5
            )
            prompts = {"points": [(100, 120)], "boxes": [(20, 30, 200, 220)]}
            for kind, prompt in prompts.items():
                masks, others = (s.segment(**{kind: prompt}).masks for s in (scene, expected))
                assert (np.asarray(masks) != np.asarray(others)).mean() < 1e-4
            names = ["a cup", "a person"]
            np.testing.assert_allclose(
                scene.classify(names).probabilities,
                expected.classify(names).probabilities,
                atol=1e-5,
            )


def test_a_resized_tensor_is_taken_too(bundle: Path, photo: NDArray[np.uint8]) -> None:
    """segment-anything's `set_torch_image`, whose pixels are whole after `apply_image`."""
    with samclip.load(bundle, backend="onnxruntime") as model:
        predictor = samclip.SamPredictor(model)
        resized = predictor.transform.apply_image(photo)
        predictor.set_torch_image(torch.from_numpy(resized).permute(2, 0, 1)[None], photo.shape[:2])
        found = predictor.get_image_embedding()
        np.testing.assert_array_equal(found, model.encode(photo).image_embeddings)


def test_plans_are_judged_by_photos_in_this_form(bundle: Path) -> None:
    trial = Trials(Bundle.open(bundle)).make("encoder", {})
    questions = list(trial.questions)
    assert [question.name for question in questions] == ["astronaut.jpg", "chelsea.jpg"]
    for question in questions:
        assert {n: a.dtype for n, a in question.feeds.items()} == {
            "image_u8": np.uint8,
            "image_size": np.int32,
        }
    made = {each.name: (each.dtype, each.low, each.high, each.whole) for each in trial.noise}
    assert made == {"image_u8": ("uint8", 0, 255, True), "image_size": ("int32", 256, 256, True)}


@pytest.mark.slow
def test_reduced_precisions_are_calibrated_and_judged(
    recogniser_checkpoint: Path,
    mobile_sam_checkpoint: Path,
    minilm_checkpoint: Path,
    tmp_path: Path,
) -> None:
    """Ranges, scales and gates all come from photos in this form; the names are real ones."""
    made = assemble_stitched(
        recogniser_checkpoint, mobile_sam_checkpoint, minilm_checkpoint, image_size=256
    )
    calib, held = tmp_path / "calib", tmp_path / "held"
    names = (("chelsea.jpg", "rocket.jpg"), ("astronaut.jpg", "coffee.jpg"))
    for folder, own in zip((calib, held), names, strict=True):
        folder.mkdir()
        for name in own:
            (folder / name).write_bytes((packaged_photos() / name).read_bytes())
    options = ExportOptions(
        save_merged(made, tmp_path / "lite2.safetensors"),
        tmp_path / "reduced",
        templates="simple",
        photos=held,
        precision=PrecisionOptions(("int8_fp16", "fp16", "int8"), calib=calib),
        uint8_input=True,
    )
    manifest = export_bundle(options).manifest
    assert tuple((s.name, s.dtype, s.shape) for s in manifest.graphs.encoder.inputs) == DECLARED
    assert [r.precision for r in manifest.reductions] == ["int8_fp16", "fp16", "int8"]
    for reduction in manifest.reductions:
        assert all(row.passed for row in reduction.gates)
        values = {row.measure: row.value for row in reduction.gates}
        assert values["image_embeddings_cosine"] < 1  # something was rounded
    with samclip.load(tmp_path / "reduced", backend="openvino", precision="int8") as model:
        assert model.encode(packaged_photos() / "coffee.jpg").image_embeddings.shape[1] == 256
