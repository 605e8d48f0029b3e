"""`samclip-bench accuracy`: what the command reads, prints and writes; the model is a fake."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_data import Made, rectangle, save, stripes, write_camvid, write_coco
from made_layouts import write_voc

from samclip.benchmarks.data.label_layouts import LAYOUTS

Bench = Callable[..., Any]
COMMANDS = ("instances", "names", "images", "semantic", "baselines")


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    objects = [Made("red", rectangle(0, 0, 64, 64)), Made("green", rectangle(160, 0, 224, 64))]
    photos = {f"{name}.png": (stripes(0, 2), objects) for name in "abcd"}
    return write_coco(tmp_path / "coco", photos)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    return tmp_path / "report.json"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes())


def figures(path: Path) -> dict[tuple[str, str, str], float]:
    rows = read(path)["rows"]
    return {(row["model"], row["measure"], row["subset"]): row["value"] for row in rows}


def test_instances(bench: Bench, coco: Path, report: Path, loads: list, tmp_path: Path) -> None:
    options = ("--against", "other", "--threads", "2", "--json", report)
    result = bench("accuracy", "instances", coco, "-b", "mine", *options)
    assert result.exit_code == 0, result.stderr
    assert "box mIoU" in result.stdout
    assert "95 % interval" in result.stdout
    assert [call["name"] for call in loads] == ["mine", "other"]
    assert all(call["threads"] == 2 for call in loads)
    record = read(report)
    assert record["benchmark"] == "accuracy instances"
    assert [subject["role"] for subject in record["subjects"]] == ["measured", "against"]
    assert [subject["name"] for subject in record["subjects"]] == ["fake", "fake (against)"]
    digest = hashlib.sha256((tmp_path / "bundle" / "manifest.json").read_bytes()).hexdigest()
    assert record["subjects"][0]["manifest_sha256"] == digest
    assert record["data"]["photos"] == record["data"]["photos_there"] == 4
    assert figures(report)["fake / fake (against)", "box mIoU", "all objects"] == 1.0
    assert record["protocol"]


def test_instances_of_a_detector(
    bench: Bench, coco: Path, report: Path, loads: list, tmp_path: Path
) -> None:
    boxes = tmp_path / "boxes.json"
    finds = [(7, 1, [0, 0, 64, 64], 0.9), (8, 1, [0, 0, 64, 64], 0.8), (99, 1, [0, 0, 9, 9], 1)]
    names = ("image_id", "category_id", "bbox", "score")
    boxes.write_text(json.dumps([dict(zip(names, find, strict=True)) for find in finds]))
    options = ("--boxes", boxes, "--json", report)
    result = bench("accuracy", "instances", coco, "-b", "x", *options)
    assert result.exit_code == 0, result.stderr
    found = figures(report)
    # two of the four red squares, at precision 1: 51 of the 101 recalls; no green one
    assert found["fake", "box AP50", "all objects"] == pytest.approx(51 / 101 / 2)
    assert ("fake", "box again AP", "all objects") in found
    assert read(report)["data"]["left_out"] == {"boxes of other photos": 1}
    options = ("--boxes", boxes, "--annotations", "instances.json", "--no-refine")
    result = bench("accuracy", "instances", coco, "-b", "x", *options, "--json", report)
    assert result.exit_code == 0, result.stderr
    assert ("fake", "box again AP", "all objects") not in figures(report)


def test_no_bundle_named_is_the_default_one(
    bench: Bench, coco: Path, loads: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAMCLIP_BUNDLE", raising=False)
    assert bench("accuracy", "instances", coco).exit_code == 0
    assert [call["name"] for call in loads] == [None]


def test_limit_takes_some_of_the_photos(
    bench: Bench, coco: Path, report: Path, loads: list
) -> None:
    result = bench("accuracy", "instances", coco, "-b", "x", "--limit", "2", "--json", report)
    assert result.exit_code == 0, result.stderr
    record = read(report)
    assert (record["data"]["photos"], record["data"]["photos_there"]) == (2, 4)
    assert {row["photos"] for row in record["rows"]} == {2}


def test_everything(bench: Bench, coco: Path, report: Path, loads: list) -> None:
    grids = ("--points-per-side", "4", "--coarser", "3", "--coarser", "2", "--coarser", "4")
    result = bench(
        "accuracy", "everything", coco, "-b", "x", *grids, "--limit", 2, "--json", report
    )
    assert result.exit_code == 0, result.stderr
    assert "points tried" in result.stdout
    assert read(report)["data"]["photos"] == 2
    models = {model for model, measure, _ in figures(report) if measure == "objects found"}
    others = [f"{side} x {side} points" for side in (4, 3, 2)]
    assert models == {"adaptive", *others, *(f"adaptive / {other}" for other in others)}
    assert bench("accuracy", "everything", coco, "--points-per-side", "1").exit_code == 2


def test_names(bench: Bench, coco: Path, report: Path, loads: list) -> None:
    arguments = ("accuracy", "names", coco, "-b", "x", "--without", "green", "--json", report)
    result = bench(*arguments)
    assert result.exit_code == 0, result.stderr
    found = figures(report)
    assert found["fake in one pass", "name top-1", "all objects"] == 0.5
    assert found["fake in one pass", "name top-1", "all objects, without green"] == 1.0
    assert found["fake on crops", "name top-1", "all objects"] == 0.5
    result = bench(*arguments, "--no-crops")
    assert result.exit_code == 0, result.stderr
    assert not any(model == "fake on crops" for model, _, _ in figures(report))


def test_synonyms_ask_for_a_class_by_other_words(
    bench: Bench, coco: Path, report: Path, loads: list, tmp_path: Path
) -> None:
    synonyms = tmp_path / "synonyms.json"
    synonyms.write_text(json.dumps({"green": ["blue"], "blue": ["green"]}))
    options = ("--synonyms", synonyms, "--no-crops", "--json", report)
    result = bench("accuracy", "names", coco, "-b", "x", *options)
    assert result.exit_code == 0, result.stderr
    assert figures(report)["fake in one pass", "name top-1", "all objects"] == 1.0


def test_images(bench: Bench, report: Path, loads: list, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for name, colour in (("n00000001_red", 0), ("n00000002_green", 1), ("n00000003_blue", 0)):
        save(stripes(colour), folder / f"{name}.png")
    # The fake embeds no other sentences; that sentences are compared is what this shows.
    templates = ("--templates", "none", "--against-templates", "{}")
    result = bench("accuracy", "images", folder, "-b", "x", "--json", report, *templates)
    assert result.exit_code == 0, result.stderr
    found = figures(report)
    assert found["fake", "image top-1", "all photos"] == pytest.approx(2 / 3)
    assert found["fake with templates {}", "image top-1", "all photos"] == pytest.approx(2 / 3)
    assert found["fake / fake with templates {}", "image top-5", "all photos"] == 1.0
    only = tmp_path / "only.txt"
    only.write_text("n00000001_red.png\n")
    result = bench("accuracy", "images", folder, "-b", "x", "--only", only, "--json", report)
    assert result.exit_code == 0, result.stderr
    assert figures(report)["fake", "image top-1", "all photos"] == 1.0
    assert read(report)["data"]["photos_there"] == 3


def test_a_teacher_names_in_its_own_text_space(
    bench: Bench,
    report: Path,
    loads: list,
    coco: Path,
    tmp_path: Path,
    recogniser_checkpoint: Path,
    text_checkpoint: Path,
) -> None:
    """As for samclip-tiny, whose space has the taught names, and the teacher's has not."""
    for name, colour in (("n00000001_red", 0), ("n00000002_green", 1)):
        save(stripes(colour), tmp_path / "photos" / f"{name}.png")
    given = (f"classifier={recogniser_checkpoint}", f"text={text_checkpoint}", "dense_size=64")
    options = [word for option in given for word in ("--teacher-option", option)]
    teacher = ("-b", "x", "--teacher", "conse", *options, "--json", report)
    for command, folder, first, other in (
        ("images", tmp_path / "photos", "fake", "conse by names"),
        ("names", coco, "fake in one pass", "conse on crops"),
        ("baselines", coco, "fake", "crop-image"),
    ):
        more = ("--sam", "x") if command == "baselines" else ()
        result = bench("accuracy", command, folder, *teacher, *more)
        assert result.exit_code == 0, result.stderr
        found = {model for model, _, _ in figures(report)}
        assert {first, other, f"{first} / {other}"} <= found, found


