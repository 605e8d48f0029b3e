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
from typer.testing import CliRunner

from samclip.cli.main import app
from samclip.errors import BackendUnavailableError, InputError
from samclip.runtime.results.drawing import save_picture
from samclip.runtime.results.masks import AutoMasks

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
        width, height = drawn.size
    assert width == 10 * SIZE[1]  # a small image is enlarged
    assert (height > 10 * SIZE[0]) == (task == "semantic")  # names have a legend
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
    where += ["--streams", "3", "--max-pixels", "200000000", "--device", "cuda:1"]
    assert run("segment", image, *where, "--box", "1,2,20,20", "--multimask").exit_code == 0
    given = {"name": "b", "backend": "cuda", "precision": "fp16", "threads": 2, "streams": 3}
    rest = {"device": "cuda:1", "max_pixels": 200_000_000, "timeout": None}
    rest["engine_precision"] = None
    assert model.loaded == given | rest
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
    options.append("--adaptive")
    assert run("everything", image, *options).exit_code == 0
    asked = model.calls[0][1]
    assert (asked["points_per_side"], asked["pred_iou_thresh"]) == (8, 0.5)
    assert (asked["min_mask_region_area"], asked["adaptive"]) == (10, True)


def test_names_come_from_a_file_too(model: FakeModel, run: Run, image: Path) -> None:
    Path("labels.txt").write_text("washbasin, sink\nbus\n")
    options = ["--labels", "labels.txt", "--refine", "--background", "0.6"]
    assert run("semantic", image, *options).exit_code == 0
    asked = model.calls[0][1]
    assert asked["names"] == ["washbasin, sink", "bus"]
    assert (asked["refine"], asked["background"]) == (True, 0.6)


@pytest.mark.parametrize(
    ("options", "floor"),
    [
        (["--names", "car,bus,cat"], 0.5),
        (["--names", "car,bus,cat", "--background", "0"], None),
        (["--names", "car,bus"], None),  # the best of two has at least 0.5
        (["--names", "car,bus", "--background", "0.6"], 0.6),
        (["--names", "car"], None),  # its probability is 1 everywhere
    ],
)
def test_pixels_need_a_majority_for_a_name(
    options: list[str], floor: float | None, model: FakeModel, run: Run, image: Path
) -> None:
    assert run("semantic", image, *options).exit_code == 0
    assert model.calls[0][1]["background"] == floor


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


@pytest.mark.parametrize(
    ("task", "options", "row"),
    [
        ("classify", ["--names", "car,bus"], "bus 73%, car 27%"),
        ("segment", ["--point", "16,8", "--names", "car"], "1 mask: car"),
        ("semantic", ["--names", "car,bus"], "car 50%, bus 50%"),
        ("everything", ["--names", "car"], "3 masks: car (3)"),
        ("everything", [], "3 masks"),
    ],
)
def test_a_series_has_a_row_a_photo(
    task: str, options: list[str], row: str, model: FakeModel, run: Run
) -> None:
    for name in ("a.png", "longer.png", "sub/c.png"):
        write_image(Path("in") / name)
    result = run(task, "in", "--recursive", *options, "--output", "out")
    assert result.exit_code == 0, result.output
    rows = [f"{name:<13}  {row}" for name in ("in/a.png", "in/longer.png", "in/sub/c.png")]
    assert result.stdout.splitlines() == [*rows, "pictures in out: 3 files"]


