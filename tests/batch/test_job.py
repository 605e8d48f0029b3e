"""Jobs in this process: rows of every task, errors as rows, and folders that a job goes on with."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import fake_manifest
from recorded_progress import RecordedProgress

import samclip
from samclip.batch import annotator, shards
from samclip.batch.job import InProcess, Job, Summary, run_job
from samclip.batch.questions import Question
from samclip.batch.sources import list_items
from samclip.disk.partial_files import Lock
from samclip.errors import (
    BatchError,
    CapabilityError,
    EngineRunError,
    InputError,
    SamclipError,
    VocabularyError,
)
from samclip.runtime.pixels.mask_ops import encode_rle

pa = pytest.importorskip("pyarrow", reason="needs samclip[batch]")
pq = pytest.importorskip("pyarrow.parquet")
NAMES = ("a cup", "a cat", "a dog")
EVERYTHING = {"points_per_side": 2}


def run(
    source: Path, out: Path, bundle: Path, question: Question | None = None, **options: Any
) -> Summary:
    job = Job(question or Question(names=NAMES), {"name_or_path": bundle, "backend": "onnxruntime"})
    runner = options.pop("runner", InProcess())
    return run_job(job, list_items([source]), out, runner, **options)


def rows(out: Path) -> dict[str, dict[str, Any]]:
    """The rows of a folder by key, as any reader of parquet data sets finds them."""
    found = pq.ParquetDataset(out).read().to_pylist()
    assert max(Counter(row["key"] for row in found).values(), default=1) == 1
    return {row["key"]: row for row in found}


def test_rows_have_the_numbers_of_the_api(
    photos: Path, tmp_path: Path, coloured_bundle: Path
) -> None:
    question = Question(
        tasks=("classify", "embed", "everything", "semantic"),
        names=NAMES,
        templates="a photo of {}.",
        top=2,
        options={"everything": EVERYTHING, "semantic": {"background": 0.4}},
    )
    progress = RecordedProgress()
    summary = run(photos, tmp_path / "out", coloured_bundle, question, progress=progress)
    assert (summary.images, summary.done_before, summary.errors, summary.files) == (5, 0, 2, 1)
    found = rows(tmp_path / "out")
    assert {key for key, row in found.items() if row["error"]} == {"cut.png", "text.jpg"}
    for key in ("cut.png", "text.jpg"):
        assert found[key]["error_type"] == "ImageError"
        assert found[key]["names"] is found[key]["masks"] is found[key]["embedding"] is None
        assert found[key]["file_size"] == (photos / key).stat().st_size
    with (
        samclip.load(coloured_bundle, "onnxruntime") as model,
        model.encode(photos / "red.png") as scene,
    ):
        row = found["red.png"]
        best = scene.classify(NAMES, "a photo of {}.")
        assert list(zip(row["names"], row["probabilities"], strict=True)) == best.top(2)
        assert (row["width"], row["height"], row["error_type"]) == (30, 20, None)
        assert np.array_equal(
            np.float32(row["embedding"]), scene.image_embed / np.linalg.norm(scene.image_embed)
        )
        masks = scene.everything(NAMES, "a photo of {}.", **EVERYTHING)
        assert len(row["masks"]) == len(masks) > 0
        for index, mask in enumerate(row["masks"]):
            assert mask["segmentation"] == encode_rle(masks.masks[index])
            assert mask["box"] == masks.boxes[index].tolist()
            assert mask["name"] == masks.names[index]
            assert np.float32(mask["score"]) == masks.confidences[index]
        labels = scene.semantic(NAMES, "a photo of {}.", background=0.4)
        assert [each["name"] for each in row["classes"]] == list(labels.present)
        for each in row["classes"]:
            assert each["area"] == labels.mask(each["name"]).sum()
    metadata = pq.read_schema(tmp_path / "out" / "part-000000.parquet").metadata
    assert metadata[b"samclip.version"].decode() == samclip.__version__
    assert json.loads(metadata[b"samclip.job"])["names"] == list(NAMES)
    assert (
        metadata[b"samclip.manifest_sha256"].decode()
        in (coloured_bundle / "manifest.sha256").read_text()
    )


class Stops(InProcess):
    """Answers `count` images and then fails, or is interrupted."""

    def __init__(self, count: int, error: BaseException) -> None:
        self.count, self.error = count, error

    def run(self, job: Job, listing: Any, items: Sequence[Any]) -> Iterator[Any]:
        yield from super().run(job, listing, items[: self.count])
        raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BatchError("x"), OSError("x")])
def test_a_job_that_stopped_goes_on_where_it_was(
    error: BaseException, photos: Path, tmp_path: Path, coloured_bundle: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(type(error)):
        run(photos, out, coloured_bundle, runner=Stops(3, error), rows_per_file=2)
    first = {path: path.read_bytes() for path in out.glob("*.parquet")}
    assert len(first) == 2
    assert list(rows(out)) == ["blue.png", "cut.png", "green.png"]
    (out / ".part-000002.parquet.0123456789abcdef.partial").touch()  # of a killed process
    progress = RecordedProgress()
    summary = run(photos, out, coloured_bundle, progress=progress)
    assert (summary.done_before, summary.errors, summary.files) == (3, 2, 1)
    assert progress.events[0] == ("begin", "images", 5, 3)
    assert sum(event[0] == "step" for event in progress.events) == 2
    assert all(path.read_bytes() == data for path, data in first.items())
    assert len(rows(out)) == 5
    assert not list(out.glob("*.partial"))
    again = run(photos, out, coloured_bundle)
    assert (again.done_before, again.files) == (5, 0)


def test_images_that_failed_are_answered_again_on_request(
    photos: Path, tmp_path: Path, coloured_bundle: Path
) -> None:
    out = tmp_path / "out"
    run(photos, out, coloured_bundle, rows_per_file=1)
    (photos / "cut.png").write_bytes((photos / "red.png").read_bytes())
    assert run(photos, out, coloured_bundle).files == 0
    summary = run(photos, out, coloured_bundle, retry_errors=True)
    assert (summary.done_before, summary.errors, summary.files) == (3, 1, 1)
    found = rows(out)
    assert found["cut.png"]["sha256"] == found["red.png"]["sha256"]
    assert found["text.jpg"]["error_type"] == "ImageError"


def test_a_folder_of_another_job_is_refused(
    photos: Path, tmp_path: Path, coloured_bundle: Path
) -> None:
    out = tmp_path / "out"
    run(photos, out, coloured_bundle)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    others = (
        (Question(names=("a cup",)), "names: .*a dog.* there, .*a cup.* now"),
        (Question(names=NAMES, top=1), "top: 5 there, 1 now"),
        (Question(names=NAMES, tasks=("embed",)), "tasks: "),
    )
    for question, message in others:
        with pytest.raises(BatchError, match=message):
            run(photos, out, coloured_bundle, question)
    with pytest.raises(BatchError, match=r"bundle: 'coloured' there, 'samclip-tiny' now"):
        run_job(Job(Question(names=NAMES), {}), list_items([photos]), out, InProcess())
    holder = Lock(out / shards.LOCK_NAME)
    try:
        with pytest.raises(BatchError, match="another process writes to"):
            run(photos, out, coloured_bundle)
    finally:
        holder.close()
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    part = out / "part-000000.parquet"
    (out / "part-000001.parquet").write_bytes(part.read_bytes())
    with pytest.raises(BatchError, match="which another file of the folder has too"):
        run(photos, out, coloured_bundle)
    os.truncate(out / "part-000001.parquet", 100)
    with pytest.raises(BatchError, match="Remove it, and its images are answered again"):
        run(photos, out, coloured_bundle)
    (out / shards.JOB_NAME).unlink()
    with pytest.raises(BatchError, match="its job is not known"):
        run(photos, out, coloured_bundle)


def test_two_first_runs_at_once_do_not_disturb_each_other(
    photos: Path, tmp_path: Path, coloured_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run makes the file of the lock just before this one does."""
    real = shards.make_empty_file

    def late() -> Callable[[Path], None]:
        def make(path: Path) -> None:
            real()(path)
            real()(path)

        return make

    monkeypatch.setattr(shards, "make_empty_file", late)
    assert run(photos, tmp_path / "out", coloured_bundle).images == 5


