"""Open-Vocabulary SAM through the whole export, by the command, and back from its bundle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from reference_ovsam import Reference, check_masks, check_names
from small_ovsam import SMALL_OVSAM, random_ovsam, small_assembly
from typer.testing import CliRunner, Result

import samclip
from samclip.errors import CapabilityError, UntrainedHeadWarning
from samclip.export.checkpoints.text_source import clip_tokenizer_json
from samclip.export.cli import app
from samclip.export.exporter import export_bundle
from samclip.export.families.ovsam_assembly import save_ovsam
from samclip.export.models.ovsam.convnext import ConvNextConfig
from samclip.export.models.ovsam.model import OVSAM_CONFIGS, Ovsam
from samclip.export.models.ovsam.roi_classifier import LOGIT_SCALE
from samclip.export.options import ExportOptions, PrecisionOptions
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.model import Model
from samclip.runtime.pixels.image import load_image, photo_paths
from samclip.runtime.text.templates import VILD_TEMPLATES
from samclip.runtime.text.tokenizer import Tokenizer

LABELS = ("cat", "dog", "Straße")
NAMES = ("a cup", "a spoon", "a table", "a cat", "a rocket")
GRAPHS = {"encoder", "mask_decoder", "roi_classifier", "clip_roi", "text_encoder"}
BOXES = [(100.0, 50.0, 500.0, 350.0), (10.0, 20.0, 60.0, 90.0)]
POINTS = [[(300, 200)], [(560, 40)]]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def network() -> Ovsam:
    return random_ovsam(with_text=True)


@pytest.fixture(scope="module")
def checkpoint(network: Ovsam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merged")
    return save_ovsam(small_assembly(network), folder / "small.safetensors")


@pytest.fixture(scope="module")
def written(
    checkpoint: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The output of the command with --json, for a bundle in all precisions."""
    folder = tmp_path_factory.mktemp("exports")
    (folder / "names.txt").write_text("\n".join(LABELS), "utf-8")
    (folder / "calib").mkdir()
    for photo in (photo_paths()[0], photo_paths()[3]):
        (folder / "calib" / photo.name).write_bytes(photo.read_bytes())
    result = run(
        *("--checkpoint", checkpoint, "--output", folder / "bundle", "--photos", photos),
        *("--labels", folder / "names.txt", "--opset", 23, "--attention", "bias", "--json"),
        *("--fp16", "--int8", "--calib", folder / "calib"),
    )
    assert result.exit_code == 0, result.stderr
    said: dict[str, Any] = json.loads(result.stdout)
    return said


@pytest.fixture(scope="module")
def bundle(written: dict[str, Any]) -> Bundle:
    opened = Bundle.open(Path(written["path"]))
    opened.verify()
    return opened


