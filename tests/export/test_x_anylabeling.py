"""`samclip-export --for x-anylabeling`: the pair and the YAML, run as the program runs them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from typer.testing import CliRunner, Result
from x_anylabeling_program import Program

import samclip
from samclip.export import x_anylabeling
from samclip.export.cli import app

CUP = [172, 17, 410, 308]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("labels") / "tiny"
    options = ("--checkpoint", "samclip-tiny", "--for", "x-anylabeling", "-o", place)
    result = run(*options, "--no-verify", "--json")
    assert result.exit_code == 0, result.output
    names = [f"samclip-tiny.{ending}" for ending in ("decoder.onnx", "encoder.onnx", "yaml")]
    assert json.loads(result.stdout) == {"path": str(place), "files": names, "iou": None}
    assert sorted(each.name for each in place.iterdir()) == names
    again = run(*options)  # refused before anything is computed
    assert again.exit_code == 1 and "exists already" in again.output.replace("\n", " ")
    return place


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_the_program_gets_the_masks_of_the_runtime(written: Path, photo: NDArray[np.uint8]) -> None:
    program = Program(written / "samclip-tiny.yaml")
    assert program.config["name"] == "samclip-tiny"
    embedding = program.encode(photo)
    box = program.segment(embedding, [CUP[:2], CUP[2:]], [2, 3])
    click = program.segment(embedding, [[290, 150]], [1])
    # The same pixels: the same embedding.
    with (
        samclip.load(backend="onnxruntime", aspects="1:1") as model,
        model.encode(program.picture) as scene,
    ):
        # The bundle computes large maps in strips, which sums in another order.
        np.testing.assert_allclose(embedding, scene.image_embeddings, rtol=0, atol=5e-6)
        corners = np.asarray(CUP) * program.factor
        three = scene.segment(points=[np.asarray([290, 150]) * program.factor], multimask=True)
        wanted = [scene.segment(boxes=[corners]), three[int(np.argmax(three.scores))]]
    height, width = photo.shape[:2]
    for found, masks in zip((box, click), wanted, strict=True):
        assert found.shape == (height, width)
        used = masks.masks[0][: round(height * program.factor), : round(width * program.factor)]
        # The borders of masks that are thresholded before they are resized.
        small = np.asarray(torch.from_numpy(used)[None, None].float())
        resized = F.interpolate(torch.from_numpy(small), (height, width), mode="nearest")
        assert iou(found, resized[0, 0].numpy() > 0) > 0.97
    inside = box[CUP[1] : CUP[3], CUP[0] : CUP[2]].sum() / box.sum()
    assert inside > 0.95 and box.mean() > 0.1  # the cup, which the box is around


@pytest.mark.parametrize("size", [(684, 1024), (600, 400), (37, 1500)])
def test_masks_are_resized_as_segment_anything_does(written: Path, size: tuple[int, int]) -> None:
    program = Program(written / "samclip-tiny.yaml")
    generator = np.random.default_rng(0)
    embedding = generator.normal(0, 0.1, (1, 256, 64, 64)).astype(np.float32)
    feeds = {
        "image_embeddings": embedding,
        "point_coords": np.asarray([[[300, 200], [400, 260], [0, 0]]], np.float32),
        "point_labels": np.asarray([[1, 0, -1]], np.float32),
        "mask_input": generator.normal(0, 4, (1, 1, 256, 256)).astype(np.float32),
        "has_mask_input": np.ones(1, np.float32),
        "orig_im_size": np.asarray(size, np.float32),
    }
    masks, scores, low_res = program.decoder.run(None, feeds)
    assert scores.shape == (1, 1) and low_res.shape == (1, 1, 256, 256)
    large = F.interpolate(
        torch.from_numpy(low_res), (1024, 1024), mode="bilinear", align_corners=False
    )
    factor = 1024 / max(size)
    height, width = (int(side * factor + 0.5) for side in size)
    expected = F.interpolate(
        large[..., :height, :width], size, mode="bilinear", align_corners=False
    )
    # Float32 of two resizes; logits are tens.
    np.testing.assert_allclose(masks, expected.numpy(), atol=1e-3)


def test_the_graphs_are_what_the_program_checks(written: Path) -> None:
    for part in ("encoder", "decoder"):
        place = written / f"samclip-tiny.{part}.onnx"
        onnx.checker.check_model(str(place))  # the program's own check before it loads a model
        model = onnx.load(str(place))
        assert max(each.version for each in model.opset_import) <= 20
        assert model.ir_version <= 10  # of ONNX Runtime 1.18 and later
        floats = {each.type.tensor_type.elem_type for each in model.graph.input}
        assert floats == {onnx.TensorProto.FLOAT}
    assert [each.name for each in model.graph.output] == [
        "masks",
        "iou_predictions",
        "low_res_masks",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--fp16",), "--fp16 is for bundles"),
        (("--weights-dtype", "int8"), "--weights-dtype is for bundles"),
        (("--vocabulary", "names.txt"), "--vocabulary is for bundles"),
    ],
)
def test_options_of_bundles_are_refused(
    options: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("cat\n")
    result = run("--checkpoint", "samclip-tiny", "--for", "x-anylabeling", *options)
    assert result.exit_code != 0 and said in " ".join(result.output.split())
    assert [each.name for each in tmp_path.iterdir()] == ["names.txt"]


def test_only_a_pair_is_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    x_anylabeling.check_place(folder, overwrite=False)  # empty
    (folder / "a.yaml").write_text("type: segment_anything\n")
    with pytest.raises(samclip.ExportError, match="exists already"):
        x_anylabeling.check_place(folder, overwrite=False)
    x_anylabeling.check_place(folder, overwrite=True)
    (folder / "diary.txt").write_text("mine")
    with pytest.raises(samclip.ExportError, match="exists already"):
        x_anylabeling.check_place(folder, overwrite=True)


@pytest.mark.slow
def test_another_input_size_keeps_the_programs_coordinates(
    tmp_path: Path, photo: NDArray[np.uint8]
) -> None:
    place = tmp_path / "small"
    options = ("--checkpoint", "samclip-tiny", "--imgsz", 512, "--for", "x-anylabeling")
    result = run(*options, "-o", place, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["iou"] >= x_anylabeling.LEAST_IOU
    program = Program(place / "samclip-tiny.yaml")
    mask = program.segment(program.encode(photo), [CUP[:2], CUP[2:]], [2, 3])
    assert mask[CUP[1] : CUP[3], CUP[0] : CUP[2]].sum() / mask.sum() > 0.9
    assert mask.mean() > 0.1
