"""`samclip watch` and `samclip demo --video`: lines, JSON, videos, and what is refused."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_fakes import Run
from stream_server import write_video
from tree import ROOT
from watch_fakes import SquareModel, square

from samclip.runtime.assets import packaged_clip
from samclip.video.stream import open_video
from samclip.video.writer import VideoWriter

SUPPORT = ROOT / "tests" / "support"


class CommandModel(SquareModel):
    """The model that `samclip.load` returns, for whatever bundle it is."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[object] = []

    def load(self, bundle: object, **_: object) -> CommandModel:
        self.loaded.append(bundle)
        return self

    def __enter__(self) -> CommandModel:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def squares(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CommandModel:
    model = CommandModel()
    monkeypatch.setattr("samclip.load", model.load)
    monkeypatch.chdir(tmp_path)
    return model


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Ten frames of a square that moves, 64x48, in 0.4 seconds."""
    path = tmp_path / "in.mp4"
    with VideoWriter(path, 25) as writer:
        for step in range(10):
            writer.write(square(4 + 2 * step, 10), step / 25)
    return path


def test_a_line_for_each_frame(run: Run, squares: CommandModel, clip: Path) -> None:
    result = run("watch", clip, "--names", "cup", "--every", 2)
    assert result.exit_code == 0, result.stderr
    *lines, last = result.stdout.splitlines()
    assert [line.split(" s ")[0].strip() for line in lines] == [
        "0.00",
        "0.08",
        "0.16",
        "0.24",
        "0.32",
    ]
    assert all(line.endswith(": #1 cup") for line in lines)
    assert last.startswith("5 frames answered, ")
    assert "5 skipped" in last


def test_json_has_a_document_for_each_frame(run: Run, squares: CommandModel, clip: Path) -> None:
    result = run("watch", clip, "--json", "--box", "4,10,16,22", "--limit", 3)
    assert result.exit_code == 0, result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["frame"] for record in records] == [0, 1, 2]
    assert [[mask["track"] for mask in record["masks"]] for record in records] == [[1]] * 3
    assert records[0]["size"] == [48, 64]
    assert records[0]["input_size"] == [64, 64]
    assert squares.asked == [{"boxes": [(4.0, 10.0, 16.0, 22.0)]}]


def test_a_budget_takes_bundles_with_smaller_inputs(
    run: Run, squares: CommandModel, clip: Path
) -> None:
    smaller = ("--smaller", "tiny-512", "--smaller", "tiny-256")
    result = run("watch", clip, "--budget-ms", 60_000, *smaller, "--limit", 2)
    assert result.exit_code == 0, result.stderr
    assert squares.loaded == [None, "tiny-512", "tiny-256"]
    refused = run("watch", clip, *smaller)
    assert refused.exit_code == 2 and "budget_ms" in refused.stderr


def test_the_video_has_every_answer_at_its_time(
    run: Run, squares: CommandModel, clip: Path, tmp_path: Path
) -> None:
    result = run("watch", clip, "--output", "out.mp4", "--every", 3)
    assert result.exit_code == 0, result.stderr
    assert "video: out.mp4" in result.stdout
    with open_video(tmp_path / "out.mp4") as stream:
        frames = list(stream)
    assert [frame.time for frame in frames] == pytest.approx([0, 0.12, 0.24, 0.36], abs=0.002)
    assert frames[0].image.shape == (48, 64, 3)
    assert not np.array_equal(frames[0].image, square(4, 10))  # masks are drawn


def test_a_data_set_of_the_frames_has_their_tracks(
    run: Run, squares: CommandModel, clip: Path, tmp_path: Path
) -> None:
    from pycocotools.coco import COCO

    options = ("--names", "cup", "--every", 3, "--save", "coco", "--save-to", "frames")
    result = run("watch", clip, *options)
    assert result.exit_code == 0, result.stderr
    assert "coco data set: frames" in result.stdout
    with contextlib.redirect_stdout(io.StringIO()):
        read = COCO(tmp_path / "frames" / "annotations.json")
    images = read.loadImgs(read.getImgIds())
    assert [image["file_name"] for image in images] == [
        f"{number:06d}.jpg" for number in (0, 3, 6, 9)
    ]
    assert {(image["height"], image["width"]) for image in images} == {(48, 64)}
    found = read.loadAnns(read.getAnnIds())
    assert [annotation["track_id"] for annotation in found] == [1] * 4
    lefts = [annotation["bbox"][0] for annotation in found]
    assert lefts == sorted(lefts) and lefts[0] < lefts[-1]  # the square moves
    assert [category["name"] for category in read.loadCats(read.getCatIds())] == ["cup"]
    again = run("watch", clip, *options)
    assert again.exit_code != 0 and "frames" in again.stderr  # nothing is replaced


def test_a_data_set_for_labelme_has_frames_and_tracks(
    run: Run, squares: CommandModel, clip: Path, tmp_path: Path
) -> None:
    result = run("watch", clip, "--names", "cup", "--limit", 2, "--save", "labelme", "--json")
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.splitlines()) == 2
    folder = tmp_path / "samclip-labelme"
    for number in range(2):
        document = json.loads((folder / f"{number:06d}.json").read_text("utf-8"))
        (shape,) = document["shapes"]
        assert (shape["label"], shape["group_id"]) == ("cup", 1)
        assert (folder / document["imagePath"]).is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gone.mp4"], "there is no file"),
        (["in.mp4", "--save", "cocoa"], "coco"),
        (["in.mp4", "--save-to", "frames"], "needs a format"),
        (["in.mp4", "--output", "out.png"], ".mp4"),
        (["in.mp4", "--output", "no/out.mp4"], "no folder"),
        (["in.mp4", "--point", "1,1", "--label", "3"], "--label"),
        (["in.mp4", "--box", "4,10,16,22", "--points-per-side", "4"], "points_per_side"),
    ],
)
def test_what_is_refused(
    run: Run, squares: CommandModel, clip: Path, arguments: list[str], words: str
) -> None:
    result = run("watch", *arguments)
    assert result.exit_code != 0
    assert words in " ".join(result.stderr.split())
    assert sorted(path.name for path in clip.parent.iterdir()) == ["in.mp4"]


def test_show_without_windows_says_what_to_install(
    run: Run, squares: CommandModel, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    def imshow(*_: object) -> None:
        raise cv2.error("no windows")

    monkeypatch.setattr(cv2, "imshow", imshow)
    result = run("watch", clip, "--show")
    assert result.exit_code == 1
    assert "opencv-python" in result.stderr


def test_the_window_ends_at_a_key(
    run: Run, squares: CommandModel, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    shown = []
    monkeypatch.setattr(cv2, "imshow", lambda _, picture: shown.append(picture.shape))
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord("q") if len(shown) == 4 else -1)
    result = run("watch", clip, "--show")
    assert result.exit_code == 0, result.stderr
    assert shown == [(48, 64, 3)] * 4


def test_the_demo_follows_the_cup_of_the_packaged_clip(
    run: Run, squares: CommandModel, tmp_path: Path
) -> None:
    result = run("demo", "--video", "--json")
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.splitlines()) == 24
    assert squares.asked == [{"boxes": ((172.0, 17.0, 410.0, 308.0),)}]
    assert run("demo", "--video", "photo.jpg").exit_code == 2
    assert packaged_clip().stat().st_size < 2**20


WATCH = """
import sys
sys.path[:0] = {paths!r}
import samclip
from watch_fakes import SquareModel

class Model(SquareModel):
    def __enter__(self): return self
    def __exit__(self, *exception): pass

samclip.load = lambda *_, **__: Model(encode_seconds=0.05)
from samclip.cli.main import app
app(["watch", {clip!r}, "--output", "out.mp4"])
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_video_is_whole_or_absent_however_the_process_ends(
    stop: int, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    long = write_video(tmp_path_factory.mktemp("long") / "in.mp4", [200] * 2000)
    code = WATCH.format(paths=[str(SUPPORT)], clip=str(long))
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        for _ in range(12):
            assert b"frame" in process.stdout.readline()
        process.send_signal(stop)
        process.stdout.read()
        ended = process.wait(60)
    if stop == signal.SIGKILL:
        assert not (tmp_path / "out.mp4").exists()
        return
    assert ended == 128 + stop
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    with open_video(tmp_path / "out.mp4") as stream:
        assert len(list(stream)) >= 12


def test_what_a_killed_run_left_is_removed_by_the_next(
    run: Run, squares: CommandModel, clip: Path, tmp_path: Path
) -> None:
    left = tmp_path / f".out.mp4.{'0' * 16}.partial"
    left.mkdir()
    (left / "whole").write_bytes(b"x")
    assert run("watch", clip, "--output", "out.mp4").exit_code == 0
    assert not left.exists()