def test_only_a_run_of_failures_that_no_image_is_to_blame_for_ends_a_job(
    photos: Path, tmp_path: Path, coloured_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotator, "FAILURES_IN_A_ROW", 3)
    answer = Question.answer
    broken = ["green"]

    def fail(self: Question, scene: Any, names: Any) -> dict[str, Any]:
        red, green, _ = scene.image[0, 0]
        if ("green" in broken and green) or ("red" in broken and red):
            raise EngineRunError("the device is gone")
        return answer(self, scene, names)

    monkeypatch.setattr(Question, "answer", fail)
    out = tmp_path / "out"
    assert run(photos, out, coloured_bundle).errors == 3
    assert rows(out)["green.png"]["error"] == "the device is gone"
    for name in "abcd":
        (photos / f"{name}.png").write_bytes((photos / "red.png").read_bytes())
    broken.append("red")
    with pytest.raises(EngineRunError, match="the device is gone"):
        run(photos, out, coloured_bundle)
    broken.clear()
    assert run(photos, out, coloured_bundle, retry_errors=True).errors == 2
    assert len(rows(out)) == 9


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"tasks": ("clasify",)}, InputError),
        ({"tasks": "embed"}, InputError),
        ({"names": "a cup"}, InputError),
        ({"tasks": ("segment", "everything")}, InputError),
        ({"tasks": ("semantic",)}, VocabularyError),
        ({"options": {"crop": {}}}, InputError),
    ],
)
def test_questions_that_make_no_sense_are_refused(
    given: dict[str, Any], error: type[SamclipError]
) -> None:
    with pytest.raises(error):
        Question(**given)


def test_a_bundle_that_cannot_answer_is_refused_before_the_first_image() -> None:
    mute = fake_manifest(clip=False)
    for question in (Question(), Question(tasks=("everything",), names=NAMES)):
        with pytest.raises(CapabilityError, match="no CLIP head, so it cannot answer"):
            question.check(mute)
    Question(tasks=("everything",)).check(mute)
    with pytest.raises(CapabilityError, match="no text, so it cannot answer names"):
        Question(names=NAMES).check(fake_manifest(text=False))
