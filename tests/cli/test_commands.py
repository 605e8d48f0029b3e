"""The task commands on a stand-in for the model: options in, answers out."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_fakes import SIZE, FakeModel, Run, write_image
from PIL import Image
from pycocotools import mask as coco_mask

from samclip.cli.main import app
from samclip.errors import BackendUnavailableError, InputError

TASKS: dict[str, list[str]] = {
    "classify": ["--names", "car,bus"],
    "segment": ["--point", "16,8"],
    "semantic": ["--names", "car,bus"],
    "everything": [],
}


def decode(segmentation: dict[str, Any]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools' own, under numpy 2
        return coco_mask.decode(segmentation).astype(np.bool_)


@pytest.mark.parametrize("task", TASKS)
def test_json_is_one_document_on_stdout_and_nothing_else(
    task: str, model: FakeModel, run: Run, image: Path
) -> None:
    result = run(task, image, *TASKS[task], "--json")
    assert result.exit_code == 0
    assert result.stderr == ""
    record = json.loads(result.stdout)
    assert record["task"] == task
    assert record["image"] == str(image)
    assert record["bundle"] == "fake"
    assert record["trained_head"] is True
    assert record["picture"] is None
    assert list(Path().iterdir()) == [Path("in")]  # no picture was drawn
    assert model.closed


@pytest.mark.parametrize("task", ["segment", "semantic", "everything"])
def test_without_output_the_picture_goes_to_the_current_folder(
    task: str, model: FakeModel, run: Run, image: Path
) -> None:
    result = run(task, image, *TASKS[task])
    assert result.exit_code == 0
    picture = Path(f"street.{task}.png")
    with Image.open(picture) as drawn:
        assert drawn.size == SIZE[::-1]
    assert f"picture: {picture}" in result.stdout


def test_classify_draws_only_with_output(model: FakeModel, run: Run, image: Path) -> None:
    assert run("classify", image, *TASKS["classify"]).exit_code == 0
    assert not list(Path().glob("*.png"))
    assert run("classify", image, *TASKS["classify"], "-o", "a/b/out.png").exit_code == 0
    assert Path("a/b/out.png").is_file()


def test_output_and_json_go_together(model: FakeModel, run: Run, image: Path) -> None:
    result = run("segment", image, "--point", "16,8", "--json", "--output", "out.jpg")
    assert json.loads(result.stdout)["picture"] == "out.jpg"
    assert Path("out.jpg").is_file()


def test_segment_masks_are_coco_rle(model: FakeModel, run: Run, image: Path) -> None:
    boxes = ["--box", "1,2,20,20", "--box", "3,3,30,20"]
    record = json.loads(run("segment", image, *boxes, "--json").stdout)
    assert record["size"] == list(SIZE)
    assert [mask["prompt_index"] for mask in record["masks"]] == [0, 1]
    mask = decode(record["masks"][0]["segmentation"])
    assert mask.shape == SIZE
    assert mask[4:12, 8:24].all()
    assert mask.sum() == record["masks"][0]["area"] == 128


def test_semantic_regions_are_coco_rle(model: FakeModel, run: Run, image: Path) -> None:
    record = json.loads(run("semantic", image, "--names", "road,sky", "--json").stdout)
    regions = {found["name"]: decode(found["segmentation"]) for found in record["classes"]}
    assert regions["road"][:, :16].all()
    assert not regions["road"][:, 16:].any()
    assert (regions["sky"] == ~regions["road"]).all()


def test_everything_has_the_keys_of_the_original(model: FakeModel, run: Run, image: Path) -> None:
    record = json.loads(run("everything", image, "--names", "car", "--json").stdout)
    assert len(record["masks"]) == model.found
    first = record["masks"][0]
    assert first["bbox"] == [8, 4, 15, 7]  # XYWH, SAM's count: last pixel less first
    assert first["crop_box"] == [0, 0, SIZE[1], SIZE[0]]
    assert first["name"] == "car"
    assert {"segmentation", "area", "predicted_iou", "stability_score", "point_coords"} <= {*first}


def test_options_reach_the_model(model: FakeModel, run: Run, image: Path) -> None:
    where = ["--bundle", "b", "--backend", "cuda", "--precision", "fp16", "--threads", "2"]
    where += ["--streams", "3", "--max-pixels", "200000000"]
    assert run("segment", image, *where, "--box", "1,2,20,20", "--multimask").exit_code == 0
    given = {"name": "b", "backend": "cuda", "precision": "fp16", "threads": 2, "streams": 3}
    assert model.loaded == given | {"max_pixels": 200_000_000}
    ((task, asked),) = model.calls
    assert task == "segment"
    assert asked["boxes"] == [(1.0, 2.0, 20.0, 20.0)]
    assert asked["multimask"] is True
    assert asked["names"] is None


def test_prompts_reach_the_scene(model: FakeModel, run: Run, image: Path) -> None:
    points = ["--point", "1,2", "-p", "3,4.5", "--label", "1", "--label", "0"]
    assert run("segment", image, *points, "--names", "a,b", "--templates", "none").exit_code == 0
    asked = model.calls[0][1]
    assert (asked["points"], asked["labels"]) == ([(1.0, 2.0), (3.0, 4.5)], [1, 0])
    assert (asked["names"], asked["templates"]) == (["a", "b"], "none")


def test_options_of_everything_reach_the_scene(model: FakeModel, run: Run, image: Path) -> None:
    options = ["--points-per-side", "8", "--pred-iou-thresh", "0.5", "--min-mask-region-area", "10"]
    assert run("everything", image, *options).exit_code == 0
    asked = model.calls[0][1]
    assert (asked["points_per_side"], asked["pred_iou_thresh"]) == (8, 0.5)
    assert asked["min_mask_region_area"] == 10


def test_names_come_from_a_file_too(model: FakeModel, run: Run, image: Path) -> None:
    Path("labels.txt").write_text("washbasin, sink\nbus\n")
    options = ["--labels", "labels.txt", "--refine", "--background", "0.3"]
    assert run("semantic", image, *options).exit_code == 0
    asked = model.calls[0][1]
    assert asked["names"] == ["washbasin, sink", "bus"]
    assert (asked["refine"], asked["background"]) == (True, 0.3)


def test_table_for_people_shows_the_best_names(model: FakeModel, run: Run, image: Path) -> None:
    result = run("classify", image, "--names", "cat,[bold]dog,bus", "--top", "2")
    assert result.stdout.index("bus") < result.stdout.index("[bold]dog")
    assert "cat" not in result.stdout
    assert "66.5%" in result.stdout  # softmax of 0, 1, 2


def test_names_that_stdout_cannot_encode_are_escaped(
    model: FakeModel, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, "ascii", write_through=True))
    app(["classify", str(image), "--names", "caf\xe9,\udcff"], standalone_mode=False)
    assert b"caf\\xe9" in written.getvalue()
    assert b"\\xff" in written.getvalue()  # the byte that it stands for


def test_long_lists_are_cut_with_a_note(model: FakeModel, run: Run, image: Path) -> None:
    model.found = 50
    assert "30 more" in run("everything", image).stdout


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
@pytest.mark.parametrize(
    "arguments",
    [
        ["classify", "--names", "car"],
        ["semantic", "--names", "car,bus"],
        ["segment", "--point", "16,8", "--names", "car"],
        ["everything", "--names", "car"],
    ],
)
def test_untrained_head_is_reported_every_time(
    arguments: list[str], json_flag: list[str], model: FakeModel, run: Run, image: Path
) -> None:
    model.trained = False
    for _ in range(2):
        result = run(*arguments, image, *json_flag)
        assert result.exit_code == 0
        assert result.stderr.count("UNTRAINED") == 1
        assert not json_flag or json.loads(result.stdout)["trained_head"] is False


def test_untrained_head_is_silent_without_names(model: FakeModel, run: Run, image: Path) -> None:
    model.trained = False
    result = run("segment", image, "--point", "16,8", "--json")
    assert result.stderr == ""
    assert json.loads(result.stdout)["trained_head"] is False


def test_series_keeps_order_and_writes_a_folder(model: FakeModel, run: Run) -> None:
    for name in ("b.png", "a.png", "c.png"):
        write_image(Path("in") / name)
    result = run("segment", "in", "--point", "16,8", "--json", "--output", "out")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(line["image"]).name for line in lines] == ["a.png", "b.png", "c.png"]
    assert [Path(line["picture"]) for line in lines] == sorted(Path("out").iterdir())
    assert model.loaded["streams"] == 2  # of one image, one


def test_series_has_the_same_answers_on_one_stream(model: FakeModel, run: Run) -> None:
    for name in ("b.png", "a.png", "c.png"):
        write_image(Path("in") / name)
    (Path("in") / "bad.png").write_bytes(b"no image")
    asked = ("segment", "in", "--point", "16,8", "--json")
    answers = [run(*asked, "--streams", streams) for streams in ("1", "2", "4")]
    assert [answer.exit_code for answer in answers] == [1, 1, 1]
    assert len({answer.stdout for answer in answers}) == 1
    assert len(answers[0].stdout.splitlines()) == 4


def test_series_without_output_gets_a_new_folder(model: FakeModel, run: Run) -> None:
    write_image(Path("in/a.png"))
    assert run("segment", "in", "--point", "16,8").exit_code == 0
    assert Path("samclip-segment/a.segment.png").is_file()


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_bad_file_in_a_series_is_reported_and_the_rest_goes_on(
    json_flag: list[str], model: FakeModel, run: Run
) -> None:
    write_image(Path("in/a.png"))
    Path("in/b.png").write_bytes(b"not an image")
    write_image(Path("in/c.png"))
    result = run("segment", "in", "--point", "16,8", *json_flag)
    assert result.exit_code == 1
    assert len(model.calls) == 2
    assert "in/b.png" in result.stderr
    assert "1 of 3 images failed" in result.stderr
    if json_flag:
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert ["error" in line for line in lines] == [False, True, False]
        assert lines[1]["error"]["type"] == "ImageError"


def test_bad_single_file_is_bad_input(model: FakeModel, run: Run) -> None:
    Path("b.png").write_bytes(b"not an image")
    result = run("segment", "b.png", "--point", "16,8", "--json")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segment", "nowhere.png", "--point", "1,2"], "there is no image nowhere.png"),
        (["segment", "in/street.png"], "nothing to segment"),
        (["segment", "in/street.png", "--point", "1;2"], "X,Y in pixels"),
        (["segment", "in/street.png", "--point", "999,2"], "outside the image"),
        (["segment", "in/street.png", "--point", "1,2", "--label", "7"], "must be 1"),
        (["classify", "in/street.png"], "needs names"),
        (["semantic", "in/street.png", "--labels", "no.txt"], "no file no.txt"),
        (["segment", "in", "--point", "1,2", "--output", "x.png"], "Give a folder"),
        (["segment", "in/street.png", "--point", "1,2", "-o", "in/street.png"], "replace"),
        (["segment", "in/street.png", "--point", "1,2", "--precision", "fp8"], "fp8"),
        (["everything", "in/street.png", "--threads", "0"], "threads"),
        (["segment"], "IMAGE"),
        (["segmet", "in/street.png"], "segment"),
    ],
)
def test_wrong_usage_is_two_with_a_message(
    arguments: list[str], message: str, model: FakeModel, run: Run, image: Path
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [(BackendUnavailableError("no GPU; install ..."), 1), (InputError("bad"), 2)],
)
def test_errors_while_loading_are_one_message(
    error: Exception,
    code: int,
    model: FakeModel,
    run: Run,
    image: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("samclip.load", fail)
    result = run("segment", image, "--point", "1,2")
    assert result.exit_code == code
    assert result.stderr == f"error: {error}\n"


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_debug_shows_the_error_itself(
    how: str, model: FakeModel, run: Run, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "variable":
        monkeypatch.setenv("SAMCLIP_DEBUG", "1")
    flag = ["--debug"] if how == "flag" else []
    result = run("segment", image, *flag)
    assert isinstance(result.exception, InputError)


@pytest.mark.parametrize("variable", [None, ""])
def test_without_a_name_the_default_bundle_is_loaded(
    variable: str | None, run: Run, model: FakeModel, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is None:
        monkeypatch.delenv("SAMCLIP_BUNDLE")
    else:
        monkeypatch.setenv("SAMCLIP_BUNDLE", variable)
    assert run("classify", image, "--names", "a,b").exit_code == 0
    assert model.loaded["name"] is None