@pytest.fixture(scope="module")
def model(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    cache = tmp_path_factory.mktemp("cache")
    with samclip.load(bundle.path, "onnxruntime", precision="fp32", cache_dir=cache) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return load_image(photo_paths()[2])


@pytest.fixture(scope="module")
def expected(network: Ovsam, model: Model, image: NDArray[np.uint8]) -> Reference:
    return Reference(network, model, image)


def test_the_manifest_says_what_it_is(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert manifest.clip_head is None
    assert manifest.region_head is not None
    assert (manifest.region_head.trained, manifest.region_head.embed_dim) == (True, 24)
    assert manifest.model_type == "ovsam"
    assert manifest.text is not None
    assert manifest.text.templates == "vild"
    assert manifest.text.logit_scale == LOGIT_SCALE
    assert manifest.provenance.sources[0].file == "small.safetensors"
    assert manifest.provenance.sources[0].license == "Apache-2.0"
    assert manifest.provenance.notes == ""
    found = {name for name in GRAPHS if getattr(manifest.graphs, name) is not None}
    assert found == GRAPHS
    opsets = {name: getattr(manifest.graphs, name).variants[-1].opset for name in GRAPHS}
    assert opsets == {
        "encoder": 23,
        "mask_decoder": 23,
        "roi_classifier": 21,
        "clip_roi": 21,
        "text_encoder": 23,
    }


def test_parity_is_measured_on_every_output_and_photo(bundle: Bundle) -> None:
    rows = bundle.manifest.parity
    assert all(row.max_rel_error <= row.tolerance == 1e-4 for row in rows)
    assert all(row.max_rel_error > 0 for row in rows if row.graph != "image_keys")  # one product
    assert {row.image for row in rows} == {"chelsea.jpg", "coffee.jpg", "text"}
    assert {(row.graph, row.output) for row in rows} == {
        *(("encoder", f"fpn_{stride}") for stride in (4, 8, 16, 32)),
        *(("encoder", name) for name in ("image_embeddings", "c5")),
        ("mask_decoder", "low_res_masks"),
        ("point_decoder", "low_res_masks"),
        *(("image_keys", f"image_{part}") for part in ("tokens", "keys", "values", "queries")),
        ("roi_classifier", "logits"),
        ("clip_roi", "clip_logits"),
        ("text_encoder", "text_embeddings"),
    }


def test_the_files_are_plain_onnx_with_external_data(bundle: Bundle) -> None:
    for file in bundle.path.glob("*.onnx"):
        onnx.checker.check_model(str(file))
        nodes = onnx.load(str(file), load_external_data=False).graph.node
        assert {node.domain for node in nodes} <= {"", "ai.onnx"}
        assert not {node.op_type for node in nodes} & {"BatchNormalization", "If", "Loop"}


def torch_texts(network: Ovsam, names: tuple[str, ...]) -> NDArray[np.float32]:
    """The names through the torch tower: unit rows, by the templates of the released model."""
    assert network.text is not None
    tokenizer, rows = Tokenizer.from_bytes(clip_tokenizer_json(), 77), []
    for name in names:
        tokens = tokenizer([template.format(name) for template in VILD_TEMPLATES])
        with torch.no_grad():
            each = torch.nn.functional.normalize(network.text(torch.from_numpy(tokens)), dim=-1)
        rows.append(torch.nn.functional.normalize(each.mean(dim=0), dim=-1))
    return np.asarray(torch.stack(rows), np.float32)


@pytest.mark.parametrize("names", [NAMES, LABELS])
def test_boxes_and_points_get_torchs_masks_and_names(
    names: tuple[str, ...],
    network: Ovsam,
    model: Model,
    image: NDArray[np.uint8],
    expected: Reference,
) -> None:
    text = torch_texts(network, names)
    vocabulary = model.vocabulary(names)
    np.testing.assert_allclose(vocabulary.embeddings, text, atol=1e-5)
    before = model.encoder_passes
    scene = model.encode(image)
    by_boxes = scene.segment(boxes=BOXES, names=names)
    by_points = scene.segment(points=POINTS, names=vocabulary)
    assert model.encoder_passes == before + 1
    logits = [expected.mask(np.reshape(box, (2, 2)), [2, 3]) for box in BOXES]
    check_masks(by_boxes, logits)
    pairs = zip(BOXES, logits, strict=True)
    check_names(by_boxes, [expected.probabilities(b, m, text, 0.9) for b, m in pairs])
    logits = [expected.mask([point[0], (0, 0)], [1, -1]) for point in POINTS]
    check_masks(by_points, logits)
    pairs = zip(by_points.boxes, logits, strict=True)
    check_names(by_points, [expected.probabilities(b, m, text, 0.9) for b, m in pairs])
    with pytest.raises(CapabilityError):
        scene.semantic(names)


@pytest.mark.slow
def test_people_read_of_an_untrained_classifier_and_what_to_try(
    network: Ovsam, photos: Path, tmp_path: Path
) -> None:
    file = save_ovsam(small_assembly(network, trained=False), tmp_path / "new.safetensors")
    (tmp_path / "names.txt").write_text("\n".join(LABELS), "utf-8")
    result = run(
        *("--checkpoint", file, "--output", tmp_path / "b", "--photos", photos),
        *("--labels", tmp_path / "names.txt", "--no-text-encoder", "--templates", "none"),
        *("--weights-dtype", "fp16"),
    )
    assert result.exit_code == 0, result.output
    for part in ("Worst errors", "Rounded weights", "classifier of regions was never trained"):
        assert part in result.stderr
    assert "samclip segment PHOTO --point X,Y --names" in result.stderr
    manifest = Bundle.open(tmp_path / "b").manifest
    assert "never trained" in manifest.provenance.notes
    assert manifest.text is not None
    assert (manifest.text.templates, manifest.text.tokenizer) == ("none", None)
    assert {row.graph for row in manifest.rounding} == GRAPHS - {"text_encoder"}
    with samclip.load(tmp_path / "b", "onnxruntime") as model:
        scene = model.encode(photo_paths()[0])
        with pytest.warns(UntrainedHeadWarning):
            masks = scene.segment(boxes=BOXES[0], names=LABELS)
    assert masks.trained_head is False


@pytest.mark.slow
def test_a_convnext_too(photos: Path, tmp_path: Path) -> None:
    backbone = ConvNextConfig((8, 16, 16, 24), (1, 1, 2, 1), embed_dim=24)
    model = random_ovsam(replace(SMALL_OVSAM, backbone=backbone), with_text=True)
    file = save_ovsam(small_assembly(model), tmp_path / "convnext.safetensors")
    precision = PrecisionOptions(("fp16",))
    options = ExportOptions(file, tmp_path / "b", photos=photos, precision=precision)
    made = export_bundle(options)
    assert all(row.max_rel_error <= row.tolerance for row in made.manifest.parity)
    clip = made.manifest.graphs.clip_roi
    assert clip is not None
    assert {spec.name for spec in clip.inputs} == {"c5", "low_res_masks", "text"}
    assert [variant.precision for variant in clip.variants] == ["fp16", "fp32"]
    with samclip.load(made.path, "onnxruntime") as loaded:
        found = loaded.encode(photo_paths()[0]).segment(boxes=BOXES, names=NAMES)
    assert found.class_ids is not None


def test_reduced_precisions_are_judged_by_masks_and_names_of_regions(bundle: Bundle) -> None:
    for record in bundle.manifest.reductions:
        values = {row.measure: row.value for row in record.gates}
        assert values.keys() >= {"image_embeddings_cosine", "region_names_cosine"}
        assert "top1_agreement" in values
        assert not values.keys() & {"semantic_agreement", "image_embed_cosine"}
        assert 0.99 < values["region_names_cosine"] < 1  # something was rounded
        assert all(row.passed for row in record.gates)


def test_classifiers_of_regions_keep_what_boxes_hang_on(bundle: Bundle) -> None:
    graphs = bundle.manifest.graphs
    precisions = {
        name: [v.precision for v in getattr(graphs, name).variants] for name in GRAPHS - {"encoder"}
    }
    assert precisions == {
        "mask_decoder": ["fp32"],
        "roi_classifier": ["fp32"],
        "clip_roi": ["fp16", "fp32"],
        "text_encoder": ["fp16", "fp32"],
    }
    clip = onnx.load(str(bundle.path / "clip_roi.fp16.onnx"))
    clip = onnx.shape_inference.infer_shapes(clip)
    types = {value.name: value.type.tensor_type.elem_type for value in clip.graph.value_info}
    (region,) = [node for node in clip.graph.node if node.op_type == "RoiAlign"]
    assert types[region.output[0]] == onnx.TensorProto.FLOAT
    assert onnx.TensorProto.FLOAT16 in types.values()


def test_int8_is_what_a_cpu_takes(bundle: Bundle) -> None:
    with samclip.load(bundle.path, "onnxruntime") as model:
        found = model.encode(photo_paths()[2]).segment(boxes=BOXES, names=NAMES)
    with samclip.load(bundle.path, "onnxruntime", precision="fp32") as model:
        wanted = model.encode(photo_paths()[2]).segment(boxes=BOXES, names=NAMES)
    assert not np.array_equal(found.low_res_logits, wanted.low_res_logits)  # type: ignore[arg-type]
    assert {v.precision for v in bundle.manifest.graphs.encoder.variants} == {
        "int8_fp16",
        "fp16",
        "int8",
        "fp32",
    }


@pytest.mark.slow
def test_full_size(photos: Path, tmp_path: Path) -> None:
    """RN50x16, ViT-H's blocks and its own text tower at 1024 px."""
    config = OVSAM_CONFIGS["ovsam-rn50x16"]
    file = save_ovsam(
        small_assembly(random_ovsam(config, with_text=True)), tmp_path / "full.safetensors"
    )
    made = export_bundle(ExportOptions(file, tmp_path / "b", photos=photos))
    assert all(row.max_rel_error <= row.tolerance for row in made.manifest.parity)
    with samclip.load(made.path, "onnxruntime") as model:
        found = model.encode(photo_paths()[2]).segment(boxes=BOXES, names=NAMES)
    assert found.class_ids is not None
    assert found.packed.size == (400, 600)