def test_semantic(bench: Bench, report: Path, loads: list, tmp_path: Path) -> None:
    truth = np.zeros((256, 256), np.uint8)
    truth[:, 128:] = 2
    folder = write_camvid(tmp_path / "camvid", {"a": (stripes(0, 2), truth)})
    options = ("--untrained", "untrained", "--json", report)
    result = bench("accuracy", "semantic", folder, "-b", "x", *options)
    assert result.exit_code == 0, result.stderr
    found = figures(report)
    assert found["fake coarse", "mIoU", "labelled pixels"] == 1.0
    assert found["fake (untrained) coarse", "mIoU", "labelled pixels"] == 1.0
    assert ("fake (untrained) refined", "mIoU", "labelled pixels") in found
    assert found["'red' everywhere", "mIoU", "labelled pixels"] == 0.25
    assert [subject["trained_head"] for subject in read(report)["subjects"]] == [True, False]
    assert "UNTRAINED" not in result.stderr  # the one measured is trained
    assert found["fake coarse", "IoU", "blue"] == 1.0  # of a single class: in the file alone
    assert "'red' everywhere" in result.stdout
    assert " blue " not in result.stdout


def test_semantic_takes_coco_too(bench: Bench, coco: Path, report: Path, loads: list) -> None:
    result = bench("accuracy", "semantic", coco, "-b", "x", "--no-refine", "--json", report)
    assert result.exit_code == 0, result.stderr
    assert read(report)["data"]["layout"] == "COCO, painted"
    assert figures(report)["fake coarse", "IoU", "red"] == 1.0
    assert figures(report)["fake coarse", "IoU", "green"] == 0.0
    result = bench("accuracy", "semantic", coco, "-b", "x", "--denoise", "0.5", "--json", report)
    assert result.exit_code == 0, result.stderr
    kinds = ("coarse", "refined", "coarse, denoised at 0.5", "refined, denoised at 0.5")
    found = figures(report)
    assert all(("fake " + kind, "mIoU", "labelled pixels") in found for kind in kinds)