def test_rows_fit_the_terminal_unless_wide(
    model: FakeModel, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = ",".join(f"a rather long name {letter}" for letter in "abcdef")
    for name in ("a.png", "b" * 60 + ".png"):
        write_image(Path("in") / name)
    narrow = run("classify", "in", "--names", names).stdout.splitlines()
    assert all(len(line) == 80 and line.endswith("…") for line in narrow)
    wide = run("classify", "in", "--names", names, "--wide").stdout.splitlines()
    assert all("name f" in line and "…" not in line for line in wide)


def test_names_are_not_broken_at_80_columns(
    model: FakeModel, run: Run, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = "a delivery van with an open sliding door"
    options = ("segment", image, "--box", "1,2,20,20", "--names", name)
    narrow, wide = run(*options).stdout, run(*options, "--wide").stdout
    assert name in narrow
    assert "box x1,y1,x2,y2, object: see --wide" in narrow
    table = [line for line in narrow.splitlines() if str(image) not in line]  # not the path above
    assert max(map(len, table)) <= 80
    assert name in wide
    assert "8,4,24,12" in wide
    assert max(map(len, wide.splitlines())) > 80


def test_the_best_masks_are_drawn_and_listed(
    model: FakeModel, run: Run, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[dict[str, Any]] = []
    monkeypatch.setattr(AutoMasks, "save", lambda self, path, **options: drawn.append(options))
    result = run("everything", image, "--top", "2", "--captions", "all")
    assert drawn == [{"captions": "all", "top": 2}]
    assert "1 more; --json lists all" in result.stdout
    assert len(json.loads(run("everything", image, "--top", "2", "--json").stdout)["masks"]) == 3


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


@pytest.mark.parametrize("task", ["segment", "everything"])
def test_masks_become_files(task: str, model: FakeModel, run: Run, image: Path) -> None:
    result = run(task, image, *TASKS[task], "--masks", "masks")
    assert result.exit_code == 0, result.stderr
    files = sorted(Path("masks").iterdir())
    assert [file.name for file in files] == [
        f"street.{number:03d}.png" for number in range(1 if task == "segment" else model.found)
    ]
    mask = np.asarray(Image.open(files[0]))
    assert (mask.dtype, mask.shape) == (np.uint8, SIZE)
    assert set(mask.flat) == {0, 255}
    assert mask[4:12, 8:24].all()
    assert "masks: " in result.stdout
    assert not list(Path().glob("*.png"))  # no picture unless --output asks for it


def test_a_map_becomes_an_index_file(model: FakeModel, run: Run, image: Path) -> None:
    options = ["--names", "road,sky", "--masks", "maps", "--json", "-o", "out.png"]
    result = run("semantic", image, *options)
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert (record["mask_files"], record["picture"]) == (["maps/street.png"], "out.png")
    labels = np.asarray(Image.open("maps/street.png"))
    assert labels.dtype == np.uint8
    assert (labels[:, :16] == 0).all()
    assert (labels[:, 16:] == 1).all()


@pytest.mark.parametrize("task", ["segment", "semantic", "everything"])
def test_a_folder_becomes_a_data_set(task: str, model: FakeModel, run: Run) -> None:
    write_image(Path("in/a.png"))
    Path("in/b.png").write_bytes(b"not an image")
    write_image(Path("in/below/a.png"))
    options = [*TASKS[task], "--recursive", "--save"]
    result = run(task, "in", *options, "coco")
    assert result.exit_code == 1
    assert "coco data set in samclip-coco: 2 images" in result.stdout
    document = json.loads(Path("samclip-coco/annotations.json").read_text("utf-8"))
    assert [each["file_name"] for each in document["images"]] == ["a.png", "below/a.png"]
    assert {each["image_id"] for each in document["annotations"]} == {1, 2}
    assert not list(Path().glob("*.png"))
    assert not list(Path().glob("samclip-*/*.png"))
    result = run(task, "in/a.png", *options, "yolo", "--save-to", "set", "--json")
    assert json.loads(result.stdout)["data_set"] == "set"
    assert Path("set/images/a.png").read_bytes() == Path("in/a.png").read_bytes()
    calls = len(model.calls)
    for arguments, message in (
        ([*options, "yolo", "--save-to", "set"], "not empty"),
        ([*options, "yolov8"], "did you mean 'yolo'"),
        ([*TASKS[task], "--save-to", "other"], "needs a format"),
        (["in/a.png", *options, "yolo"], "given twice"),
        ([*options, "yolo", "--save-to", "in/a.png"], "Not a directory"),
    ):
        result = run(task, "in/a.png", *arguments)
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.split())
    assert len(model.calls) == calls, "refused before the model runs"


def test_a_map_never_replaces_the_photo(model: FakeModel, run: Run, image: Path) -> None:
    before = image.read_bytes()
    result = run("semantic", image, "--names", "road,sky", "--masks", image.parent)
    assert result.exit_code == 2
    assert "would replace the image" in result.stderr
    assert image.read_bytes() == before
    assert model.calls == []


def test_an_image_on_stdin(model: FakeModel, image: Path) -> None:
    options = ["segment", "-", "--point", "16,8", "--json", "-o", "out/"]
    result = CliRunner().invoke(app, options, input=image.read_bytes())
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert (record["image"], record["picture"]) == ("-", "out/stdin.segment.png")
    assert Path("out/stdin.segment.png").is_file()


def test_what_a_folder_leaves_out_is_one_line_on_stderr(model: FakeModel, run: Run) -> None:
    for name in ("a.png", "b.jfif", "sub/c.png"):
        write_image(Path("in/a.png")).parent.joinpath("sub").mkdir(exist_ok=True)
        Path("in", name).write_bytes(Path("in/a.png").read_bytes())
    Path("in/no\x1bte\n.txt").touch()
    result = run("everything", "in", "--json")
    assert result.exit_code == 0
    lines = [json.loads(line)["image"] for line in result.stdout.splitlines()]
    assert lines == ["in/a.png", "in/b.jfif"]
    assert result.stderr == (
        "note: left out of in: files that are not images: 1 (no\\x1bte\\n.txt); "
        "folders, which are not searched: 1 (sub)\n"
    )


@pytest.mark.parametrize("streams", ["1", "2"])
def test_a_warning_about_the_input_is_one_line_for_a_series(
    streams: str, model: FakeModel, run: Run
) -> None:
    for size in (600, 640, 700):
        save_picture(np.zeros((size, 400, 3), np.uint8), Path(f"in-{size}.png"))
    files = sorted(Path().glob("in-*.png"))
    options = ("--box", "0.1,0.1,0.5,0.5", "--json", "--streams", streams)
    result = run("segment", *files, *options)
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.splitlines()) == 3
    (line,) = result.stderr.splitlines()
    assert line.startswith("warning: box (0.1, 0.1, 0.5, 0.5) lies in [0, 1]")


@pytest.mark.parametrize("option", ["--output", "--masks"])
def test_a_name_that_is_too_long_fails_alone(option: str, model: FakeModel, run: Run) -> None:
    for stem in ("a", "b" * 250, "c"):
        write_image(Path("in") / f"{stem}.png")
    result = run("everything", "in", "--json", option, "out")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert ["error" in answer for answer in answers] == [False, True, False]
    assert "shorter name" in answers[1]["error"]["message"]
    assert result.exit_code == 1
    assert sorted({path.name[0] for path in Path("out").iterdir()}) == ["a", "c"]


@pytest.mark.parametrize("folder", ["in", "in/out"])
def test_pictures_of_an_earlier_run_are_not_answered(
    folder: str, model: FakeModel, run: Run
) -> None:
    write_image(Path("in/a.png"))
    for _ in range(2):
        result = run("everything", "in", "--output", folder, "--masks", folder)
        assert result.exit_code == 0
    masks = [f"a.{number:03d}.png" for number in range(model.found)]
    names = {path.name for path in Path(folder).iterdir()} - {"a.png"}
    assert sorted(names) == [*masks, "a.everything.png"]
    assert len(model.calls) == 2
    assert folder != "in" or "pictures that samclip made: 4" in result.stderr


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
        (["semantic", "in/street.png", "--labels", "no.txt"], "no.txt cannot be read"),
        (["segment", "in", "--point", "1,2", "--output", "x.png"], "Give a folder"),
        (["segment", "in/street.png", "--point", "1,2", "-o", "in/street.png"], "replace"),
        (["segment", "in/street.png", "--point", "1,2", "--precision", "fp8"], "fp8"),
        (["segment", "in/street.png", "--point", "1,2", "-o", "x.json"], "--json > FILE"),
        (["classify", "https://example.com/a.jpg", "-n", "a,b"], "-o a.jpg https://example.com/"),
        (["classify", "in/street.png", "--labels", "https://a.b/c.txt"], "curl -fL -o c.txt"),
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
