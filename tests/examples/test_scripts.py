"""The example scripts and notebooks, run on packaged photos with samclip-tiny."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from pycocotools import mask as coco_mask
from tree import ROOT, load_script

from samclip.runtime.assets import packaged_photos

EXAMPLES = ROOT / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
TESTED = {
    "camera_loop.py", "detector_boxes.py", "folder_to_coco.py", "own_vocabulary.py",
    "two_answers.py",
    "service.py",  # tests/examples/test_service.py
    "triton_client.py",  # tests/triton_repository/test_server.py
}  # fmt: skip
CUP = (172, 17, 410, 308)  # XYXY in coffee.jpg


def run(name: str, *arguments: str | Path) -> None:
    """Run the `main` of a script of `examples/`."""
    module = load_script(EXAMPLES / name)
    module.main([str(argument) for argument in arguments])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two photos."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("chelsea.jpg", "coffee.jpg"):
        shutil.copy(packaged_photos() / name, folder)
    return folder


def test_every_script_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == TESTED


def test_camera_loop_over_a_folder_and_a_video(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = tmp_path / "drawn"
    run("camera_loop.py", photos, "--names", "a cat,a cup of coffee", "--output", drawn)
    lines = capsys.readouterr().out.splitlines()
    assert ["a cat" in lines[0], "a cup of coffee" in lines[1], len(lines)] == [True, True, 2]
    assert sorted(path.name for path in drawn.iterdir()) == ["000000.png", "000001.png"]

    video = tmp_path / "video.avi"
    frame = cv2.imread(str(packaged_photos() / "coffee.jpg"))
    assert frame is not None
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 5, frame.shape[1::-1])
    for _ in range(3):
        writer.write(frame)
    writer.release()
    run("camera_loop.py", video, "--names", "a cat,a cup of coffee", "--limit", "1")
    (line,) = capsys.readouterr().out.splitlines()
    assert "a cup of coffee" in line
    with pytest.raises(SystemExit, match="neither a folder nor a video"):
        run("camera_loop.py", photos / "nothing.mp4")


def test_detector_boxes_become_named_masks(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x0, y0, x1, y1 = CUP
    boxes = [
        {"file_name": "coffee.jpg", "bbox": [x0, y0, x1 - x0, y1 - y0], "score": 0.9},
        {"file_name": "coffee.jpg", "bbox": [0, 0, 50, 50], "score": 0.1},  # left out
    ]
    (tmp_path / "detections.json").write_text(json.dumps(boxes))
    masks = tmp_path / "masks"
    run("detector_boxes.py", photos, tmp_path / "detections.json", "--names", "cup,cat",
        "--output", masks)  # fmt: skip
    assert capsys.readouterr().out == "coffee.jpg: 1 masks, cup\n"
    (file,) = masks.iterdir()
    mask = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    assert mask is not None
    inside = mask[y0:y1, x0:x1] > 0
    assert (mask > 0).sum() == pytest.approx(inside.sum(), rel=0.05)  # it stays in its box
    assert inside.mean() > 0.5


def test_a_folder_becomes_a_coco_file(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"no photo")
    target = tmp_path / "annotations.json"
    run("folder_to_coco.py", photos, target, "--names", "cat,cup", "--points", "3", "--least", "0")
    coco = json.loads(target.read_text())
    assert [image["file_name"] for image in coco["images"]] == ["chelsea.jpg", "coffee.jpg"]
    assert {one["name"] for one in coco["categories"]} == {"cat", "cup"}
    first = coco["annotations"][0]
    assert coco_mask.area(first["segmentation"]) == first["area"]


def test_own_vocabulary_counts_synonyms(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.txt").write_text("drink; cup of coffee\nanimal; cat\n\nrocket\n")
    run("own_vocabulary.py", tmp_path / "labels.txt", *sorted(photos.iterdir()))
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("chelsea.jpg: animal ")
    assert second.startswith("coffee.jpg: drink ")


def test_two_answers_take_one_pass(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = tmp_path / "answers"
    run("two_answers.py", photos / "coffee.jpg", "290", "150", "--names", "cup,cat",
        "--output", answers)  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert (lines[0], lines[-1]) == ("at the point: cup", "encoder passes: 1")
    pictures = [cv2.imread(str(answers / name)) for name in ("masks.png", "labels.png")]
    assert all(picture is not None and np.ptp(picture) > 0 for picture in pictures)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_run_and_hold_no_outputs(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # raises CellExecutionError for the first cell that fails
    kinds = {kind for cell in code for output in cell.outputs for kind in output.get("data", {})}
    assert kinds >= {"text/plain"} | ({"image/png"} if path.name == "first_steps.ipynb" else set())