def test_semantic_with_and_without_background(
    bench: Bench, report: Path, loads: list, tmp_path: Path
) -> None:
    truth = np.zeros((256, 256), np.uint8)
    truth[:, 128:] = 20
    truth[:, 128:160] = 255
    folder = write_voc(tmp_path / "VOC2012", {"a": (stripes(0, 2), truth)})
    texts = {found.name: ["green"] for found in LAYOUTS["voc"].classes}
    synonyms = tmp_path / "synonyms.json"
    synonyms.write_text(
        json.dumps({**texts, "background": ["green", "red"], "tvmonitor": ["blue"]})
    )
    options = ("--synonyms", synonyms, "--no-refine", "--json", report)
    result = bench("accuracy", "semantic", folder, "-b", "x", *options)
    assert result.exit_code == 0, result.stderr
    found = figures(report)
    assert found["fake coarse", "mIoU", "with background, 21 classes"] == 1.0
    assert found["fake coarse", "mIoU", "without background, 20 classes"] == 1.0
    assert read(report)["data"]["layout"] == "PASCAL VOC, val"
    result = bench("accuracy", "semantic", folder, "-b", "x", *options, "--background", "0.9")
    assert result.exit_code == 0, result.stderr
    assert figures(report)["fake coarse", "IoU", "tvmonitor, with background, 21 classes"] > 0.9
    camvid = write_camvid(tmp_path / "camvid", {"a": (stripes(0, 2), truth // 255)})
    result = bench("accuracy", "semantic", camvid, "-b", "x", "--background", "0.5")
    assert result.exit_code == 2
    assert "has no class background" in result.stderr


def test_baselines(bench: Bench, coco: Path, report: Path, loads: list) -> None:
    options = ("--sam", "sam", "--clip", "clip", "--json", report)
    result = bench("accuracy", "baselines", coco, "-b", "merged", *options)
    assert result.exit_code == 0, result.stderr
    found = figures(report)
    for name in ("fake", "crop-image", "crop-feature"):
        assert found[name, "box name top-1", "all objects"] == 0.5
        assert found[name, "box seconds a photo", "all photos"] > 0
        assert found[name, "vision parameters", "all graphs"] == 0.0  # a fake's graphs are empty
    roles = [subject["role"] for subject in read(report)["subjects"]]
    assert roles == ["measured", "masks of baselines", "names of baselines"]


def test_baselines_beside_other_bundles(
    bench: Bench, coco: Path, report: Path, loads: list, tmp_path: Path
) -> None:
    novel = tmp_path / "novel.txt"
    novel.write_text("green\nblue\n")
    models = ("--beside", "regions", "--beside", "regions untrained", "--sam", "sam")
    options = ("--clip", "clip", "--novel", novel, "--prompt", "box", "--prompt", "point")
    arguments = (coco, "-b", "merged", *models, *options, "--json", report)
    result = bench("accuracy", "baselines", *arguments)
    assert result.exit_code == 0, result.stderr
    assert [call["name"] for call in loads] == [
        *("merged", "regions", "regions untrained"),
        *("sam", "clip"),
    ]
    found = figures(report)
    names = ("fake", "fake (beside)", "fake (beside 2)", "crop-image", "crop-feature")
    for name in names:
        for kind in ("box", "point"):
            assert found[name, f"{kind} mIoU", "novel classes"] > 0
            assert found[name, f"{kind} seconds a photo", "all photos"] > 0
    # its classifier is right of red, and is believed only of what it has seen
    assert found["fake (beside)", "box name top-1", "base classes"] == 1.0
    assert result.stderr.count("UNTRAINED") == 1
    assert "prompt: point" in result.stdout
    page = tmp_path / "page.html"
    assert bench("report", report, "--output", page).exit_code == 0
    text = page.read_text("utf-8")
    assert "one pass, and two models in a row" in text
    assert "fake (beside 2) (UNTRAINED: names mean nothing)" in text
    assert "fake (beside) (UNTRAINED" not in text
    assert "point mIoU, all objects" in text  # plotted against the seconds of points
    assert bench("compare", report, report).exit_code == 0


def test_agreement(bench: Bench, coco: Path, report: Path, loads: list) -> None:
    precisions = ("--reference-precision", "fp32", "--precision", "fp16")
    arguments = ("agreement", "one", "two", coco / "images", "--limit", "2", "--json", report)
    result = bench(*arguments, *precisions)
    assert result.exit_code == 0, result.stderr
    assert [(call["name"], call["precision"]) for call in loads] == [
        ("one", "fp32"),
        ("two", "fp16"),
    ]
    found = figures(report)
    assert found["fake (compared)", "mask IoU", "all photos"] == 1.0
    assert found["fake (compared)", "same name", "all photos"] == 1.0
    assert read(report)["data"]["photos_there"] == 4
    assert [subject["role"] for subject in read(report)["subjects"]] == ["reference", "compared"]
    result = bench(
        "agreement", "one", "untrained", coco / "images", "--limit", "1", "--json", report
    )
    assert result.exit_code == 0, result.stderr
    assert "never trained" in result.stderr
    assert "same name" not in {row["measure"] for row in read(report)["rows"]}
    assert "mask IoU" in {row["measure"] for row in read(report)["rows"]}


def test_an_untrained_head_is_told(bench: Bench, coco: Path, loads: list) -> None:
    result = bench("accuracy", "names", coco, "-b", "untrained", "--no-crops")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("UNTRAINED") == 1
    result = bench("accuracy", "instances", coco, "-b", "untrained")
    assert "UNTRAINED" not in result.stderr  # masks are not affected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("instances", "nowhere"), "instances.json cannot be read"),
        (("baselines", "COCO", "--sam", "x"), "give --clip BUNDLE or --teacher"),
        (("baselines", "COCO", "--sam", "x", "--clip", "y", "--teacher", "conse"), "one second"),
        (
            ("baselines", "COCO", "--sam", "x", "--clip", "y", "--prompt", "mask"),
            "'mask' is not a kind",
        ),
        (
            ("baselines", "COCO", "--sam", "x", "--clip", "y", "--novel", "red,grean"),
            "did you mean 'green'",
        ),
        (("names", "COCO", "--teacher", "conse", "--teacher-option", "topk=3"), "'top_k'"),
        (("names", "COCO", "--teacher", "conse", "--teacher-option", "top_k=x"), "top_k"),
        (("names", "COCO", "--synonyms", "nowhere.json"), "nowhere.json cannot be read"),
        (("instances", "COCO", "--json", "no/such/folder/x.json"), "cannot be written"),
    ],
)
def test_mistakes_are_told_without_a_traceback(
    arguments: tuple[str, ...], message: str, bench: Bench, coco: Path, loads: list
) -> None:
    given = [str(coco) if argument == "COCO" else argument for argument in arguments]
    result = bench("accuracy", *given, "-b", "x")
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_place_for_the_report_is_checked_before_anything_is_loaded(
    bench: Bench, coco: Path, loads: list, tmp_path: Path
) -> None:
    assert bench("accuracy", "instances", coco, "-b", "x", "--json", tmp_path).exit_code == 2
    assert loads == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_examples_and_the_shared_flags(command: str, bench: Bench) -> None:
    text = re.sub(r"\s+", " ", bench("accuracy", command, "--help").stdout)
    assert f"samclip-bench accuracy {command} path/to/" in text.partition("Examples:")[2]
    flags = ("--bundle", "--backend", "--threads", "--limit", "--json", "--debug")
    assert [flag for flag in flags if flag not in text] == []


def test_version_and_overview(bench: Bench) -> None:
    assert bench("--version").stdout.startswith("samclip ")
    overview = bench("accuracy", "--help").stdout
    assert all(command in overview for command in COMMANDS)


def test_what_a_folder_leaves_out_is_said_and_counted(
    bench: Bench, loads: list, report: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    save(stripes(0), folder / "n00000001_red.png")
    (folder / "notes.txt").write_text("no photo")
    result = bench("accuracy", "images", folder, "-b", "x", "--json", report)
    assert result.exit_code == 0, result.stderr
    assert "files that are not images: 1 (notes.txt)" in result.stderr
    assert read(report)["data"]["left_out"] == {"files that are not images": 1}


@pytest.mark.parametrize(
    "arguments",
    [
        ("accuracy", "instances", "https://example.com/coco"),
        ("latency", "--photos", "https://example.com/coco"),
        ("compare", "https://example.com/coco", "b.json"),
        ("report", "https://example.com/coco"),
    ],
)
def test_an_address_keeps_its_text(bench: Bench, arguments: tuple[str, ...]) -> None:
    result = bench(*arguments)
    assert result.exit_code == 2
    assert "https://example.com/coco" in re.sub(r"[^!-~]", "", result.stderr)
    assert "Download it first" in " ".join(re.sub(r"[^ -~]", " ", result.stderr).split())
